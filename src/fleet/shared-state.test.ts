import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import type { EndpointState } from '../core/fleet-snapshot.ts';
import type { Load } from './endpoint.ts';
import { FleetView } from './fleet-view.ts';
import { Placements } from './placements.ts';
import { type LoadEvent, SharedState } from './shared-state.ts';

const one = '10.0.0.1:80';
const two = '10.0.0.2:80';
const keyId = '0123456789abcdef0123456789abcdef';

let fleet: FleetView;
let placements: Placements;
let state: SharedState;
beforeEach(() => {
  const endpoints = [one, two].map((address) => ({ address, weight: 1, labels: {}, requestsMax: 5 }));
  fleet = new FleetView([
    { name: 'chat', endpoints },
    { name: 'batch', endpoints },
  ]);
  placements = new Placements();
  state = new SharedState(fleet, placements);
});

const dispatch = (address: string, promptTokens: number, away?: boolean): LoadEvent => ({
  kind: 'dispatch',
  pool: 'chat',
  address,
  promptTokens,
  placement: away === undefined ? undefined : { keyId, away },
});
const sees = (address: string, pool = 'chat'): number[] => {
  const { requests, promptTokens, promptTokensWaiting } = fleet.pool(pool)!.endpoint(address)!;
  return [requests, promptTokens, promptTokensWaiting];
};

describe('events of other routers', () => {
  it('a request counts from its dispatch to its end, its prompt waits until the first token', () => {
    state.applyEvent('a', dispatch(one, 300));
    expect(sees(one)).toEqual([1, 300, 300]);
    state.applyEvent('a', { kind: 'first-token', pool: 'chat', address: one, promptTokens: 300 });
    expect(sees(one)).toEqual([1, 300, 0]);
    state.applyEvent('a', { kind: 'done', pool: 'chat', address: one, promptTokens: 300, waiting: false });
    expect(sees(one)).toEqual([0, 0, 0]);
    expect(sees(one, 'batch')).toEqual([0, 0, 0]);
  });

  it('one that ends without a first token waits no longer either', () => {
    state.applyEvent('a', dispatch(one, 300));
    state.applyEvent('a', { kind: 'done', pool: 'chat', address: one, promptTokens: 300, waiting: true });
    expect(sees(one)).toEqual([0, 0, 0]);
  });

  it('what is not configured here is ignored, and remembered nowhere', () => {
    for (const event of [dispatch('10.0.0.9:80', 1, true), dispatch('__proto__', 1, true), { ...dispatch(one, 1, true), pool: 'other' }, { ...dispatch(one, 1, true), pool: '__proto__' }]) {
      state.applyEvent('a', event);
    }
    state.applySnapshot('a', 'other', new Map([[one, { requests: 1, promptTokens: 1, promptTokensWaiting: 1 }]]), true);
    expect(state.requestsOf('a')).toBe(0);
    expect(placements.size).toBe(0);
  });

  it('a router that is forgotten is gone from all pools', () => {
    state.applyEvent('a', dispatch(one, 300));
    state.applyEvent('a', { ...dispatch(two, 100), pool: 'batch' });
    state.applyEvent('b', dispatch(one, 50));
    expect(state.requestsOf('a')).toBe(2);
    state.forget('a');
    expect(state.requestsOf('a')).toBe(0);
    expect([sees(one), sees(two, 'batch')]).toEqual([[1, 50, 50], [0, 0, 0]]);
  });
});

describe('placements', () => {
  it('a dispatch that moved its session is known here', () => {
    state.applyEvent('a', dispatch(two, 1, true));
    expect(placements.find('chat', keyId)).toBe(two);
    expect(placements.find('batch', keyId)).toBeUndefined();
  });

  it('a session that went home is forgotten, by the dispatch and by what is kept of it, which names no endpoint', () => {
    state.applyEvent('a', dispatch(two, 1, true));
    state.applyEvent('b', dispatch(one, 1, false));
    expect(placements.find('chat', keyId)).toBeUndefined();
    state.applyPlacement('chat', two, { keyId, away: true });
    state.applyPlacement('chat', '', { keyId, away: false });
    expect(placements.find('chat', keyId)).toBeUndefined();
  });

  it('nobody can place a session on an endpoint that is not configured', () => {
    state.applyPlacement('chat', two, { keyId, away: true });
    state.applyPlacement('chat', '10.0.0.9:80', { keyId, away: true });
    state.applyPlacement('chat', '', { keyId, away: true });
    state.applyPlacement('other', one, { keyId, away: true });
    state.applyPlacement('constructor', one, { keyId, away: true });
    expect(placements.find('chat', keyId)).toBe(two);
    expect(placements.size).toBe(1);
  });

  it('the latest are told newest first', () => {
    for (const [i, address] of [one, two, one].entries()) state.applyPlacement('chat', address, { keyId: keyId.replace('0', String(i)), away: true });
    expect(state.placements('chat', 2).map(({ keyId: id }) => id[0])).toEqual(['2', '1']);
    expect(state.placements('other', 2)).toEqual([]);
  });
});

