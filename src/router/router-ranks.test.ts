import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import { noFacts } from '../core/request-facts.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { combineEvents } from '../telemetry/event-log.ts';
import { createMemoryExchange } from './memory-exchange.ts';
import type { CapLeases } from './ports.ts';
import type { Routed } from './routed.ts';
import { Router } from './router.ts';

// Data-parallel ranks through the router: each is an endpoint of its own, but what Envoy is told has to fit one rank header.
function create(endpoints: string, { endpointsMax = 8, caps }: { endpointsMax?: number; caps?: CapLeases } = {}): { router: Router; fleet: FleetView; route: (session?: string) => Routed } {
  const outcome = loadConfig(`pools: [{ name: p, policy: { preset: ${caps === undefined ? 'session-affinity' : 'round-robin'} }, endpoints: [${endpoints}] }]`);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  const { pools, table } = outcome.config;
  const fleet = new FleetView(pools);
  const router = new Router({
    id: 'a',
    table,
    fleet,
    affinitySecret: 'test-secret',
    clock: { nowMs: () => 0 },
    rng: { draw: () => 0.5 },
    exchange: { ...createMemoryExchange(), ...(caps !== undefined && { caps }) },
    events: combineEvents(),
    expireAfterMsMax: 1_800_000,
    assumedDurationMs: 30_000,
    endpointsMax,
  });
  const route = (session?: string): Routed => {
    const routed = router.route({ ...noFacts, path: '/v1/chat/completions', session });
    if (routed.kind !== 'route') throw new Error(routed.code);
    return routed;
  };
  return { router, fleet, route };
}

const equal = [1, 2, 3].map((i) => `{ address: '10.0.0.${i}:80', dpSize: 4 }`).join(', ');

describe('ranks', () => {
  it('are told with the same rank elsewhere, in the order that the session prefers them', () => {
    const { route } = create(equal);
    const ranks = new Set<string>();
    for (let session = 0; session < 60; session += 1) {
      const { addresses, decision } = route(`session ${session}`);
      const rank = addresses[0]!.split('#')[1]!;
      ranks.add(rank);
      expect([...addresses].sort()).toEqual([1, 2, 3].map((i) => `10.0.0.${i}:80#${rank}`));
      expect(addresses).toEqual(decision.addresses.filter((address) => address.endsWith(`#${rank}`)));
    }
    expect([...ranks].sort()).toEqual(['0', '1', '2', '3']);
  });

  it('fill the list up to its length with what fits, not with what comes first', () => {
    const { route } = create(equal, { endpointsMax: 2 });
    for (let session = 0; session < 20; session += 1) {
      const { addresses } = route(`session ${session}`);
      expect(addresses).toHaveLength(2);
      expect(new Set(addresses.map((address) => address.split('#')[0])).size).toBe(2);
      expect(new Set(addresses.map((address) => address.split('#')[1])).size).toBe(1);
    }
  });

  it('are counted apart, and each given back', () => {
    const { router, fleet, route } = create(equal);
    const { lease, addresses } = route('s');
    const busy = (): string[] => fleet.pool('p')!.endpoints.flatMap(({ address, requests }) => (requests > 0 ? [address] : []));
    expect(busy()).toEqual([addresses[0]]);
    router.observe(lease, { ending: 'finished', signal: 'access-log', status: 200, servedBy: addresses[0]!.split('#')[0] });
    expect(busy()).toEqual([]);
  });

  it('have a place of their own where limits are exact, and the list fits the one that was taken', async () => {
    const asked: string[][] = [];
    const caps: CapLeases = {
      acquire: (_pool, _lease, endpoints) => {
        asked.push(endpoints.map(({ address }) => address));
        return Promise.resolve({ taken: '10.0.0.2:80#1' });
      },
      release: () => {},
      shareOf: (requestsMax) => requestsMax,
    };
    const capped = [1, 2].map((i) => `{ address: '10.0.0.${i}:80', dpSize: 2, limits: { requests: 1 } }`).join(', ');
    const { router, route } = create(`${capped}, { address: '10.0.0.3:80', dpSize: 2 }, { address: '10.0.0.4:80' }`, { caps });
    let routed = route();
    // Round robin comes to the capped ones first.
    expect(routed.needsPlace).toBe(true);
    routed = (await router.secure(routed)) as Routed;
    expect(asked[0]!.slice(0, 4)).toEqual(['10.0.0.1:80#0', '10.0.0.1:80#1', '10.0.0.2:80#0', '10.0.0.2:80#1']);
    expect(routed.addresses).toEqual(['10.0.0.2:80#1', '10.0.0.3:80#1']);
  });
});
