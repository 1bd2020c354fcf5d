import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import type { EngineMetrics } from '../core/fleet-snapshot.ts';
import { type Load, noLoad } from './load.ts';
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

/** Two thirds of each prompt are believed to be cached. */
const dispatch = (address: string, promptTokens: number, away?: boolean): Extract<LoadEvent, { kind: 'dispatch' }> => ({
  kind: 'dispatch',
  pool: 'chat',
  address,
  promptTokens,
  uncachedTokens: Math.floor(promptTokens / 3),
  cached: undefined,
  placement: away === undefined ? undefined : { keyId, away },
});
/** `[requests, prompt tokens, requests waiting, uncached tokens waiting, in line]`. */
const sees = (address: string, pool = 'chat'): number[] => {
  const { requests, promptTokens, requestsWaiting, uncachedTokensWaiting, line } = fleet.pool(pool)!.endpoint(address)!;
  return [requests, promptTokens, requestsWaiting, uncachedTokensWaiting, line.length];
};

describe('metrics of model servers', () => {
  const metrics = (scrapedMs: number, requestsQueued = 1): EngineMetrics => ({
    ...{ scrapedMs, requestsQueued, requestsRunning: undefined, kvUsage: undefined, kvTokensMax: undefined, adapters: undefined, adaptersMax: undefined },
  });

  it('that this router read are told once', () => {
    state.shareMetrics('chat');
    fleet.pool('chat')!.endpoint(one)!.metrics = metrics(5);
    state.noteMetrics('chat', one);
    state.noteMetrics('chat', two);
    expect(state.takeMetrics('chat')).toEqual(new Map([[one, metrics(5)]]));
    expect(state.takeMetrics('chat')).toEqual(new Map());
    state.noteMetrics('batch', one);
    expect(state.takeMetrics('batch')).toEqual(new Map());
  });

  it('that another read are taken where they are newer, of endpoints that are configured, in pools whose metrics are read', () => {
    state.shareMetrics('chat');
    const of = (pool: string): unknown => fleet.pool(pool)!.endpoint(one)!.metrics;
    state.applyMetrics('chat', one, metrics(5));
    expect(of('chat')).toEqual(metrics(5));
    state.applyMetrics('chat', one, metrics(4, 9));
    expect(of('chat')).toEqual(metrics(5));
    state.applyMetrics('chat', one, metrics(6, 9));
    expect(of('chat')).toEqual(metrics(6, 9));
    // Nobody there would take them away again.
    state.applyMetrics('batch', one, metrics(5));
    expect(of('batch')).toBeUndefined();
    for (const at of ['10.0.0.9:80', '__proto__']) state.applyMetrics('chat', at, metrics(5));
    state.applyMetrics('__proto__', one, metrics(5));
    state.shareMetrics('__proto__');
    expect(state.takeMetrics('__proto__')).toEqual(new Map());
  });
});

