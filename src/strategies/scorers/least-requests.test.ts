import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import { leastRequests } from './least-requests.ts';

const rate = (counts: readonly number[]): readonly number[] => {
  const endpoints = endpointsOf(...counts.map((requests) => ({ requests })));
  return leastRequests.create({})(endpoints, inputFor(endpoints));
};

describe('least-requests', () => {
  it.each([
    [[0], [1]],
    [[7], [1]],
    [[0, 0, 0], [1, 1, 1]],
    [[0, 1, 3], [1, 1 / 2, 1 / 4]],
    [[9, 19, 4], [1 / 2, 1 / 4, 1]],
  ])('%j: %j', (requests, ratings) => {
    expect(rate(requests)).toEqual(ratings);
  });

  it('ranks by requests strictly, however many there are', () => {
    const ratings = rate(Array.from({ length: 200 }, (_, i) => i));
    for (let i = 1; i < ratings.length; i += 1) expect(ratings[i]).toBeLessThan(ratings[i - 1]!);
  });
});
