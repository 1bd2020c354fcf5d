import type { CompiledConfig } from '../src/config/load-outcome.ts';
import { redisStateDefaults } from '../src/config/schema.ts';
import { FleetView } from '../src/fleet/fleet-view.ts';
import type { EndpointChange } from '../src/fleet/endpoint-change.ts';
import { Placements } from '../src/fleet/placements.ts';
import { SharedState } from '../src/fleet/shared-state.ts';
import { HealthWatch } from '../src/router/health-watch.ts';
import { createMemoryExchange } from '../src/router/memory-exchange.ts';
import type { Clock, Rng, StateExchange } from '../src/router/ports.ts';
import type { ProbeVerdict } from '../src/router/probe-verdict.ts';
import { Router } from '../src/router/router.ts';
import { SharedExchange } from '../src/router/shared-exchange.ts';
import { combineEvents } from '../src/telemetry/event-log.ts';
import type { VirtualTime } from './clock/virtual-time.ts';
import type { ModelledCaps } from './network/modelled-caps.ts';
import type { ModelledRedis } from './network/modelled-redis.ts';
import type { ProbeFinding } from './simulated-endpoint.ts';

/** How much routers tell one another: events as they happen, snapshots only, or nothing. */
export type Sharing = 'pushed' | 'snapshots' | 'none';

/** One router of the simulated fleet: the real one, on virtual time. */
export interface SimulatedRouter {
  readonly id: string;
  readonly router: Router;
  readonly fleet: FleetView;
  /** A probe of its own found this of an endpoint; told to the pools that it is in and that are probed. */
  probed(address: string, finding: ProbeFinding): void;
  /** Discovery names all endpoints of the configuration but these. */
  discover(absent: ReadonlySet<string>): void;
}

export interface SimulatedRouterOptions {
  readonly id: string;
  readonly config: CompiledConfig;
  readonly time: VirtualTime & Clock;
  readonly rng: Rng;
  readonly sharing: Sharing;
  readonly redis: ModelledRedis;
  readonly caps: ModelledCaps;
  /** Until its first snapshot, in ms: routers do not speak all at once. */
  readonly phaseMs: number;
  /** Hears of every change of an endpoint's state. */
  readonly onChange: (router: Pick<SimulatedRouter, 'id' | 'fleet'>, change: EndpointChange) => void;
}

/** Between looks for expired leases, and between looks after endpoints' health, in ms; as the service has it. */
const expiryMs = 1_000;
const healthMs = 100;

/** Composes a router as the service does, with the exchange that the simulation models. */
export function createSimulatedRouter({ id, config, time, rng, sharing, redis, caps, phaseMs, onChange }: SimulatedRouterOptions): SimulatedRouter {
  const { settings, table, pools } = config;
  const fleet = new FleetView(pools);
  const placements = new Placements();
  const sharedState = new SharedState(fleet, placements);
  const { exchange, tickMs, tick } = sharing === 'none' ? { exchange: createMemoryExchange(), tickMs: 0, tick: undefined } : shared();
  const health: HealthWatch = new HealthWatch({
    routerId: id,
    fleet,
    settings: config.health,
    clock: time,
    hearsAll: () => sharing === 'none' || exchange.status().pushing,
    publish: (pool, row) => exchange.publish({ kind: 'health', pool, address: row.address, row }),
    changed: (change) => onChange({ id, fleet }, change),
    withheld: () => {},
  });
  sharedState.health = health;
  const router = new Router({
    id,
    table,
    fleet,
    health,
    placements,
    affinitySecret: config.affinitySecret,
    clock: time,
    rng,
    exchange,
    events: combineEvents(),
    expireAfterMsMax: settings.leases.expireAfterMsMax,
    assumedDurationMs: settings.leases.assumedDurationMs,
    endpointsMax: settings.outputs.endpointsMax,
  });
  every(time, expiryMs, phaseMs, () => {
    router.expire();
    for (const change of fleet.sweep(time.nowMs(), settings.leases.expireAfterMsMax)) health.membership(change);
  });
  every(time, healthMs, phaseMs, () => health.tick());
  if (tick !== undefined) every(time, tickMs, phaseMs, tick);
  return {
    id,
    router,
    fleet,
    probed: (address, finding) => {
      const verdict: ProbeVerdict = finding === 'passing' ? { kind: finding } : { kind: finding, detail: 'simulated' };
      for (const { name } of pools) if (config.health.get(name)?.isProbed === true) health.probed(name, address, verdict);
    },
    discover: (absent) => {
      const named = pools.map(({ name, endpoints }) => ({ name, endpoints: endpoints.filter(({ address }) => !absent.has(address)) }));
      for (const change of fleet.update(named, time.nowMs())) health.membership(change);
    },
  };

  function shared(): { exchange: StateExchange; tickMs: number; tick: () => void } {
    const { snapshotMs, pushEventsPerSecondMax } = settings.state.kind === 'redis' ? settings.state : redisStateDefaults;
    const sharedExchange: SharedExchange = new SharedExchange({
      routerId: id,
      clock: time,
      transport: redis.join(id, () => sharedExchange, [...fleet.pools.keys()]),
      state: sharedState,
      snapshotMs,
      pushEventsPerSecondMax: sharing === 'pushed' ? pushEventsPerSecondMax : 0,
      onForwarded: ({ lease, completion }) => router.observe(lease, completion),
    });
    const made: StateExchange = {
      ...createMemoryExchange(),
      kind: 'redis',
      publish: (event) => sharedExchange.publish(event),
      forward: (owner, lease, completion) => sharedExchange.forward(owner, lease, completion),
      snapshotAgeMs: () => sharedExchange.snapshotAgeMs(),
      status: () => sharedExchange.status(),
      caps: caps.leasesFor(() => sharedExchange.capShare()),
    };
    return { exchange: made, tickMs: snapshotMs, tick: () => sharedExchange.tick() };
  }
}

function every(time: VirtualTime, periodMs: number, firstMs: number, action: () => void): void {
  time.after(firstMs, () => {
    action();
    every(time, periodMs, periodMs, action);
  });
}
