import { describe, expect, it } from 'vitest';
import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import { byScore } from './by-score.ts';

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