describe('events of other routers', () => {
  it('a request counts from its dispatch to its end, its prompt waits until the first token', () => {
    state.applyEvent('a', dispatch(one, 300), 0);
    expect(sees(one)).toEqual([1, 300, 1, 100, 1]);
    state.applyEvent('a', { kind: 'first-token', pool: 'chat', address: one, uncachedTokens: 100 }, 0);
    expect(sees(one)).toEqual([1, 300, 0, 0, 0]);
    state.applyEvent('a', { kind: 'done', pool: 'chat', address: one, promptTokens: 300, uncachedTokens: 100, waiting: false }, 0);
    expect(sees(one)).toEqual([0, 0, 0, 0, 0]);
    expect(sees(one, 'batch')).toEqual([0, 0, 0, 0, 0]);
  });

  it('what was sent to a pool only grows, whatever becomes of it', () => {
    state.applyEvent('a', dispatch(one, 300), 0);
    state.applyEvent('b', dispatch(two, 30), 0);
    state.applyEvent('a', { kind: 'done', pool: 'chat', address: one, promptTokens: 300, uncachedTokens: 100, waiting: true }, 0);
    state.forget('b', 0);
    expect(fleet.pool('chat')!.dispatched).toEqual({ requests: 2, promptTokens: 330, uncachedTokens: 110 });
    expect(fleet.pool('batch')!.dispatched.requests).toBe(0);
  });

  it('one that ends without a first token waits no longer either', () => {
    state.applyEvent('a', dispatch(one, 300), 0);
    state.applyEvent('a', { kind: 'done', pool: 'chat', address: one, promptTokens: 300, uncachedTokens: 100, waiting: true }, 0);
    expect(sees(one)).toEqual([0, 0, 0, 0, 0]);
  });

  it('what is not configured here is ignored, and remembered nowhere', () => {
    for (const event of [dispatch('10.0.0.9:80', 1, true), dispatch('__proto__', 1, true), { ...dispatch(one, 1, true), pool: 'other' }, { ...dispatch(one, 1, true), pool: '__proto__' }]) {
      state.applyEvent('a', event, 0);
    }
    state.applySnapshot('a', 'other', new Map([[one, { requests: 1, promptTokens: 1, requestsWaiting: 1, uncachedTokensWaiting: 1 }]]), true, 0);
    expect(state.requestsOf('a')).toBe(0);
    expect(placements.size).toBe(0);
  });

  it('a dispatch just after an own one was unheard of when that was made', () => {
    const { unheard } = fleet.pool('chat')!;
    unheard.sent(0);
    state.applyEvent('a', dispatch(one, 300), 1);
    state.applyEvent('b', dispatch(two, 1_620), 2);
    state.applyEvent('b', { ...dispatch(two, 9_000), pool: 'batch' }, 2);
    unheard.sent(10);
    expect(unheard.tokens).toBe((100 + 540) / 64);
  });

  it('a router that is forgotten is gone from all pools', () => {
    state.applyEvent('a', dispatch(one, 300), 0);
    state.applyEvent('a', { ...dispatch(two, 100), pool: 'batch' }, 0);
    state.applyEvent('b', dispatch(one, 50), 0);
    expect(state.requestsOf('a')).toBe(2);
    state.forget('a', 0);
    expect(state.requestsOf('a')).toBe(0);
    expect([sees(one), sees(two, 'batch')]).toEqual([[1, 50, 1, 16, 1], [0, 0, 0, 0, 0]]);
  });
});

describe('who waits for a first token', () => {
  const first = (): (number | undefined)[] => {
    const { headTokens, headSinceMs } = fleet.pool('chat')!.endpoint(one)!;
    return [headTokens, headSinceMs];
  };

  it('stands in one line, in the order in which routers told, and the clock of the endpoint runs from the last first token', () => {
    state.applyEvent('a', dispatch(one, 300), 10);
    state.applyEvent('b', dispatch(one, 90), 20);
    expect(first()).toEqual([100, 10]);
    state.applyEvent('a', { kind: 'first-token', pool: 'chat', address: one, uncachedTokens: 100 }, 50);
    expect(first()).toEqual([30, 50]);
    state.applyEvent('b', { kind: 'done', pool: 'chat', address: one, promptTokens: 90, uncachedTokens: 30, waiting: true }, 70);
    expect(first()).toEqual([0, 70]);
  });

  it('leaves it alone when a request ends that decodes', () => {
    state.applyEvent('a', dispatch(one, 300), 10);
    state.applyEvent('a', { kind: 'first-token', pool: 'chat', address: one, uncachedTokens: 100 }, 20);
    state.applyEvent('a', dispatch(one, 300), 30);
    state.applyEvent('a', { kind: 'done', pool: 'chat', address: one, promptTokens: 300, uncachedTokens: 100, waiting: false }, 40);
    expect(first()).toEqual([100, 30]);
    expect(sees(one)).toEqual([1, 300, 1, 100, 1]);
  });

  it('is corrected by snapshots, of endpoints left out too, and gone with its router', () => {
    state.applyEvent('a', dispatch(one, 300), 10);
    state.applyEvent('b', dispatch(one, 90), 20);
    state.applySnapshot('a', 'chat', new Map([[two, { requests: 2, promptTokens: 80, requestsWaiting: 2, uncachedTokensWaiting: 41 }]]), true, 30);
    expect(sees(one)).toEqual([1, 90, 1, 30, 1]);
    expect(sees(two)).toEqual([2, 80, 2, 41, 2]);
    expect(first()).toEqual([30, 30]);
    state.forget('a', 40);
    expect(sees(two)).toEqual([0, 0, 0, 0, 0]);
    expect(first()).toEqual([30, 30]);
  });
});

