import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FleetEndpoint } from './endpoint.ts';
import type { Load } from './load.ts';
import { FleetPool } from './fleet-view.ts';

const one = '10.0.0.1:80';
const two = '10.0.0.2:80';
const unknown = '10.0.0.9:80';

function newPool(): FleetPool {
  return new FleetPool({ name: 'chat', endpoints: [one, two].map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) });
}

/** All of the requests wait, unless told otherwise. */
const load = (requests: number, promptTokens = 100 * requests, uncachedTokensWaiting = promptTokens, requestsWaiting = requests): Load => ({
  requests,
  promptTokens,
  requestsWaiting,
  uncachedTokensWaiting,
});
/** `[requests, prompt tokens, requests waiting, uncached tokens waiting]`. */
const sees = ({ requests, promptTokens, requestsWaiting, uncachedTokensWaiting }: FleetEndpoint): number[] => [requests, promptTokens, requestsWaiting, uncachedTokensWaiting];

/** A request of our own that was sent and is over: it leaves no load, but others are believed to have sent as much. */
function sent(endpoint: FleetEndpoint, promptTokens = 100, uncachedTokens = promptTokens): void {
  endpoint.added.requests += 1;
  endpoint.added.promptTokens += promptTokens;
  endpoint.added.uncachedTokens += uncachedTokens;
}

describe('ForeignLoad, routers that push', () => {
  it('a snapshot replaces what its router told before, and nothing of others', () => {
    const pool = newPool();
    const [first, second] = [pool.endpoint(one)!, pool.endpoint(two)!];
    pool.foreign.applySnapshot('a', new Map([[one, load(3)], [two, load(1)]]), true, 0);
    pool.foreign.applySnapshot('b', new Map([[one, load(2, 50, 20, 1)]]), true, 0);
    expect(sees(first)).toEqual([5, 350, 4, 320]);
    expect(sees(second)).toEqual([1, 100, 1, 100]);
    pool.foreign.applySnapshot('a', new Map([[one, load(1)]]), true, 0);
    expect(sees(first)).toEqual([3, 150, 2, 120]);
    expect(sees(second)).toEqual([0, 0, 0, 0]);
    expect(pool.foreign.requestsOf('a')).toBe(1);
    expect(pool.foreign.requestsOf('b')).toBe(2);
    expect(pool.foreign.requestsOf('nobody')).toBe(0);
  });

  it('events add to it until the next one', () => {
    const pool = newPool();
    const endpoint = pool.endpoint(one)!;
    pool.foreign.applyChange('a', one, load(1, 70));
    pool.foreign.applyChange('a', one, { ...load(0), requestsWaiting: -1, uncachedTokensWaiting: -70 });
    expect(sees(endpoint)).toEqual([1, 70, 0, 0]);
    pool.foreign.applySnapshot('a', new Map([[one, load(2, 140, 0, 0)]]), true, 0);
    pool.foreign.applyChange('a', one, { ...load(0), requests: -1, promptTokens: -70 });
    expect(sees(endpoint)).toEqual([1, 70, 0, 0]);
  });

  it('an end whose beginning was lost takes nothing away from others', () => {
    const pool = newPool();
    pool.foreign.applySnapshot('b', new Map([[one, load(2)]]), true, 0);
    pool.foreign.applyChange('a', one, load(-1, -500));
    expect(sees(pool.endpoint(one)!)).toEqual([2, 200, 2, 200]);
    expect(pool.foreign.requestsOf('a')).toBe(0);
  });

  it('a router that is forgotten takes its own load along, and only that', () => {
    const pool = newPool();
    pool.foreign.applySnapshot('a', new Map([[one, load(3)], [two, load(1)]]), true, 0);
    pool.foreign.applySnapshot('b', new Map([[one, load(2)]]), true, 0);
    pool.endpoint(one)!.own.requests += 4;
    pool.foreign.forget('a', 0);
    pool.foreign.forget('a', 0);
    pool.foreign.forget('nobody', 0);
    expect(pool.endpoint(one)!.requests).toBe(6);
    expect(pool.endpoint(two)!.requests).toBe(0);
    expect(pool.foreign.requestsOf('a')).toBe(0);
  });

  it('endpoints that are not configured here do not exist, names of the prototype included', () => {
    const pool = newPool();
    for (const address of [unknown, '__proto__', 'constructor', '']) {
      pool.foreign.applySnapshot('a', new Map([[address, load(3)]]), true, 0);
      pool.foreign.applyChange('a', address, load(1));
    }
    expect(pool.foreign.requestsOf('a')).toBe(0);
    expect(pool.endpoints.map(sees)).toEqual([[0, 0, 0, 0], [0, 0, 0, 0]]);
  });

  it('what a flood of the highest numbers left behind is gone with its router, to the last token', () => {
    const pool = newPool();
    const endpoint = pool.endpoint(one)!;
    pool.foreign.applySnapshot('b', new Map([[one, load(7, 77, 7, 3)]]), true, 0);
    // 2⁵³ is passed after nine million events of the highest number a message may hold: here in fewer.
    for (let i = 0; i < 20; i += 1) pool.foreign.applyChange('a', one, load(1e15 + 1, 1e15 + 1, 1e15 + 1));
    pool.foreign.applyChange('a', one, load(-3, -3, -3));
    pool.foreign.forget('a', 0);
    expect(sees(endpoint)).toEqual([7, 77, 3, 7]);
  });
});

