import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockHolders } from './block-holders.ts';

const slots = 5;

const leadingOf = (holders: BlockHolders, blocks: readonly number[]): number[] => {
  const leading = new Float64Array(slots);
  holders.countLeading(blocks, leading, slots);
  return [...leading];
};

describe('BlockHolders', () => {
  it('says who holds the leading blocks of a prompt, and how many', () => {
    const holders = new BlockHolders();
    for (const block of [10, 11, 12]) holders.add(block, 0);
    for (const block of [10, 12]) holders.add(block, 1);
    holders.add(11, 2);
    expect(leadingOf(holders, [10, 11, 12, 13])).toEqual([3, 1, 0, 0, 0]);
    expect(leadingOf(holders, [13, 10])).toEqual([0, 0, 0, 0, 0]);
    expect(leadingOf(holders, [])).toEqual([0, 0, 0, 0, 0]);
    expect([10, 11, 12, 13].map((block) => holders.count(block))).toEqual([2, 2, 2, 0]);
  });

  it('need not be asked who holds what all do, however many slots are nobody’s', () => {
    const holders = new BlockHolders();
    for (const slot of [1, 3]) for (const block of [10, 11, ...(slot === 3 ? [12] : [])]) holders.add(block, slot);
    for (const [prompt, expected] of [
      [[10, 11, 12], [2, 3]],
      [[10, 11], [2, 2]],
      [[12, 10], [0, 1 + 1]],
      [[13, 10], [0, 0]],
    ] as const) {
      const leading = new Float64Array(slots);
      holders.countLeading(prompt, leading, 2);
      expect([leading[1], leading[3]]).toEqual(expected);
    }
    const leading = new Float64Array(slots);
    new BlockHolders().countLeading([10], leading, 0);
    expect([...leading]).toEqual([0, 0, 0, 0, 0]);
  });

  it('keeps to a model of sets, whatever comes and goes', () => {
    // Numbers that meet in a small table, numbers in a row, and the largest there are.
    const block = fc.oneof(fc.nat({ max: 40 }), fc.nat({ max: 40 }).map((n) => n * 0x100000000), fc.constantFrom(2 ** 53 - 1, 2 ** 52));
    const change = fc.record({ block, slot: fc.nat({ max: slots - 1 }), adds: fc.boolean() });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 400 }), fc.array(block, { maxLength: 6 }), (changes, prompt) => {
        const holders = new BlockHolders();
        const model = new Map<number, Set<number>>();
        for (const { block: one, slot, adds } of changes) {
          const held = model.get(one) ?? new Set();
          model.set(one, held);
          if (adds && !held.has(slot)) holders.add(one, slot);
          else if (!adds) holders.remove(one, slot);
          if (adds) held.add(slot);
          else held.delete(slot);
        }
        for (const [one, held] of model) {
          expect(holders.count(one)).toBe(held.size);
          const found: number[] = [];
          holders.forEach(one, (slot) => found.push(slot));
          expect(found.sort()).toEqual([...held].sort());
        }
        expect(holders.size).toBe([...model.values()].filter((held) => held.size > 0).length);
        const expected = Array.from({ length: slots }, (_, slot) => {
          const end = prompt.findIndex((one) => model.get(one)?.has(slot) !== true);
          return end === -1 ? prompt.length : end;
        });
        expect(leadingOf(holders, prompt)).toEqual(expected);
        for (let slot = 0; slot < slots; slot += 1) for (const one of [50, 51]) holders.add(one, slot);
        expect(leadingOf(holders, [50, 51, ...prompt])).toEqual(expected.map((leading) => leading + 2));
      }),
    );
  });

  it('grows to many blocks and forgets them again', () => {
    const holders = new BlockHolders();
    const blocks = Array.from({ length: 5_000 }, (_, i) => i * 7_919);
    for (const block of blocks) for (const slot of [1, 3]) holders.add(block, slot);
    expect(holders.size).toBe(blocks.length);
    expect(leadingOf(holders, blocks)).toEqual([0, 5_000, 0, 5_000, 0]);
    for (const block of blocks) holders.remove(block, 1);
    expect(leadingOf(holders, blocks)).toEqual([0, 0, 0, 5_000, 0]);
    for (const block of blocks) holders.remove(block, 3);
    expect(holders.size).toBe(0);
    expect(leadingOf(holders, blocks)).toEqual([0, 0, 0, 0, 0]);
  });
});
