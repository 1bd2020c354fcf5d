import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { noFacts, type RequestFacts } from '../core/request-facts.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { createMemoryExchange } from './memory-exchange.ts';
import type { RouterEvents } from './ports.ts';
import { RouteWeights } from './route-weights.ts';
import { Router } from './router.ts';

function compiled(yaml: string): CompiledConfig {
  const outcome = loadConfig(yaml);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config;
}

const pool = (name: string, ...addresses: string[]): string => `{ name: ${name}, policy: { preset: round-robin }, endpoints: [${addresses.map((address) => `{ address: '${address}' }`).join()}] }`;
const a = pool('a', '10.0.0.1:80');
const b = pool('b', '10.0.0.2:80', '10.0.0.3:80', '10.0.0.4:80');

/** A router, and how to give it another configuration. */
function start(yaml: string): { router: Router; fleet: FleetView; ask: (facts?: Partial<RequestFacts>, options?: Parameters<Router['route']>[1]) => string; change: (yaml: string) => CompiledConfig; lease: () => string } {
  const config = compiled(yaml);
  const fleet = new FleetView(config.pools);
  const settingsOf = ({ table, settings: { leases, outputs } }: CompiledConfig): Parameters<Router['reconfigure']>[0] => ({
    table,
    expireAfterMsMax: leases.expireAfterMsMax,
    assumedDurationMs: leases.assumedDurationMs,
    endpointsMax: outputs.endpointsMax,
  });
  let nowMs = 0;
  const events = new Proxy({}, { get: () => () => undefined }) as RouterEvents;
  const router = new Router({
    id: 'r',
    fleet,
    affinitySecret: 's',
    clock: { nowMs: () => (nowMs += 10) },
    rng: { draw: () => 0.5 },
    exchange: createMemoryExchange(),
    events,
    weights: new RouteWeights(config.table),
    ...settingsOf(config),
  });
  let lease = '';
  return {
    router,
    fleet,
    ask: (facts = {}, options) => {
      const outcome = router.route({ ...noFacts, path: '/v1/chat/completions', model: 'm', ...facts }, options);
      if (outcome.kind === 'refuse') return outcome.code;
      lease = outcome.lease;
      return `${outcome.pool.name} ${outcome.addresses.join(' ')}`;
    },
    change: (next) => {
      const changed = compiled(next);
      fleet.update(changed.pools, nowMs);
      router.reconfigure(settingsOf(changed));
      return changed;
    },
    lease: () => lease,
  };
}

describe('a router that is given another configuration', () => {
  it('decides by it from the next request on, with pools that are new', () => {
    const { ask, change } = start(`pools: [${a}]`);
    expect(ask()).toBe('a 10.0.0.1:80');
    change(`pools: [${b}]\noutputs: { endpointsMax: 2 }`);
    expect(ask()).toMatch(/^b 10\.0\.0\.\d:80 10\.0\.0\.\d:80$/);
  });

  it('releases what was in flight in a pool that is gone', () => {
    const { router, fleet, ask, change, lease } = start(`pools: [${a}]`);
    ask();
    const endpoint = fleet.pool('a')!.endpoint('10.0.0.1:80')!;
    change(`pools: [${b}]`);
    expect([endpoint.own.requests, endpoint.state, router.requestsInFlight]).toEqual([1, 'draining', 1]);
    fleet.sweep(60_000_000, 0);
    expect(fleet.pool('a')!.endpoints).toEqual([]);
    router.observe(lease(), { ending: 'finished', signal: 'access-log', status: 200 });
    expect([endpoint.own.requests, router.requestsInFlight]).toEqual([0, 0]);
  });

  it('decides anew where a provisional choice was of a pool that is gone: the place moves', () => {
    const { router, fleet, change } = start(`pools: [${a}]`);
    const facts = { ...noFacts, path: '/v1/chat/completions', model: 'm' };
    const earlier = router.route(facts, { provisional: true });
    if (earlier.kind !== 'route') throw new Error(earlier.code);
    const left = fleet.pool('a')!.endpoints[0]!;
    change(`pools: [${b}]`);
    const routed = router.route(facts, { earlier });
    expect(routed).toMatchObject({ kind: 'route', lease: earlier.lease, pool: { name: 'b' } });
    expect([left.own.requests, router.requestsInFlight]).toEqual([0, 1]);
  });

  it('decides by the routes that facts were read for where the new ones look at more', () => {
    const { router, ask, change } = start(`pools: [${a}]`);
    const before = router.table;
    const after = change(`pools: [${a}, ${b}]\nroutes: [{ match: { headers: { x-tier: false } }, targets: [{ pool: b }] }, { targets: [{ pool: a }] }]`).table;
    // Nobody looked whether it has x-tier.
    expect(ask({}, { readFor: before })).toMatch(/^a /);
    expect(ask({}, { readFor: after })).toMatch(/^b /);
    expect(ask()).toMatch(/^b /);
    expect(router.missingFacts({ path: '/', model: undefined, session: undefined }, before)).toEqual(new Set());
  });

  it('decides by the new routes where they look at nothing more', () => {
    const { router, ask, change } = start(`pools: [${a}]\nroutes: [{ match: { headers: { x-tier: big } }, targets: [{ pool: a }] }, { targets: [{ pool: a }] }]`);
    const before = router.table;
    change(`pools: [${b}]`);
    expect(ask({}, { readFor: before })).toMatch(/^b /);
  });

  it('does not begin to rewrite a request whose body nobody kept for it', () => {
    const { router, ask, change } = start(`pools: [${a}]`);
    const before = router.table;
    change(`pools: [${a}, ${b}]\nroutes: [{ targets: [{ pool: b, model: other }] }]`);
    expect(ask({}, { readFor: before })).toMatch(/^a /);
    expect(ask()).toMatch(/^b /);
  });
});
