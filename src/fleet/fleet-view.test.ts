import { describe, expect, it } from 'vitest';
import type { EndpointDefinition } from './endpoint.ts';
import { FleetPool, FleetView, type MembershipChange, type PoolDefinition } from './fleet-view.ts';

const define = (address: string): EndpointDefinition => ({ address, weight: 2, labels: { gpu: 'h100' }, requestsMax: 4 });

describe('FleetPool', () => {
  it('sorts by address, whatever order it was configured in', () => {
    const addresses = ['10.0.0.10:80', '10.0.0.2:80', '10.0.0.1:80', '[::1]:80'];
    const pool = (order: readonly string[]): string[] => new FleetPool({ name: 'chat', endpoints: order.map(define) }).endpoints.map(({ address }) => address);
    expect(pool(addresses)).toEqual(['10.0.0.10:80', '10.0.0.1:80', '10.0.0.2:80', '[::1]:80']);
    expect(pool([...addresses].reverse())).toEqual(pool(addresses));
  });

  it('does not touch the definition', () => {
    const endpoints = Object.freeze([define('10.0.0.2:80'), define('10.0.0.1:80')]);
    expect(() => new FleetPool({ name: 'chat', endpoints })).not.toThrow();
  });

  it('finds endpoints by address', () => {
    const pool = new FleetPool({ name: 'chat', endpoints: [define('10.0.0.1:80')] });
    expect(pool.endpoint('10.0.0.1:80')).toBe(pool.endpoints[0]);
    expect(pool.endpoint('10.0.0.1:81')).toBeUndefined();
  });

  describe('mean prompt', () => {
    const learned = (...tokens: number[]): number => {
      const pool = new FleetPool({ name: 'chat', endpoints: [] });
      for (const count of tokens) pool.learnPromptTokens(count);
      return pool.promptTokensMean;
    };

    it.each([
      ['nothing seen: 1, since no request is free', [], 1],
      ['the first counts wholly', [640], 640],
      ['later ones by a 64th', [640, 1_280], 650],
      ['never below 1', [0, 0], 1],
    ])('%s', (_case, tokens, mean) => {
      expect(learned(...tokens)).toBe(mean);
    });

    it('follows a change', () => {
      expect(learned(100, ...new Array<number>(500).fill(2_000))).toBeGreaterThan(1_990);
    });
  });
});

describe('FleetView', () => {
  it('finds pools by name, in the order of their definition', () => {
    const view = new FleetView([
      { name: 'b', endpoints: [] },
      { name: 'a', endpoints: [] },
    ]);
    expect([...view.pools.keys()]).toEqual(['b', 'a']);
    expect(view.pool('a')?.name).toBe('a');
    expect(view.pool('c')).toBeUndefined();
  });
});