describe('endpoints out of order', () => {
  it('an ejection takes a ready endpoint out and back, and touches no other state', () => {
    const endpoint = fleet.pool('chat')!.endpoint(one)!;
    state.applyEndpointState('chat', one, 'ejected');
    expect(endpoint.state).toBe('ejected');
    state.applyEndpointState('chat', one, 'ready');
    expect(endpoint.state).toBe('ready');
    for (const other of ['not-ready', 'draining'] satisfies EndpointState[]) {
      endpoint.state = other;
      state.applyEndpointState('chat', one, 'ejected');
      state.applyEndpointState('chat', one, 'ready');
      expect(endpoint.state).toBe(other);
    }
    state.applyEndpointState('chat', '10.0.0.9:80', 'ejected');
    state.applyEndpointState('other', one, 'ejected');
  });
});

describe('own load and limits', () => {
  it('only endpoints that carry something are told', () => {
    Object.assign(fleet.pool('chat')!.endpoint(two)!.own, { requests: 2, promptTokens: 70, promptTokensWaiting: 30 });
    state.applyEvent('a', dispatch(one, 5));
    expect([...state.ownLoad('chat')]).toEqual([[two, { requests: 2, promptTokens: 70, promptTokensWaiting: 30 }]]);
    expect([...state.ownLoad('other')]).toEqual([]);
    expect(state.ownRequests).toBe(2);
  });

  it('limits are divided without a place lost or given twice, and shared whole again', () => {
    for (const routers of [1, 2, 3, 4, 7]) {
      let places = 0;
      for (let rank = 0; rank < routers; rank += 1) {
        const endpoint = fleet.pool('chat')!.endpoint(one)!;
        endpoint.own.requests = 0;
        state.shareCaps({ routers, rank });
        for (; !endpoint.full; endpoint.own.requests += 1) places += 1;
      }
      expect(places).toBe(5);
    }
    const endpoint = fleet.pool('batch')!.endpoint(two)!;
    state.shareCaps(undefined);
    endpoint.own.requests = 2;
    state.applySnapshot('a', 'batch', new Map([[two, { requests: 3, promptTokens: 0, promptTokensWaiting: 0 }]]), true);
    expect(endpoint.full).toBe(true);
  });
});

describe('messages lost, doubled, late, out of order', () => {
  const router = fc.constantFrom('a', 'b');
  const address = fc.constantFrom(one, two, '10.0.0.9:80');
  const tokens = fc.nat({ max: 1_000 });
  const pool = fc.constantFrom('chat', 'batch', 'other');
  const event: fc.Arbitrary<LoadEvent> = fc.oneof(
    fc.record({
      kind: fc.constant('dispatch' as const),
      pool,
      address,
      promptTokens: tokens,
      placement: fc.option(fc.record({ keyId: fc.constant(keyId), away: fc.boolean() }), { nil: undefined }),
    }),
    fc.record({ kind: fc.constant('first-token' as const), pool, address, promptTokens: tokens }),
    fc.record({ kind: fc.constant('done' as const), pool, address, promptTokens: tokens, waiting: fc.boolean() }),
  );
  const load: fc.Arbitrary<Load> = fc.record({ requests: tokens, promptTokens: tokens, promptTokensWaiting: tokens });
  const step = fc.oneof(
    fc.record({ kind: fc.constant('event' as const), router, event }),
    fc.record({ kind: fc.constant('snapshot' as const), router, pool, loads: fc.array(fc.tuple(address, load), { maxLength: 3 }), pushes: fc.boolean() }),
    fc.record({ kind: fc.constant('forget' as const), router }),
    fc.record({ kind: fc.constant('hold' as const) }),
  );

  it('give no load below nothing, no session a place that is not configured, and leave nothing behind', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const all = new FleetView(['chat', 'batch'].map((name) => ({ name, endpoints: [one, two].map((of) => ({ address: of, weight: 1, labels: {}, requestsMax: undefined })) })));
        const placed = new Placements();
        const shared = new SharedState(all, placed);
        const endpoints = [...all.pools.values()].flatMap((of) => of.endpoints);
        for (const it of steps) {
          if (it.kind === 'event') shared.applyEvent(it.router, it.event);
          else if (it.kind === 'snapshot') shared.applySnapshot(it.router, it.pool, new Map(it.loads), it.pushes);
          else if (it.kind === 'forget') shared.forget(it.router);
          else shared.hold();
          for (const { foreign } of endpoints) expect(Math.min(...Object.values(foreign))).toBeGreaterThanOrEqual(0);
          expect([undefined, one, two]).toContain(placed.find('chat', keyId));
        }
        for (const name of ['a', 'b']) shared.forget(name);
        for (const { foreign, requests } of endpoints) expect([foreign, requests]).toEqual([{ requests: 0, promptTokens: 0, promptTokensWaiting: 0 }, 0]);
      }),
      { numRuns: 300 },
    );
  });
});
