import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import { weightedRoundRobin } from './weighted-round-robin.ts';

const run = weightedRoundRobin.create({});

/** Indices of who comes first, for these requests. */
function turns(weights: readonly number[], from: number, to: number, draw = 0): number[] {
  const candidates = endpointsOf(...weights.map((weight) => ({ weight })));
  return Array.from({ length: to - from }, (_, i) => candidates.indexOf(run(candidates, [], inputFor(candidates, { sequence: from + i, draw })).order[0]!));
}

const count = (all: readonly number[], one: number): number => all.filter((at) => at === one).length;

describe('weighted-round-robin', () => {
  it('gives each exactly its weight in any run of as many requests as the weights add up to', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 8 }), fc.nat({ max: 1_000_000_000 }), (weights, from) => {
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        const taken = turns(weights, from, from + total);
        expect(weights.map((_, at) => count(taken, at))).toEqual(weights);
      }),
    );
  });

  it('keeps as near to the shares with any weights', () => {
    const weights = [0.3, 1_000, 2.5, 17.25];
    const total = 1_020.05;
    const taken = turns(weights, 0, 4_000);
    let seen = [0, 0, 0, 0];
    taken.forEach((at, k) => {
      seen = seen.map((before, i) => before + (i === at ? 1 : 0));
      seen.forEach((so_far, i) => expect(Math.abs(so_far - ((k + 1) * weights[i]!) / total)).toBeLessThan(3));
    });
  });

  it('interleaves: no more than the share of the heavy one, spread out, in any stretch', () => {
    const taken = turns([8, ...new Array<number>(8).fill(1)], 0, 160);
    // The heavy one has every other turn; a schedule that groups would have runs of 8.
    for (let from = 0; from + 8 <= taken.length; from += 1) {
      const heavy = count(taken.slice(from, from + 8), 0);
      expect(heavy).toBeGreaterThanOrEqual(2);
      expect(heavy).toBeLessThanOrEqual(6);
    }
  });

  it('is round robin where weights are equal', () => {
    for (const weight of [1, 0.1, 7]) {
      const taken = turns(new Array<number>(5).fill(weight), 0, 25);
      expect(new Set(taken.slice(0, 5)).size).toBe(5);
      expect(taken.slice(5)).toEqual(taken.slice(0, 20));
    }
  });

  it('repeats itself, and hangs on nothing but the count of requests', () => {
    const weights = [5, 1, 1];
    const first = turns(weights, 0, 7);
    expect(turns(weights, 7, 14)).toEqual(first);
    expect(turns(weights, 700_000_000, 700_000_007)).toEqual(first);
    expect(turns(weights, 0, 7, 0.9)).toEqual(first);
  });

  it('names next whose turn comes next', () => {
    const candidates = endpointsOf({ weight: 5 }, { weight: 1 }, { weight: 1 });
    const order = (sequence: number): number[] => run(candidates, [], inputFor(candidates, { sequence })).order.map((one) => candidates.indexOf(one));
    const schedule = turns([5, 1, 1], 0, 28);
    for (let k = 0; k < 7; k += 1) {
      // The distinct ones from here on, in the order in which they come up.
      expect(order(k)).toEqual([...new Set(schedule.slice(k))]);
    }
  });

  it('holds for a thousand endpoints', () => {
    const weights = Array.from({ length: 1_000 }, (_, i) => 1 + (i % 3));
    const taken = turns(weights, 123_456, 123_456 + 300);
    // 1 999 turns in a round: none comes up more often in 300 than once in 3/1999 of them, and twice at the seams.
    expect(Math.max(...weights.map((_, at) => count(taken, at)))).toBeLessThanOrEqual(2);
  });
});