describe('endpoints that come and go', () => {
  const [a, b, c] = ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80'] as const;
  const addresses = (pool: FleetPool): string[] => pool.endpoints.map(({ address }) => address);
  const told = (changes: readonly MembershipChange[]): string[] => changes.map(({ kind, endpoint }) => `${kind} ${endpoint.address}`);
  const create = (...named: string[]): FleetPool => new FleetPool({ name: 'chat', endpoints: named.map(define) });

  it('leave those that stay what they are, and keep the order', () => {
    const pool = create(a, c);
    const kept = pool.endpoint(c)!;
    kept.own.requests = 3;
    expect(told(pool.update([define(c), define(b), define(a)], 50))).toEqual(['discovered 10.0.0.2:80']);
    expect(addresses(pool)).toEqual([a, b, c]);
    expect(pool.endpoint(c)).toBe(kept);
    expect(kept).toMatchObject({ requests: 3, readySinceMs: undefined });
    expect(pool.endpoint(b)).toMatchObject({ readySinceMs: 50 });
  });

  it('replace the list of endpoints only when one comes or is gone', () => {
    const pool = create(a, b);
    const before = pool.endpoints;
    pool.update([define(a)], 0);
    expect(pool.endpoints).toBe(before);
    pool.sweep(1, 1_000);
    expect(pool.endpoints).not.toBe(before);
  });

  it('take another definition in place', () => {
    const pool = create(a);
    const kept = pool.endpoint(a)!;
    const changes = pool.update([{ address: a, weight: 7, labels: { zone: 'b' }, requestsMax: undefined, contextTokensMax: 9, kvTokensMax: 512 }], 0);
    expect(changes).toEqual([]);
    expect(pool.endpoint(a)).toBe(kept);
    expect(kept).toMatchObject({ weight: 7, labels: { zone: 'b' }, requestsMax: undefined, contextTokensMax: 9, kvTokensMax: 512 });
  });

  it('take the first of two definitions of one address', () => {
    const pool = create();
    pool.update([{ ...define(a), weight: 3 }, define(a)], 0);
    expect(pool.endpoints.map(({ weight }) => weight)).toEqual([3]);
  });

  it('drain when they leave, and are gone when nothing is in flight on them, of any router', () => {
    const pool = create(a, b);
    const leaving = pool.endpoint(b)!;
    leaving.own.requests = 1;
    pool.foreign.applyChange('other', b, { requests: 1, promptTokens: 5, requestsWaiting: 1, uncachedTokensWaiting: 5 });
    expect(told(pool.update([define(a)], 10))).toEqual(['removed 10.0.0.2:80']);
    expect(leaving.state).toBe('draining');
    expect(pool.leaving).toBe(1);
    expect(pool.update([define(a)], 11)).toEqual([]);
    leaving.own.requests = 0;
    expect(pool.sweep(20, 1_000)).toEqual([]);
    pool.foreign.forget('other', 20);
    expect(told(pool.sweep(30, 1_000))).toEqual(['gone 10.0.0.2:80']);
    expect(addresses(pool)).toEqual([a]);
    expect(pool.endpoint(b)).toBeUndefined();
    expect(pool.leaving).toBe(0);
  });

  it('are gone at the deadline, whatever is in flight on them', () => {
    const pool = create(a, b);
    pool.endpoint(b)!.own.requests = 1;
    pool.update([define(a)], 10);
    expect(pool.sweep(1_009, 1_000)).toEqual([]);
    expect(told(pool.sweep(1_010, 1_000))).toEqual(['gone 10.0.0.2:80']);
  });

  it('return as they were, before they are gone', () => {
    const pool = create(a, b);
    const returning = pool.endpoint(b)!;
    returning.own.requests = 1;
    pool.update([define(a)], 10);
    expect(told(pool.update([define(a), define(b)], 20))).toEqual(['returned 10.0.0.2:80']);
    expect(pool.endpoint(b)).toBe(returning);
    expect(returning.state).toBe('ready');
    expect(pool.sweep(5_000, 1_000)).toEqual([]);
  });

  it('start with an empty cache and without anybody else’s load when they come again after they were gone', () => {
    const pool = create(a, b);
    const prompt = { keyId: 'k', promptTokens: 2_000, prefixHashes: [1, 2, 3] };
    pool.cache.note(b, prompt);
    // Pushes nothing: what it may have sent meanwhile is guessed.
    pool.foreign.applySnapshot('other', new Map([[b, { requests: 4, promptTokens: 40, requestsWaiting: 1, uncachedTokensWaiting: 10 }]]), false, 0);
    pool.update([define(a)], 10);
    pool.sweep(2_000, 1_000);
    pool.update([define(a), define(b)], 3_000);
    expect(pool.cache.cachedTokens(prompt).get(b)).toBeUndefined();
    expect(pool.endpoint(b)).toMatchObject({ requests: 0, promptTokens: 0, requestsWaiting: 0, headTokens: 0 });
    expect(pool.foreign.requestsOf('other')).toBe(0);
    pool.endpoint(b)!.added.requests += 5;
    expect(pool.endpoint(b)!.requests).toBe(0);
    // What it tells from now on counts once, and goes with it.
    pool.foreign.applySnapshot('other', new Map([[b, { requests: 2, promptTokens: 20, requestsWaiting: 0, uncachedTokensWaiting: 0 }]]), false, 3_100);
    expect(pool.endpoint(b)!.requests).toBe(2);
    pool.foreign.forget('other', 3_200);
    expect(pool.endpoint(b)!.requests).toBe(0);
  });
});

describe('pools that come and go', () => {
  const pool = (name: string, ...named: string[]): PoolDefinition => ({ name, endpoints: named.map(define) });
  const one = '10.0.0.1:80';

  it('are there at once, in the new order; those that stay are what they were', () => {
    const view = new FleetView([pool('a', one), pool('b')]);
    const kept = view.pool('b');
    view.update([pool('c', one), pool('b', one), pool('a', one)], 0);
    expect([...view.pools.keys()]).toEqual(['c', 'b', 'a']);
    expect(view.pool('b')).toBe(kept);
    expect(view.pool('b')?.endpoints).toHaveLength(1);
  });

  it('finish what they have, and stay a while longer, so that all routers hear that nothing is left', () => {
    const view = new FleetView([pool('a', one), pool('b', one)]);
    view.pool('a')!.endpoints[0]!.own.requests = 1;
    view.update([pool('b', one)], 0);
    expect([...view.pools.keys()]).toEqual(['b', 'a']);
    expect([view.isLeaving('a'), view.isLeaving('b')]).toEqual([true, false]);
    expect(view.pool('a')!.endpoints.map(({ state }) => state)).toEqual(['draining']);
    view.sweep(1_000, 60_000);
    expect(view.pool('a')!.endpoints).toHaveLength(1);
    view.pool('a')!.endpoints[0]!.own.requests = 0;
    view.sweep(2_000, 60_000);
    expect(view.pool('a')!.endpoints).toHaveLength(0);
    view.sweep(11_999, 60_000);
    expect(view.pool('a')).toBeDefined();
    view.sweep(12_000, 60_000);
    expect([...view.pools.keys()]).toEqual(['b']);
    expect(view.isLeaving('a')).toBe(false);
  });

  it('return while they leave', () => {
    const view = new FleetView([pool('a', one)]);
    const kept = view.pool('a');
    view.update([], 0);
    view.sweep(1, 1_000);
    view.update([pool('a', one)], 2);
    view.sweep(60_000, 1_000);
    expect(view.pool('a')).toBe(kept);
    expect(view.isLeaving('a')).toBe(false);
    expect(kept!.endpoints.map(({ state }) => state)).toEqual(['ready']);
  });
});