describe('ForeignLoad, routers that only send snapshots', () => {
  it('each is believed to have added what we added since it last told, on every endpoint', () => {
    const pool = newPool();
    const endpoint = pool.endpoint(one)!;
    sent(endpoint);
    pool.foreign.applySnapshot('a', new Map([[one, load(3)]]), false, 0);
    pool.foreign.applySnapshot('b', new Map(), false, 0);
    expect(endpoint.requests).toBe(3);
    sent(endpoint, 40, 15);
    expect(sees(endpoint)).toEqual([5, 380, 5, 330]);
    pool.foreign.applySnapshot('a', new Map([[one, load(4)]]), false, 0);
    expect(sees(endpoint)).toEqual([5, 440, 5, 415]);
    pool.foreign.forget('b', 0);
    expect(sees(endpoint)).toEqual([4, 400, 4, 400]);
  });

  it('one that takes up pushing is not guessed for any more, one that gives it up is', () => {
    const pool = newPool();
    const endpoint = pool.endpoint(one)!;
    pool.foreign.applySnapshot('a', new Map([[one, load(1)]]), false, 0);
    sent(endpoint);
    pool.foreign.applySnapshot('a', new Map([[one, load(1)]]), true, 0);
    sent(endpoint);
    expect(endpoint.requests).toBe(1);
    pool.foreign.applySnapshot('a', new Map([[one, load(1)]]), false, 0);
    expect(endpoint.requests).toBe(1);
    sent(endpoint);
    expect(endpoint.requests).toBe(2);
    pool.foreign.forget('a', 0);
    expect(endpoint.requests).toBe(0);
  });

  it('while none of them can be heard, only the latest moment is guessed for, not all since then', () => {
    const pool = newPool();
    const endpoint = pool.endpoint(one)!;
    pool.foreign.applySnapshot('a', new Map([[one, load(3)]]), false, 0);
    for (let second = 0; second < 30; second += 1) {
      for (let i = 0; i < 1_000; i += 1) sent(endpoint);
      pool.foreign.hold();
    }
    expect(endpoint.requests).toBe(3);
    sent(endpoint);
    expect(endpoint.requests).toBe(4);
    pool.foreign.forget('a', 0);
    expect(sees(endpoint)).toEqual([0, 0, 0, 0]);
  });
});

