import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockCache } from './block-cache.ts';

describe('BlockCache', () => {
  it('hands out every block once, then none', () => {
    const cache = new BlockCache(3);
    expect([cache.allocate(), cache.allocate(), cache.allocate(), cache.allocate()]).toEqual([0, 1, 2, undefined]);
    expect(cache.held).toBe(3);
  });

  it('keeps a named block until its memory is needed, and evicts the one released longest ago', () => {
    const cache = new BlockCache(2);
    const first = cache.allocate()!;
    const second = cache.allocate()!;
    cache.name(first, 101);
    cache.name(second, 102);
    cache.release(second);
    cache.release(first);
    expect(cache.held).toBe(0);
    expect(cache.available).toBe(2);
    expect(cache.cached).toBe(2);

    expect(cache.allocate()).toBe(second);
    expect(cache.find(102)).toBeUndefined();
    expect(cache.find(101)).toBe(first);
    expect(cache.evictions).toBe(1);
  });

  it('spares a block that was taken up again', () => {
    const cache = new BlockCache(2);
    const blocks = [cache.allocate()!, cache.allocate()!];
    cache.name(blocks[0]!, 101);
    cache.name(blocks[1]!, 102);
    blocks.forEach((block) => cache.release(block));
    cache.hold(blocks[0]!);
    expect(cache.isIdle(blocks[0]!)).toBe(false);
    expect(cache.allocate()).toBe(blocks[1]);
    expect(cache.allocate()).toBeUndefined();
    // Two holders would be needed to keep it; one release makes it evictable again, and newest.
    cache.release(blocks[0]!);
    expect(cache.find(101)).toBe(blocks[0]);
    expect(cache.available).toBe(1);
  });

  it('keeps one copy under a name; an unnamed block leaves nothing behind', () => {
    const cache = new BlockCache(2);
    const original = cache.allocate()!;
    const copy = cache.allocate()!;
    cache.name(original, 101);
    cache.name(copy, 101);
    expect(cache.find(101)).toBe(original);
    cache.release(copy);
    expect(cache.cached).toBe(1);
    expect(cache.allocate()).toBe(copy);
    expect(cache.evictions).toBe(0);
  });

  it('refuses a release too many', () => {
    const cache = new BlockCache(1);
    const block = cache.allocate()!;
    cache.release(block);
    expect(() => cache.release(block)).toThrow('released more often than held');
  });

  it('agrees with a plain model under any sequence of calls', () => {
    const blocks = 5;
    const command = fc.record({ kind: fc.constantFrom('allocate', 'find', 'release'), pick: fc.nat(1000), hash: fc.integer({ min: 1, max: 8 }) });
    fc.assert(
      fc.property(fc.array(command, { maxLength: 200 }), (commands) => {
        const cache = new BlockCache(blocks);
        const held: number[] = []; // one entry per reference
        const names = new Map<number, number>(); // hash → block
        let order: number[] = []; // hashes nobody holds, oldest release first
        for (const { kind, pick, hash } of commands) {
          if (kind === 'allocate') {
            const evicts = new Set(held).size + order.length === blocks;
            const block = cache.allocate();
            if (new Set(held).size === blocks) {
              expect(block).toBeUndefined();
              continue;
            }
            expect(held).not.toContain(block);
            if (evicts) {
              expect(block).toBe(names.get(order[0]!));
              names.delete(order.shift()!);
            }
            held.push(block!);
            cache.name(block!, hash);
            if (!names.has(hash)) names.set(hash, block!);
          } else if (kind === 'find') {
            const block = cache.find(hash);
            expect(block).toBe(names.get(hash));
            if (block === undefined) continue;
            expect(cache.isIdle(block)).toBe(order.includes(hash));
            cache.hold(block);
            held.push(block);
            order = order.filter((idle) => idle !== hash);
          } else if (held.length > 0) {
            const [block] = held.splice(pick % held.length, 1);
            cache.release(block!);
            const name = [...names].find(([, named]) => named === block)?.[0];
            if (!held.includes(block!) && name !== undefined) order.push(name);
          }
          expect(cache.held).toBe(new Set(held).size);
          expect(cache.available).toBe(blocks - cache.held);
          expect(cache.cached).toBe(names.size);
        }
      }),
    );
  });
});
