import { loadConfig } from '../../src/config/load.ts';
import type { CompiledConfig } from '../../src/config/load-outcome.ts';
import { redisStateDefaults } from '../../src/config/schema.ts';
import { noFacts, type RequestFacts } from '../../src/core/request-facts.ts';
import { FleetView } from '../../src/fleet/fleet-view.ts';
import { Placements } from '../../src/fleet/placements.ts';
import { SharedState } from '../../src/fleet/shared-state.ts';
import { createRedisExchange } from '../../src/redis/redis-exchange.ts';
import type { RedisSettings } from '../../src/redis/settings.ts';
import type { Clock, Completion, ExchangeTrouble, StateExchange } from '../../src/router/ports.ts';
import { Router } from '../../src/router/router.ts';
import type { Routed } from '../../src/router/routed.ts';
import { combineEvents } from '../../src/telemetry/event-log.ts';

/** A router with a real exchange over Redis, in this process: all of Fairlead but the gRPC server. */
export interface RouterUnderTest {
  readonly id: string;
  readonly router: Router;
  readonly fleet: FleetView;
  readonly placements: Placements;
  readonly state: SharedState;
  readonly exchange: StateExchange;
  /** Troubles told, in their order; `undefined` where it recovered. */
  readonly troubles: (ExchangeTrouble | undefined)[];
  /** Messages that were not sent. */
  dropped: number;
  /** What pushing was last said to be. */
  pushing: boolean;
  /** Durations of all calls of `route`, in ms. */
  readonly routeMs: number[];
  /** Completion reports that other routers handed on. */
  forwarded: number;
  route(facts: Partial<RequestFacts>): Routed;
  /** Ends a request as Envoy's access log would. */
  finish(routed: Routed): void;
  /** All that it believes to be in flight on the pool's endpoints, over the fleet: requests by address. */
  requestsSeen(pool?: string): Record<string, number>;
  stop(): Promise<void>;
}

export interface RouterUnderTestOptions {
  readonly id: string;
  readonly config: CompiledConfig;
  readonly settings: RedisSettings;
  readonly secret?: string;
}

/** The clock of all routers of a test. */
export const clock: Clock = { nowMs: () => performance.now() };

/** Settings as the configuration's defaults make them. */
export function redisSettings(url: string, changes: Partial<RedisSettings> = {}): RedisSettings {
  const unset = { username: undefined, password: undefined, tls: undefined, sentinel: undefined, cluster: undefined };
  const { keyPrefix, connectTimeoutMs, commandTimeoutMs, snapshotMs, pushEventsPerSecondMax } = redisStateDefaults;
  return { url, keyPrefix, connectTimeoutMs, commandTimeoutMs, snapshotMs, pushEventsPerSecondMax, ...unset, ...changes };
}

/** Compiles a configuration in YAML, which must be right. */
export function compiled(yaml: string): CompiledConfig {
  const outcome = loadConfig(yaml);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config;
}

/** A pool `chat` of so many endpoints, 10.0.0.1:80 and on. */
export function chatPool(endpoints: number, policy = 'session-affinity'): CompiledConfig {
  const addresses = Array.from({ length: endpoints }, (_, i) => `{ address: '10.0.0.${i + 1}:80' }`);
  return compiled(`pools: [{ name: chat, policy: { preset: ${policy} }, endpoints: [${addresses.join(', ')}] }]`);
}

/** Makes a router that is not started. Chance is seeded by its id. */
export function createRouterUnderTest({ id, config, settings, secret = 'one per fleet' }: RouterUnderTestOptions): RouterUnderTest {
  const fleet = new FleetView(config.pools);
  const placements = new Placements();
  const state = new SharedState(fleet, placements);
  const events = combineEvents({
    exchangeTrouble: (trouble) => void made.troubles.push(trouble),
    exchangeRecovered: () => void made.troubles.push(undefined),
    exchangeDropped: () => void (made.dropped += 1),
    pushingChanged: (pushing) => void (made.pushing = pushing),
  });
  const exchange = createRedisExchange({
    settings,
    routerId: id,
    clock,
    state,
    events,
    onForwarded: ({ lease, completion }) => {
      made.forwarded += 1;
      made.router.observe(lease, completion);
    },
  });
  const router = new Router({
    id,
    table: config.table,
    fleet,
    placements,
    affinitySecret: secret,
    clock,
    rng: { draw: seededDraw(id) },
    exchange,
    events,
    expireAfterMsMax: 1_800_000,
    assumedDurationMs: 1_800_000,
    endpointsMax: 8,
  });
  const finished: Completion = { ending: 'finished', signal: 'access-log', status: 200 };
  const made: RouterUnderTest = {
    id,
    router,
    fleet,
    placements,
    state,
    exchange,
    troubles: [],
    dropped: 0,
    pushing: true,
    routeMs: [],
    forwarded: 0,
    route: (facts) => {
      const startedMs = performance.now();
      const outcome = router.route({ ...noFacts, path: '/v1/chat/completions', ...facts });
      made.routeMs.push(performance.now() - startedMs);
      if (outcome.kind !== 'route') throw new Error(`refused: ${outcome.code}`);
      return outcome;
    },
    finish: ({ lease }) => router.observe(lease, finished),
    requestsSeen: (pool = 'chat') => Object.fromEntries((fleet.pool(pool)?.endpoints ?? []).map((endpoint) => [endpoint.address, endpoint.requests])),
    stop: () => exchange.stop(),
  };
  return made;
}

/** Makes a router and waits until it has joined. */
export async function startRouter(options: RouterUnderTestOptions): Promise<RouterUnderTest> {
  const made = createRouterUnderTest(options);
  await made.exchange.start();
  return made;
}

/** Even numbers in [0, 1) that are the same for the same text. */
export function seededDraw(text: string): () => number {
  let state = 0x9e3779b9;
  for (let i = 0; i < text.length; i += 1) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Waits until `check` holds, looking every 5 ms. Resolves with the time it took; rejects with what `describe` says. */
export async function until(check: () => boolean | Promise<boolean>, msMax: number, describe: () => unknown = () => 'it did not happen'): Promise<number> {
  const startedMs = performance.now();
  for (;;) {
    if (await check()) return performance.now() - startedMs;
    if (performance.now() - startedMs > msMax) throw new Error(`not within ${msMax} ms: ${JSON.stringify(describe())}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The value below which a share of all lies. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}
