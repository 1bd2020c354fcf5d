import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { leastTokens } from './least-tokens.ts';

/** Costs behind the ratings: the least is known, the rest follows from rating = (least + 1) / (own + 1). */
function costs(least: number, endpoints: readonly Partial<EndpointSnapshot>[], changes: Partial<DecisionInput> = {}, parameters: object = {}): number[] {
  const candidates = endpointsOf(...endpoints);
  const ratings = leastTokens.create(leastTokens.parameters.parse(parameters))(candidates, inputFor(candidates, { promptTokens: 99, ...changes }));
  expect(Math.max(...ratings)).toBe(1);
  return ratings.map((rating) => Math.round(((least + 1) / rating - 1) * 1e6) / 1e6);
}

const waiting = (uncachedTokensWaiting: number, requestsWaiting = 1): Partial<EndpointSnapshot> => ({ uncachedTokensWaiting, requestsWaiting, requests: requestsWaiting });

describe('least-tokens', () => {
  it('counts what waits and this prompt, not requests', () => {
    expect(costs(99, [{}, waiting(30_000), waiting(500, 5)])).toEqual([99, 30_099, 599]);
  });

  it('counts of this prompt only what is not cached', () => {
    const [cached, other] = endpointsOf({}, {});
    expect(costs(9, [{}, {}], { cachedTokens: new Map([[cached!.address, 90]]) })).toEqual([9, 99]);
    expect(costs(0, [{}, {}], { cachedTokens: new Map([[other!.address, 1_000]]) })).toEqual([99, 0]);
  });

  it('counts requests that decode at what they hold up', () => {
    expect(costs(99, [{}, { requests: 10 }, { requests: 10, requestsWaiting: 4, uncachedTokensWaiting: 1_000 }])).toEqual([99, 549, 1_369]);
    expect(costs(99, [{}, { requests: 10 }], {}, { decodingTokens: 7 })).toEqual([99, 169]);
    // Counts of several routers may disagree for a moment.
    expect(costs(99, [{}, { requests: 1, requestsWaiting: 3 }])).toEqual([99, 99]);
  });

  it('divides by weight', () => {
    expect(costs(100, [waiting(901), { ...waiting(901), weight: 10 }, { weight: 0.5 }])).toEqual([1_000, 100, 198]);
  });

  it('lets the clock drain what is first in line, not the rest', () => {
    const busy = { ...waiting(10_000, 2), headTokens: 4_000, headSinceMs: 1_000 };
    expect(costs(99, [{}, busy], { nowMs: 1_000 })).toEqual([99, 10_099]);
    expect(costs(99, [{}, busy], { nowMs: 1_020 })).toEqual([99, 9_199]);
    expect(costs(99, [{}, busy], { nowMs: 1_020 }, { tokensPerMs: 100 })).toEqual([99, 8_099]);
    expect(costs(99, [{}, busy], { nowMs: 1e9 })).toEqual([99, 6_499]);
  });

  it('rates an idle fleet and a prompt of nothing alike', () => {
    expect(costs(0, [{}, {}], { promptTokens: 0 })).toEqual([0, 0]);
  });
});
