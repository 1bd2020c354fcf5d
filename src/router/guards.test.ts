import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../core/fleet-snapshot.ts';
import type { DecisionInput } from '../core/policy.ts';
import { noFacts, type RequestFacts } from '../core/request-facts.ts';
import { createDeadlineGuard, createResidencyGuard, createSaturationGuard } from './guards.ts';

function endpoint(more: Partial<EndpointSnapshot> = {}): EndpointSnapshot {
  return { ...idleEndpoint('10.0.0.1:80'), ...more };
}

function input(facts: Partial<RequestFacts> = {}, more: Partial<DecisionInput> = {}): DecisionInput {
  return {
    facts: { ...noFacts, ...facts },
    pool: { name: 'chat', endpoints: [] },
    affinityKey: undefined,
    placedOn: undefined,
    promptTokens: 1_000,
    cachedTokens: new Map(),
    nowMs: 0,
    draw: 0.5,
    sequence: 0,
    ...more,
  };
}

describe('residency', () => {
  const guard = createResidencyGuard({
    label: 'region',
    allowed: (tenant) => (tenant === 'free' ? undefined : new Set(tenant === 'both' ? ['eu', 'us'] : ['eu'])),
  });

  it.each([
    ['eu', undefined, undefined],
    ['us', undefined, 'outside-residency'],
    ['us', 'both', undefined],
    ['us', 'free', undefined],
    ['eu-west', undefined, 'outside-residency'],
  ])('an endpoint in %s for tenant %s: %s', (region, tenant, reason) => {
    expect(guard.run(endpoint({ labels: { region } }), input({ tenant }))).toBe(reason);
  });

  it('an endpoint that does not say where it is is outside', () => {
    expect(guard.run(endpoint(), input())).toBe('outside-residency');
    expect(createResidencyGuard({ label: 'constructor', allowed: () => new Set(['eu']) }).run(endpoint(), input())).toBe('outside-residency');
  });
});

describe('saturation', () => {
  const guard = createSaturationGuard({ waitingTokensMax: 1_000, tokensPerMs: 1 });

  it.each([
    [-2, 249, undefined],
    [-2, 250, 'saturated'],
    [-1, 499, undefined],
    [-1, 500, 'saturated'],
    [0, 999, undefined],
    [0, 1_000, 'saturated'],
    [1, 1_999, undefined],
    [1, 2_000, 'saturated'],
    [2, 4_000, 'saturated'],
  ])('priority %d with %d tokens waiting: %s', (priority, uncachedTokensWaiting, reason) => {
    expect(guard.run(endpoint({ uncachedTokensWaiting }), input({ priority }))).toBe(reason);
    // As much per unit of weight.
    expect(guard.run(endpoint({ uncachedTokensWaiting: uncachedTokensWaiting * 3, weight: 3 }), input({ priority }))).toBe(reason);
  });

  it('takes what was done since the last sign of progress off what waits', () => {
    const busy = endpoint({ uncachedTokensWaiting: 1_500, headTokens: 1_500, headSinceMs: 0 });
    expect(guard.run(busy, input({}, { nowMs: 500 }))).toBe('saturated');
    expect(guard.run(busy, input({}, { nowMs: 501 }))).toBeUndefined();
  });

  it.each([
    [0, 7, undefined],
    [-1, 3, undefined],
    [-1, 4, 'reserved'],
    [-2, 2, 'reserved'],
    [5, 100, undefined],
  ])('priority %d with %d of 8 places taken: %s', (priority, requests, reason) => {
    const limited = createSaturationGuard({ waitingTokensMax: undefined, tokensPerMs: 1 });
    expect(limited.run(endpoint({ requestsMax: 8, requests, uncachedTokensWaiting: 1e9 }), input({ priority }))).toBe(reason);
  });
});

describe('deadline', () => {
  const guard = createDeadlineGuard({ tokensPerMs: 10, seesWaiting: true, seesCaches: true });

  it.each([
    [undefined, undefined],
    [100, undefined],
    [99.9, 'too-late'],
    [0, 'too-late'],
    [-5, 'too-late'],
  ])('1000 tokens at 10 a millisecond with %s ms left: %s', (deadlineMs, reason) => {
    expect(guard.run(endpoint(), input({ deadlineMs }))).toBe(reason);
  });

  it('counts what waits, what is cached, and how fast the endpoint is', () => {
    const cachedTokens = new Map([['10.0.0.1:80', 600]]);
    expect(guard.run(endpoint(), input({ deadlineMs: 40 }, { cachedTokens }))).toBeUndefined();
    expect(guard.run(endpoint({ uncachedTokensWaiting: 10 }), input({ deadlineMs: 40 }, { cachedTokens }))).toBe('too-late');
    expect(guard.run(endpoint({ uncachedTokensWaiting: 400, weight: 2 }), input({ deadlineMs: 40 }, { cachedTokens }))).toBeUndefined();
  });

  it('lets nothing count that nobody knows', () => {
    const affinityKey = { id: 'k', high: 1, low: 2 };
    const blind = createDeadlineGuard({ tokensPerMs: 10, seesWaiting: false, seesCaches: false });
    const busy = endpoint({ uncachedTokensWaiting: 1e9 });
    expect(blind.run(busy, input({ deadlineMs: 100 }))).toBeUndefined();
    expect(blind.run(busy, input({ deadlineMs: 99 }))).toBe('too-late');
    // Its prompt may be cached.
    expect(blind.run(busy, input({ deadlineMs: 1 }, { affinityKey }))).toBeUndefined();
    expect(guard.run(busy, input({ deadlineMs: 1 }, { affinityKey }))).toBe('too-late');
  });
});
