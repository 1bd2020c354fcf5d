import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import { bestMax } from '../core/policy.ts';
import { bestByScore, byScore } from './by-score.ts';

const endpoints = Array.from({ length: 10 }, (_, i) => ({ address: String(i) }) as EndpointSnapshot);

function order(scores: readonly number[], draw: number): string {
  return byScore(endpoints.slice(0, scores.length), scores, draw)
    .map(({ address }) => address)
    .join('');
}

describe('byScore', () => {
  it.each([
    [[0.1, 0.9, 0.5], 0, '120'],
    [[0.1, 0.9, 0.5], 0.99, '120'],
    [[1, 1, 1, 1], 0, '0123'],
    [[1, 1, 1, 1], 0.25, '1230'],
    [[1, 1, 1, 1], 0.999999, '3012'],
    [[0.5], 0.7, '0'],
    [[], 0.7, ''],
  ])('%j, drawn %d: %s', (scores, draw, expected) => {
    expect(order(scores, draw)).toBe(expected);
  });

  it('gives each of the best its share of draws when all are equal', () => {
    const firsts = new Map<string, number>();
    for (let i = 0; i < 1_000; i += 1) {
      const first = order(new Array<number>(10).fill(1), (i + 0.5) / 1_000)[0]!;
      firsts.set(first, (firsts.get(first) ?? 0) + 1);
    }
    expect([...firsts.values()]).toEqual(new Array<number>(10).fill(100));
  });

  it('gives each of the best its share of draws when some are equal', () => {
    const firsts = new Map<string, number>();
    for (let i = 0; i < 1_000; i += 1) {
      const first = order([1, 1, ...new Array<number>(8).fill(0.5)], (i + 0.5) / 1_000)[0]!;
      firsts.set(first, (firsts.get(first) ?? 0) + 1);
    }
    expect(firsts).toEqual(new Map([['0', 500], ['1', 500]]));
  });
});

describe('bestByScore', () => {
  it('finds what comes first when all are ordered, however many are equal', () => {
    const score = fc.oneof(fc.constantFrom(0, -0, 1, 0.5, -3, Infinity, -Infinity), fc.double({ noNaN: true }));
    const draw = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    fc.assert(
      fc.property(fc.array(score, { maxLength: 60 }), draw, (scores, at) => {
        const all = scores.map((_, i) => ({ address: String(i) }) as EndpointSnapshot);
        expect(bestByScore(all, scores, at)).toEqual(byScore(all, scores, at).slice(0, bestMax));
      }),
    );
  });

  it('takes a score that is missing for 0, as the order does', () => {
    expect(bestByScore(endpoints, [-1], 0.3)).toEqual(byScore(endpoints, [-1], 0.3).slice(0, bestMax));
  });
});
