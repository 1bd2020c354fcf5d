import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import { noFacts, type RequestFacts } from '../core/request-facts.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { createMemoryExchange } from './memory-exchange.ts';
import type { CapLeases, RouterEvents } from './ports.ts';
import type { Refusal } from './refusal.ts';
import type { Routed } from './routed.ts';
import { Router } from './router.ts';

const yaml = `
affinity: { secret: for-the-tests }
facts: { priority: [{ header: x-class }] }
pools:
  - { name: eu, policy: { preset: session-affinity }, labels: { region: eu }, endpoints: [{ address: '10.0.0.1:80', limits: { requests: 2 } }, { address: '10.0.0.2:80', limits: { requests: 2 } }] }
  - { name: us, policy: { preset: session-affinity }, labels: { region: us }, endpoints: [{ address: '10.0.1.1:80', limits: { requests: 2 } }] }
  - { name: small, policy: { preset: round-robin }, labels: { region: eu }, endpoints: [{ address: '10.0.2.1:80' }] }
routes:
  - { name: chat, match: { model: chat }, targets: [{ pool: eu }], fallback: [us, { pool: small, model: small }] }
  - { name: kept, match: { model: kept }, targets: [{ pool: eu }], fallback: [us, { pool: small, model: small }], residency: { label: region, values: [eu] } }
  - { name: moving, match: { model: moving }, targets: [{ pool: eu }], shift: { from: eu, to: us, start: '2026-03-01T00:00:00Z', durationMinutes: 60 } }
`;

interface Bench {
  readonly router: Router;
  readonly fleet: FleetView;
  /** `decided POOL`, `refused CODE`, `released POOL ENDING`, `dispatch POOL`. */
  readonly log: string[];
  wallMs: number;
  ask(facts?: Partial<RequestFacts>, options?: Parameters<Router['route']>[1]): Routed | Refusal;
  /** What became of it: a pool, with a star where it is a fallback, or a code. */
  fate(facts?: Partial<RequestFacts>): string;
  setAll(pool: string, state: 'ready' | 'not-ready'): void;
  fill(pool: string): void;
}

function bench(caps?: CapLeases): Bench {
  const outcome = loadConfig(yaml);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  const { config } = outcome;
  const fleet = new FleetView(config.pools);
  const log: string[] = [];
  const events: Partial<RouterEvents> = {
    decided: ({ pool }) => log.push(`decided ${pool.name}`),
    refused: (code) => log.push(`refused ${code}`),
    released: (pool, _address, { ending }) => log.push(`released ${pool} ${ending}`),
  };
  const made: Bench = {
    router: new Router({
      id: 'a',
      table: config.table,
      fleet,
      affinitySecret: config.affinitySecret,
      clock: { nowMs: () => 1_000, wallMs: () => made.wallMs },
      rng: { draw: () => 0.5 },
      exchange: { ...createMemoryExchange(), caps, publish: ({ kind, pool }) => log.push(`${kind} ${pool}`) },
      events: events as RouterEvents,
      expireAfterMsMax: 600_000,
      assumedDurationMs: 30_000,
      endpointsMax: 8,
    }),
    fleet,
    log,
    wallMs: 0,
    ask: (facts = {}, options = {}) => made.router.route({ ...noFacts, path: '/v1/chat/completions', model: 'chat', promptTokens: 10, ...facts }, options),
    fate: (facts) => {
      const outcome = made.ask(facts);
      return outcome.kind === 'refuse' ? outcome.code : `${outcome.pool.name}${outcome.isFallback ? '*' : ''}${outcome.model === undefined ? '' : `=${outcome.model}`}`;
    },
    setAll: (pool, state) => fleet.pool(pool)!.endpoints.forEach((endpoint) => endpoint.setState(state, 0)),
    fill: (pool) => fleet.pool(pool)!.endpoints.forEach((endpoint) => Object.assign(endpoint.own, { requests: 2 })),
  };
  return made;
}

