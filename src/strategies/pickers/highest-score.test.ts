import { describe, expect, it } from 'vitest';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { highestScore } from './highest-score.ts';

const candidates = ['a', 'b', 'c', 'd'].map((address) => ({ address }) as EndpointSnapshot);
const run = highestScore.create({});

function pick(scores: readonly number[], draw: number): string {
  return run(candidates, scores, { draw } as DecisionInput)
    .order.map(({ address }) => address)
    .join('');
}

describe('highest-score', () => {
  it('orders by score whatever is drawn', () => {
    for (let i = 0; i < 100; i += 1) expect(pick([0.2, 0.9, 0.1, 0.5], i / 100)).toBe('bdac');
  });

  it('lets the draw decide among equals, never always the first', () => {
    expect([0, 0.25, 0.5, 0.75].map((draw) => pick([1, 1, 1, 1], draw)[0])).toEqual(['a', 'b', 'c', 'd']);
  });

  it('says what tipped it, and has no home', () => {
    expect(run(candidates, [1, 1, 1, 1], { draw: 0 } as DecisionInput)).toMatchObject({ reason: 'highest-score', home: undefined });
  });
});