describe('what endpoints have cached', () => {
  const cached = (keyId: string | undefined, prefixHashes: readonly number[], pool = 'chat'): Record<string, number> =>
    Object.fromEntries(fleet.pool(pool)!.cache.cachedTokens({ keyId, promptTokens: 10_000, prefixHashes }));

  it('is what other routers sent there, by blocks and by session, in that pool', () => {
    state.applyEvent('a', { ...dispatch(one, 1_200), cached: { keyId, prefixHashes: [1, 2] } }, 0);
    state.applyEvent('b', { ...dispatch(two, 700), cached: { keyId, prefixHashes: [] } }, 0);
    // The session's first block came along with it.
    expect(cached(undefined, [1, 2, 3])).toEqual({ [one]: 1_024, [two]: 512 });
    expect(cached(keyId, [])).toEqual({ [one]: 1_200, [two]: 700 });
    expect([cached(undefined, [1, 2, 3], 'batch'), cached(keyId, [], 'batch')]).toEqual([{}, {}]);
    expect([fleet.pool('chat')!.cache.knows(keyId), fleet.pool('batch')!.cache.knows(keyId)]).toEqual([true, false]);
  });

  it('stays when the router that told is gone, and is not told of by who does not reckon with it', () => {
    state.applyEvent('a', { ...dispatch(one, 1_200), cached: { keyId: undefined, prefixHashes: [1, 2] } }, 0);
    state.applyEvent('a', dispatch(two, 1_200, true), 0);
    state.forget('a', 0);
    expect(cached(undefined, [1, 2])).toEqual({ [one]: 1_024 });
    expect(cached(keyId, [])).toEqual({});
  });
});