describe('ForeignLoad, whatever comes in whatever order', () => {
  const router = fc.constantFrom('a', 'b', 'c');
  const address = fc.constantFrom(one, two, unknown);
  const count = fc.oneof({ weight: 5, arbitrary: fc.nat({ max: 50 }) }, { weight: 1, arbitrary: fc.constantFrom(1e9, 1e9 - 1) });
  const change = fc.oneof(count, count.map((n) => -n));
  const told = (of: fc.Arbitrary<number>): fc.Arbitrary<Load> => fc.record({ requests: of, promptTokens: of, requestsWaiting: of, uncachedTokensWaiting: of });
  const step = fc.oneof(
    fc.record({ kind: fc.constant('snapshot' as const), router, loads: fc.array(fc.tuple(address, told(count)), { maxLength: 3 }), pushes: fc.boolean() }),
    fc.record({ kind: fc.constant('change' as const), router, address, change: told(change) }),
    fc.record({ kind: fc.constant('sent' as const), address, promptTokens: count, uncachedTokens: count }),
    fc.record({ kind: fc.constant('forget' as const), router }),
    fc.record({ kind: fc.constant('hold' as const) }),
  );

  it('no load is ever below our own, a router counts for no less than nothing, and with the routers all their load is gone', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const pool = newPool();
        for (const endpoint of pool.endpoints) Object.assign(endpoint.own, load(2, 30, 10, 1));
        for (const it of steps) {
          if (it.kind === 'snapshot') pool.foreign.applySnapshot(it.router, new Map(it.loads), it.pushes, 0);
          else if (it.kind === 'change') pool.foreign.applyChange(it.router, it.address, it.change);
          else if (it.kind === 'forget') pool.foreign.forget(it.router, 0);
          else if (it.kind === 'hold') pool.foreign.hold();
          else if (pool.endpoint(it.address) !== undefined) sent(pool.endpoint(it.address)!, it.promptTokens, it.uncachedTokens);
          for (const endpoint of pool.endpoints) {
            const { requests, promptTokens, requestsWaiting, uncachedTokensWaiting } = endpoint;
            expect(Math.min(requests - 2, promptTokens - 30, requestsWaiting - 1, uncachedTokensWaiting - 10)).toBeGreaterThanOrEqual(0);
            expect(Math.min(...Object.values(endpoint.foreign.toLoad()))).toBeGreaterThanOrEqual(0);
          }
          const told = ['a', 'b', 'c'].reduce((sum, name) => sum + pool.foreign.requestsOf(name), 0);
          expect(told).toBe(pool.endpoints.reduce((sum, { foreign }) => sum + foreign.requests, 0));
        }
        for (const name of ['a', 'b', 'c']) pool.foreign.forget(name, 0);
        for (const endpoint of pool.endpoints) {
          expect(endpoint.foreign.toLoad()).toEqual(load(0));
          expect(sees(endpoint)).toEqual([2, 30, 1, 10]);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('after a snapshot of everyone, all is as they say, whatever was before', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.array(told(fc.nat({ max: 50 })), { minLength: 3, maxLength: 3 }), fc.boolean(), (steps, last, pushes) => {
        const pool = newPool();
        for (const it of steps) {
          if (it.kind === 'snapshot') pool.foreign.applySnapshot(it.router, new Map(it.loads), it.pushes, 0);
          else if (it.kind === 'change') pool.foreign.applyChange(it.router, it.address, it.change);
          else if (it.kind === 'forget') pool.foreign.forget(it.router, 0);
          else if (it.kind === 'sent' && pool.endpoint(it.address) !== undefined) sent(pool.endpoint(it.address)!, it.promptTokens, it.uncachedTokens);
        }
        ['a', 'b', 'c'].forEach((name, i) => pool.foreign.applySnapshot(name, new Map([[one, last[i]!]]), pushes, 0));
        const sum = (of: keyof Load): number => last.reduce((so, told) => so + told[of], 0);
        expect(sees(pool.endpoint(one)!)).toEqual([sum('requests'), sum('promptTokens'), sum('requestsWaiting'), sum('uncachedTokensWaiting')]);
        expect(sees(pool.endpoint(two)!)).toEqual([0, 0, 0, 0]);
      }),
      { numRuns: 300 },
    );
  });
});
