import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import { weightedLeastRequests } from './weighted-least-requests.ts';

const rate = (...endpoints: [requests: number, weight: number][]): readonly number[] => {
  const candidates = endpointsOf(...endpoints.map(([requests, weight]) => ({ requests, weight })));
  return weightedLeastRequests.create({})(candidates, inputFor(candidates));
};

describe('weighted-least-requests', () => {
  it.each<[[number, number][], number[]]>([
    [[[7, 3]], [1]],
    [[[0, 1], [0, 1]], [1, 1]],
    [[[0, 1], [1, 1], [3, 1]], [1, 1 / 2, 1 / 4]],
    // Of two idle ones the stronger: this request takes less of it.
    [[[0, 1], [0, 4]], [1 / 4, 1]],
    // 8 on one of four times the weight are as many as 2 on another, each with one more.
    [[[1, 1], [7, 4]], [1, 1]],
    [[[2, 1], [7, 4]], [2 / 3, 1]],
    [[[0, 0.5], [0, 1]], [1 / 2, 1]],
  ])('%j: %j', (endpoints, ratings) => {
    expect(rate(...endpoints)).toEqual(ratings);
  });

  it('fills unequal endpoints by weight', () => {
    const weights = [1, 2, 5];
    const requests = [0, 0, 0];
    for (let i = 0; i < 80; i += 1) {
      const ratings = rate(...weights.map((weight, at): [number, number] => [requests[at]!, weight]));
      const best = ratings.indexOf(Math.max(...ratings));
      requests[best] = requests[best]! + 1;
    }
    expect(requests).toEqual([10, 20, 50]);
  });
});