describe('fallback', () => {
  it('goes down the list while nobody is ready, and says the most telling cause where nobody is left', () => {
    const on = bench();
    expect(on.fate()).toBe('eu');
    on.setAll('eu', 'not-ready');
    expect(on.fate()).toBe('us*');
    on.fill('us');
    expect(on.fate()).toBe('small*=small');
    on.setAll('small', 'not-ready');
    // One is at its limit, the others are not ready: waiting helps.
    expect(on.fate()).toBe('overloaded');
    on.setAll('us', 'not-ready');
    expect(on.fate()).toBe('no_ready_endpoint');
    on.setAll('eu', 'ready');
    expect(on.fate()).toBe('eu');
  });

  it('tells all pools that were asked, in order', () => {
    const on = bench();
    on.setAll('eu', 'not-ready');
    const routed = on.ask();
    expect(routed.account?.considered.map(({ pool, decision }) => [pool, decision.kind])).toEqual([
      ['eu', 'none'],
      ['us', 'route'],
    ]);
    on.setAll('us', 'not-ready');
    on.setAll('small', 'not-ready');
    expect(on.ask().account?.considered.map(({ pool }) => pool)).toEqual(['eu', 'us', 'small']);
  });

  it('never leaves the residency', () => {
    const on = bench();
    on.setAll('eu', 'not-ready');
    expect(on.fate({ model: 'kept' })).toBe('small*=small');
    on.setAll('small', 'not-ready');
    expect(on.fate({ model: 'kept' })).toBe('residency_unavailable');
    expect(on.fate()).toBe('us*');
  });

  it('takes over where the others are at their limit, for low priority earlier', () => {
    const on = bench();
    on.fleet.pool('eu')!.endpoints.forEach((endpoint) => Object.assign(endpoint.own, { requests: 1 }));
    expect(on.fate({ priority: -1 })).toBe('us*');
    expect(on.fate()).toBe('eu');
  });

  it('of a decision made again moves the reservation to the pool that now takes it, and back', () => {
    const on = bench();
    const first = on.ask({ session: 's' }, { provisional: true }) as Routed;
    on.setAll('eu', 'not-ready');
    const second = on.ask({ session: 's' }, { earlier: first, provisional: true }) as Routed;
    expect([second.pool.name, second.lease]).toEqual(['us', first.lease]);
    expect(on.fleet.pool('eu')!.endpoints.map(({ own }) => own.requests)).toEqual([0, 0]);
    on.setAll('eu', 'ready');
    const third = on.ask({ session: 's' }, { earlier: second }) as Routed;
    expect([third.pool.name, third.isFallback]).toEqual(['eu', false]);
    expect(on.fleet.pool('us')!.endpoints[0]!.own.requests).toBe(0);
    expect(on.router.requestsInFlight).toBe(1);
    expect(on.log).toEqual(['decided eu', 'dispatch eu']);
  });
});

describe('fallback over shared limits', () => {
  /** Places that other routers have taken, by pool, without this one having heard. */
  function capsWith(full: ReadonlySet<string>): { caps: CapLeases; asked: string[] } {
    const asked: string[] = [];
    return {
      asked,
      caps: {
        acquire: async (pool, _lease, endpoints) => {
          asked.push(pool);
          return { taken: full.has(pool) ? undefined : endpoints[0]?.address };
        },
        release: () => undefined,
        shareOf: (requestsMax) => requestsMax,
      },
    };
  }

  it('goes on where the places of the target turn out to be taken', async () => {
    const { caps, asked } = capsWith(new Set(['eu']));
    const on = bench(caps);
    const routed = on.ask() as Routed;
    expect([routed.pool.name, routed.needsPlace]).toEqual(['eu', true]);
    const secured = (await on.router.secure(routed)) as Routed;
    expect(asked).toEqual(['eu', 'us']);
    expect([secured.pool.name, secured.isFallback, secured.needsPlace, secured.lease]).toEqual(['us', true, false, routed.lease]);
    expect(secured.account.considered.map(({ pool }) => pool)).toEqual(['eu', 'us']);
    expect(on.log).toEqual(['decided us', 'dispatch us']);
    expect([on.fleet.pool('eu')!, on.fleet.pool('us')!].map(({ endpoints }) => endpoints.reduce((sum, { own }) => sum + own.requests, 0))).toEqual([0, 1]);
  });

  it('refuses where all are, since the one that is left would serve another model than the answer may have told', async () => {
    const on = bench(capsWith(new Set(['eu', 'us'])).caps);
    const outcome = await on.router.secure(on.ask() as Routed);
    expect(outcome).toMatchObject({ kind: 'refuse', code: 'overloaded' });
    expect(on.router.requestsInFlight).toBe(0);
    expect(on.log).toEqual(['refused overloaded']);
  });
});

describe('settle and reject', () => {
  it('a provisional decision that is settled counts as though it had been final', () => {
    const on = bench();
    const routed = on.ask({}, { provisional: true }) as Routed;
    expect(on.log).toEqual([]);
    on.router.settle(routed);
    on.router.settle(routed);
    expect(on.log).toEqual(['decided eu', 'dispatch eu']);
  });

  it('one that is rejected was never made; one that was told ends', () => {
    const on = bench();
    expect(on.router.reject(on.ask({}, { provisional: true }) as Routed, 'body_not_rewritable')).toMatchObject({ status: 400, code: 'body_not_rewritable' });
    expect(on.log).toEqual(['refused body_not_rewritable']);
    on.log.length = 0;
    on.router.reject(on.ask() as Routed, 'body_not_rewritable');
    expect(on.log).toEqual(['decided eu', 'dispatch eu', 'released eu not-proxied', 'done eu', 'refused body_not_rewritable']);
    expect(on.router.requestsInFlight).toBe(0);
  });
});

it('a shift follows the wall clock, not the one that measures', () => {
  const on = bench();
  const startMs = Date.parse('2026-03-01T00:00:00Z');
  const sessions = Array.from({ length: 60 }, (_, i) => `s${i}`);
  const inUs = (): string[] => sessions.filter((session) => on.fate({ model: 'moving', session, priority: 0 }).startsWith('us'));
  on.fleet.pool('us')!.endpoints.forEach((endpoint) => Object.assign(endpoint, { requestsMax: undefined }));
  on.fleet.pool('eu')!.endpoints.forEach((endpoint) => Object.assign(endpoint, { requestsMax: undefined }));
  on.wallMs = startMs - 1;
  expect(inUs()).toEqual([]);
  on.wallMs = startMs + 1_800_000;
  const half = inUs();
  expect(half.length).toBeGreaterThan(15);
  expect(half.length).toBeLessThan(45);
  on.wallMs = startMs + 3_600_000;
  expect(inUs()).toEqual(sessions);
});
