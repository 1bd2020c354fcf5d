import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockLru } from './block-lru.ts';

/** The same by a `Map`, which keeps the order of insertion: what an LRU is, without the speed. */
class ModelLru {
  readonly #used = new Map<number, true>();
  readonly #blocksMax: number;

  constructor(blocksMax: number) {
    this.#blocksMax = blocksMax;
  }

  touch(block: number): void {
    this.#used.delete(block);
    this.#used.set(block, true);
    const oldest = this.#used.keys().next();
    if (this.#used.size > this.#blocksMax && oldest.done !== true) this.#used.delete(oldest.value);
  }

  touchAll(blocks: readonly number[]): void {
    for (const block of blocks.slice(0, this.#blocksMax).reverse()) this.touch(block);
  }

  resized(blocksMax: number): ModelLru {
    const resized = new ModelLru(blocksMax);
    for (const block of this.#used.keys()) resized.touch(block);
    return resized;
  }

  has(block: number): boolean {
    return this.#used.has(block);
  }

  get size(): number {
    return this.#used.size;
  }
}

/** Blocks that differ in their high bits only, numbers in a row as traces have them, the largest that prompts give, and where 32 bits end. */
const crowded = Array.from({ length: 40 }, (_, i) => i * 2 ** 47);
const inARow = Array.from({ length: 40 }, (_, i) => i);
const large = Array.from({ length: 40 }, (_, i) => 2 ** 53 - 1 - i);
const signs = [2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 52, 2 ** 53 - 1];

describe('BlockLru', () => {
  it('holds nothing at first', () => {
    const lru = new BlockLru(4);
    expect([lru.size, lru.has(0), lru.has(7), lru.countLeading([0])]).toEqual([0, false, false, 0]);
  });

  it('forgets the least recently touched; looking does not count as use', () => {
    const lru = new BlockLru(3);
    for (const block of [1, 2, 3]) lru.touch(block);
    lru.touch(1);
    expect([lru.has(2), lru.countLeading([2, 3])]).toEqual([true, 2]);
    lru.touch(4);
    expect([1, 2, 3, 4].map((block) => lru.has(block))).toEqual([true, false, true, true]);
    expect(lru.size).toBe(3);
  });

  it('counts the leading blocks, up to the first that is missing', () => {
    const lru = new BlockLru(10);
    lru.touchAll([1, 2, 4, 5]);
    expect(lru.countLeading([1, 2, 3, 4, 5])).toBe(2);
    expect(lru.countLeading([3, 1, 2])).toBe(0);
    expect(lru.countLeading([1, 2, 4, 5])).toBe(4);
    expect(lru.countLeading([])).toBe(0);
  });

  it("forgets a prompt's tail before its head, as engines do: what is left is still a prefix", () => {
    const lru = new BlockLru(6);
    lru.touchAll([1, 2, 3, 4]);
    lru.touchAll([11, 12, 13]);
    expect(lru.countLeading([1, 2, 3, 4])).toBe(3);
    expect(lru.countLeading([11, 12, 13])).toBe(3);
    lru.touchAll([21, 22]);
    expect([lru.countLeading([1, 2, 3, 4]), lru.countLeading([11, 12, 13]), lru.countLeading([21, 22])]).toEqual([1, 3, 2]);
  });

  it('of a prompt longer than itself holds the head', () => {
    const lru = new BlockLru(100);
    lru.touchAll([999]);
    const prompt = Array.from({ length: 250 }, (_, i) => i);
    lru.touchAll(prompt);
    expect([lru.size, lru.countLeading(prompt), lru.has(999)]).toEqual([100, 100, false]);
  });

  it('tells apart blocks that differ in one of 53 bits only', () => {
    const lru = new BlockLru(200);
    const blocks = Array.from({ length: 53 }, (_, bit) => 2 ** bit);
    blocks.forEach((block, i) => {
      expect(blocks.map((other) => lru.has(other))).toEqual(blocks.map((_, j) => j < i));
      lru.touch(block);
    });
    expect(signs.map((block) => lru.has(block))).toEqual([false, true, false, true, false, true, false]);
  });

  it('holds as many as it is told to, whatever the number: no power of two, one, or a great many', () => {
    for (const blocksMax of [1, 2, 63, 64, 65, 100, 1_000, 5_859]) {
      const lru = new BlockLru(blocksMax);
      for (let block = 0; block < 3 * blocksMax; block += 1) lru.touch(block);
      expect([lru.blocksMax, lru.size, lru.has(2 * blocksMax - 1), lru.has(2 * blocksMax), lru.has(3 * blocksMax - 1)]).toEqual([blocksMax, blocksMax, false, true, true]);
    }
  });

  it('takes no memory for what it does not hold', () => {
    // Typed arrays of this size would be refused or fill the machine.
    const lru = new BlockLru(2 ** 40);
    lru.touchAll([1, 2, 3]);
    expect(lru.countLeading([1, 2, 3])).toBe(3);
  });

  it('resized keeps the latest used, and grows from there', () => {
    const lru = new BlockLru(10);
    for (const block of [1, 2, 3, 4, 5, 1]) lru.touch(block);
    const smaller = lru.resized(3);
    expect([1, 2, 3, 4, 5].map((block) => smaller.has(block))).toEqual([true, false, false, true, true]);
    const larger = smaller.resized(4);
    larger.touch(6);
    larger.touch(7);
    expect([1, 4, 5, 6, 7].map((block) => larger.has(block))).toEqual([true, false, true, true, true]);
  });

  it('is a plain LRU, whatever comes: through growth, eviction, removal between colliding blocks, and resizing', () => {
    const block = fc.oneof(fc.constantFrom(...crowded), fc.constantFrom(...inARow), fc.constantFrom(...large), fc.constantFrom(...signs), fc.maxSafeNat());
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('touch' as const), blocks: fc.array(block, { maxLength: 30 }) }) },
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('touchAll' as const), blocks: fc.array(block, { maxLength: 40 }) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('resize' as const), blocksMax: fc.integer({ min: 1, max: 150 }) }) },
    );
    const asked = [...crowded, ...inARow, ...large, ...signs];
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 150 }), fc.array(step, { maxLength: 25 }), (blocksMax, steps) => {
        let lru = new BlockLru(blocksMax);
        let model = new ModelLru(blocksMax);
        for (const it of steps) {
          if (it.kind === 'resize') {
            lru = lru.resized(it.blocksMax);
            model = model.resized(it.blocksMax);
          } else if (it.kind === 'touchAll') {
            lru.touchAll(it.blocks);
            model.touchAll(it.blocks);
          } else {
            for (const one of it.blocks) {
              lru.touch(one);
              model.touch(one);
            }
          }
          expect(lru.size).toBe(model.size);
          const all = it.kind === 'resize' ? asked : [...asked, ...it.blocks];
          expect(all.filter((one) => lru.has(one))).toEqual(all.filter((one) => model.has(one)));
        }
      }),
      { numRuns: 300 },
    );
  });

  it('is a plain LRU in the long run: 20 000 blocks in turn through a table that has to take out as many as it takes in', () => {
    const lru = new BlockLru(777);
    const model = new ModelLru(777);
    let state = 1;
    for (let i = 0; i < 20_000; i += 1) {
      // A Lehmer generator: the same numbers in every run.
      state = (state * 48_271) % 2_147_483_647;
      const block = (state % 1_200) * (i % 3 === 0 ? 1 : 2 ** 21 + 1);
      lru.touch(block);
      model.touch(block);
      if (i % 500 === 0) for (let of = 0; of < 1_200; of += 1) expect(lru.has(of) === model.has(of) && lru.has(of * (2 ** 21 + 1)) === model.has(of * (2 ** 21 + 1))).toBe(true);
    }
    expect(lru.size).toBe(777);
  });
});