describe('placements', () => {
  it('a dispatch that moved its session is known here', () => {
    state.applyEvent('a', dispatch(two, 1, true), 0);
    expect(placements.find('chat', keyId)).toBe(two);
    expect(placements.find('batch', keyId)).toBeUndefined();
  });

  it('a session that went home is forgotten, by the dispatch and by what is kept of it, which names no endpoint', () => {
    state.applyEvent('a', dispatch(two, 1, true), 0);
    state.applyEvent('b', dispatch(one, 1, false), 0);
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

describe('own load and limits', () => {
  it('only endpoints that carry something are told', () => {
    Object.assign(fleet.pool('chat')!.endpoint(two)!.own, { requests: 2, promptTokens: 70, requestsWaiting: 1, uncachedTokensWaiting: 30 });
    state.applyEvent('a', dispatch(one, 5), 0);
    expect([...state.ownLoad('chat')]).toEqual([[two, { requests: 2, promptTokens: 70, requestsWaiting: 1, uncachedTokensWaiting: 30 }]]);
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
    state.applySnapshot('a', 'batch', new Map([[two, { requests: 3, promptTokens: 0, requestsWaiting: 0, uncachedTokensWaiting: 0 }]]), true, 0);
    expect(endpoint.full).toBe(true);
  });
});

describe('the line of each endpoint', () => {
  const names = ['a', 'b', 'c'];
  const router = fc.constantFrom(...names);
  const address = fc.constantFrom(one, two);
  const uncachedTokens = fc.nat({ max: 20 });
  const waiting = fc.tuple(fc.nat({ max: 5 }), fc.nat({ max: 100 }));
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('dispatch' as const), router, address, uncachedTokens }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('first-token' as const), router, address, uncachedTokens }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('done' as const), router, address, uncachedTokens, waiting: fc.boolean() }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('snapshot' as const), router, loads: fc.array(fc.tuple(address, waiting), { maxLength: 2 }), pushes: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('forget' as const), router }) },
  );
  type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

  function newFleet(): FleetView {
    return new FleetView([{ name: 'chat', endpoints: [one, two].map((of) => ({ address: of, weight: 1, labels: {}, requestsMax: undefined })) }]);
  }

  function apply(shared: SharedState, it: Step, nowMs: number): void {
    if (it.kind === 'forget') shared.forget(it.router, nowMs);
    else if (it.kind === 'snapshot') {
      const loads = it.loads.map(([at, [requests, tokens]]): [string, Load] => [
        at,
        { requests: requests + 1, promptTokens: 100, requestsWaiting: requests, uncachedTokensWaiting: requests === 0 ? 0 : tokens },
      ]);
      shared.applySnapshot(it.router, 'chat', new Map(loads), it.pushes, nowMs);
    } else {
      const of = { pool: 'chat', address: it.address, uncachedTokens: it.uncachedTokens };
      const promptTokens = it.uncachedTokens + 10;
      if (it.kind === 'dispatch') shared.applyEvent(it.router, { kind: 'dispatch', ...of, promptTokens, placement: undefined, cached: undefined }, nowMs);
      else if (it.kind === 'first-token') shared.applyEvent(it.router, { kind: 'first-token', ...of }, nowMs);
      else shared.applyEvent(it.router, { kind: 'done', ...of, promptTokens, waiting: it.waiting }, nowMs);
    }
  }

  it('holds of each router what that router told, whatever it told and whatever others told meanwhile; nothing of who is gone', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 50 }), (steps) => {
        const together = newFleet();
        const shared = new SharedState(together, new Placements());
        // For each router, a fleet that hears of no other: what is foreign there is what this one told.
        const alone = new Map(names.map((name) => [name, newFleet()]));
        const aloneShared = new Map([...alone].map(([name, of]) => [name, new SharedState(of, new Placements())]));
        steps.forEach((it, nowMs) => {
          apply(shared, it, nowMs);
          apply(aloneShared.get(it.router)!, it, nowMs);
          for (const { address: at, line, foreign } of together.pool('chat')!.endpoints) {
            let entries = 0;
            for (const name of names) {
              const told = alone.get(name)!.pool('chat')!.endpoint(at)!.foreign;
              const part = line.part(name);
              expect(part.requests).toBe(told.requestsWaiting);
              expect(part.tokens).toBe(told.uncachedTokensWaiting);
              entries += part.requests;
            }
            expect([line.length, foreign.requestsWaiting]).toEqual([entries, entries]);
          }
        });
        for (const name of names) shared.forget(name, steps.length);
        for (const { line, foreign, requestsWaiting, uncachedTokensWaiting, headTokens } of together.pool('chat')!.endpoints) {
          expect([line.length, foreign.toLoad(), requestsWaiting, uncachedTokensWaiting, headTokens]).toEqual([0, noLoad, 0, 0, 0]);
        }
      }),
      { numRuns: 200 },
    );
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
      uncachedTokens: tokens,
      placement: fc.option(fc.record({ keyId: fc.constant(keyId), away: fc.boolean() }), { nil: undefined }),
      cached: fc.option(
        fc.record({ keyId: fc.option(fc.constant(keyId), { nil: undefined }), prefixHashes: fc.array(fc.nat({ max: 9 }), { maxLength: 4 }) }),
        { nil: undefined },
      ),
    }),
    fc.record({ kind: fc.constant('first-token' as const), pool, address, uncachedTokens: tokens }),
    fc.record({ kind: fc.constant('done' as const), pool, address, promptTokens: tokens, uncachedTokens: tokens, waiting: fc.boolean() }),
  );
  const load: fc.Arbitrary<Load> = fc.record({ requests: tokens, promptTokens: tokens, requestsWaiting: tokens, uncachedTokensWaiting: tokens });
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
          if (it.kind === 'event') shared.applyEvent(it.router, it.event, 0);
          else if (it.kind === 'snapshot') shared.applySnapshot(it.router, it.pool, new Map(it.loads), it.pushes, 0);
          else if (it.kind === 'forget') shared.forget(it.router, 0);
          else shared.hold();
          for (const { foreign } of endpoints) expect(Math.min(...Object.values(foreign.toLoad()))).toBeGreaterThanOrEqual(0);
          expect([undefined, one, two]).toContain(placed.find('chat', keyId));
        }
        for (const name of ['a', 'b']) shared.forget(name, 0);
        for (const { foreign, requests, line } of endpoints) expect([foreign.toLoad(), requests, line.length]).toEqual([noLoad, 0, 0]);
      }),
      { numRuns: 300 },
    );
  });
});
