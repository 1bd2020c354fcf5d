import { loadConfig } from '../../src/config/load.ts';
import { noFacts, prefixBlockTokens, type RequestFacts } from '../../src/core/request-facts.ts';
import type { Load } from '../../src/fleet/load.ts';
import { type FleetPool, FleetView } from '../../src/fleet/fleet-view.ts';
import { createMemoryExchange } from '../../src/router/memory-exchange.ts';
import type { Clock } from '../../src/router/ports.ts';
import { Router } from '../../src/router/router.ts';
import type { Routed } from '../../src/router/routed.ts';
import { combineEvents } from '../../src/telemetry/event-log.ts';

/** Blocks of the system prompt that all prompts begin with. */
const commonBlocks = 4;
const inFlightMax = 64;
const sessions = 512;

/** Chained hashes stand for themselves here: any numbers below 2^53 that are spread. */
const blockHash = (prompt: number, index: number): number => ((prompt + 1) * 0x9e3779b97f4a7 + (index + 1) * 0x5851f42d4c957) % 2 ** 53;

/** Hashes of a prompt's blocks: those that all have in common, then its own. */
function blocksOf(prompt: number, own: number): number[] {
  return [...Array.from({ length: commonBlocks }, (_, i) => blockHash(0, i)), ...Array.from({ length: own }, (_, i) => blockHash(prompt, commonBlocks + i))];
}

export interface FleetUnderLoad {
  readonly router: Router;
  readonly pool: FleetPool;
  /** Decides on the next request and reserves its place. */
  routeNext(): Routed;
  /** Ends the oldest request, so that no more than some are in flight. */
  endOldest(): void;
}

/**
 * A router with one pool under load: every endpoint has requests of another router in flight and holds the common system prompt and some
 * sessions' prompts, one in twenty is draining, weights and limits differ a little. Time stands still but for a tick a request.
 */
export function createFleetUnderLoad(endpoints: number, policy: string): FleetUnderLoad {
  const written = Array.from({ length: endpoints }, (_, i) => ({
    address: `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}:8000`,
    weight: i % 4 === 3 ? 2 : 1,
    limits: { contextTokens: 200_000 },
  }));
  const outcome = loadConfig(JSON.stringify({ pools: [{ name: 'chat', policy: { preset: policy }, endpoints: written }] }));
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  const { config } = outcome;
  const fleet = new FleetView(config.pools);
  const pool = fleet.pool('chat');
  if (pool === undefined) throw new Error('no pool');

  let nowMs = 1_000;
  const clock: Clock = { nowMs: () => (nowMs += 0.01) };
  const loads = pool.endpoints.map(({ address }, i): [string, Load] => {
    const requests = 1 + ((i * 7) % 5);
    const requestsWaiting = i % 2;
    return [address, { requests, promptTokens: requests * 3_000, requestsWaiting, uncachedTokensWaiting: requestsWaiting * (500 + ((i * 37) % 4_000)) }];
  });
  pool.foreign.applySnapshot('other', new Map(loads), true, nowMs);
  pool.endpoints.forEach((endpoint, i) => {
    if (i % 20 === 19) endpoint.setState('draining', nowMs);
    for (let prompt = 1; prompt <= 3; prompt += 1) {
      pool.cache.note(endpoint.address, { keyId: undefined, promptTokens: 20_000, prefixHashes: blocksOf(1 + ((i * 3 + prompt) % sessions), 20) });
    }
  });

  let draws = 0;
  const router = new Router({
    id: 'bench',
    table: config.table,
    fleet,
    affinitySecret: 'of the benchmark',
    clock,
    rng: { draw: () => ((draws += 1) * 0.618_033_988_75) % 1 },
    exchange: createMemoryExchange(),
    events: combineEvents({}),
    expireAfterMsMax: 1_800_000,
    assumedDurationMs: 30_000,
    endpointsMax: 8,
  });
  // As `FactReader.toFacts` makes them: all of one shape.
  const requests = Array.from({ length: sessions }, (_, i): RequestFacts => {
    const own = 4 + (i % 40);
    return {
      ...noFacts,
      path: '/v1/chat/completions',
      model: 'm',
      session: `session-${i}`,
      promptTokens: (commonBlocks + own) * prefixBlockTokens + 100,
      maxTokens: 512,
      stream: true,
      prefixHashes: blocksOf(i + 1, own),
    };
  });
  let next = 0;
  const leases: string[] = [];
  return {
    router,
    pool,
    routeNext: () => {
      const facts = requests[next % sessions];
      next += 1;
      const routed = router.route(facts ?? noFacts);
      if (routed.kind !== 'route') throw new Error(routed.code);
      leases.push(routed.lease);
      return routed;
    },
    endOldest: () => {
      if (leases.length <= inFlightMax) return;
      router.observe(leases.shift() ?? '', { ending: 'finished', signal: 'access-log', status: 200 });
    },
  };
}
