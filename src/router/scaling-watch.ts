import { toHostPort } from '../core/data-parallel-rank.ts';
import { Autoscaler, type AutoscaleSettings, type ScalingAdvice } from '../fleet/autoscale.ts';
import { type EndpointHealth, isServing } from '../fleet/endpoint-health.ts';
import type { FleetPool, FleetView } from '../fleet/fleet-view.ts';
import { type PoolLoad, PoolLoadMeter } from '../fleet/pool-load.ts';
import { type ReserveServer, type StandbyChange, StandbyController, type StandbySettings } from '../fleet/standby.ts';
import type { Clock, ExchangeStatus, StateExchange } from './ports.ts';

/** How one pool scales. */
export interface ScalingSettings {
  readonly pool: string;
  /** Prefill that an endpoint of weight 1 is reckoned to do, in tokens/ms. */
  readonly tokensPerMs: number;
  readonly standby: StandbySettings;
  readonly autoscale: AutoscaleSettings;
}

/** The way to call an endpoint of the reserve, and to send it back; every router hears of it. */
export interface Reserve {
  reserve(pool: string, address: string, active: boolean, cause: 'pressure' | 'calm', detail?: string): void;
}

export interface ScalingWatchOptions {
  readonly routerId: string;
  readonly fleet: FleetView;
  readonly settings: readonly ScalingSettings[];
  readonly health: Reserve;
  readonly exchange: Pick<StateExchange, 'kind' | 'status'>;
  readonly clock: Clock;
}

/** How one pool stands. */
export interface PoolScaling {
  readonly load: PoolLoad;
  readonly advice: ScalingAdvice;
  readonly standby: {
    /** Servers that wait to be called, and servers that were. */
    readonly waiting: number;
    readonly active: number;
    /** Under pressure, and nobody is left to call. */
    readonly exhausted: boolean;
  };
}

interface Watched {
  readonly settings: ScalingSettings;
  readonly meter: PoolLoadMeter;
  readonly controller: StandbyController;
  readonly autoscaler: Autoscaler;
  latest: PoolScaling | undefined;
}

/** How often `tick` should be called, in ms. */
export const scalingTickMs = 250;

/**
 * Watches the load of all pools: calls servers of the reserve under pressure and sends them back, and says how many servers a pool should
 * have. Every router watches; of those that hear one another the first by id decides on the reserve, so that another can take over with
 * what it has seen.
 */
export class ScalingWatch {
  readonly #options: ScalingWatchOptions;
  #watched: ReadonlyMap<FleetPool, Watched> = new Map();
  #settings: readonly ScalingSettings[];

  constructor(options: ScalingWatchOptions) {
    this.#options = options;
    this.#settings = options.settings;
    this.tick();
  }

  /** Goes by other settings from the next tick on. Pools whose settings are the same keep what was measured. */
  reconfigure(settings: readonly ScalingSettings[]): void {
    this.#settings = settings;
  }

  /** To be called every `scalingTickMs`. */
  tick(): void {
    const { routerId, fleet, exchange, clock } = this.#options;
    const nowMs = clock.nowMs();
    const status = exchange.status();
    const isAlone = exchange.kind === 'memory';
    const leads = isAlone || !status.connected || isFirst(routerId, status);
    // What the others have in flight is not known while they cannot be heard: enough to call help, not to send it away.
    const mayLeave = isAlone || status.connected;
    const unheard = isAlone || status.pushing ? 0 : status.routers.length - 1;
    const watched = new Map<FleetPool, Watched>();
    for (const settings of this.#settings) {
      const pool = fleet.pool(settings.pool);
      if (pool === undefined) continue;
      const one = this.#watch(pool, settings);
      watched.set(pool, one);
      const load = one.meter.sample(nowMs, unheard);
      const servers = toReserve(pool);
      const verdict = one.controller.decide(load, servers, nowMs, mayLeave);
      if (leads) for (const change of verdict.changes) this.#make(pool, change);
      one.latest = {
        load,
        advice: one.autoscaler.advise(load, countServers(pool), nowMs),
        standby: {
          waiting: servers.filter(({ active }) => !active).length,
          active: servers.filter(({ active }) => active).length,
          exhausted: servers.length > 0 && verdict.exhausted,
        },
      };
    }
    this.#watched = watched;
  }

  /** As of the last tick; undefined: there is no such pool. */
  of(name: string): PoolScaling | undefined {
    const pool = this.#options.fleet.pool(name);
    return pool && this.#watched.get(pool)?.latest;
  }

  #make(pool: FleetPool, { address, active, cause, detail }: StandbyChange): void {
    for (const endpoint of pool.endpoints) {
      if (toHostPort(endpoint.address) === address) this.#options.health.reserve(pool.name, endpoint.address, active, cause, detail);
    }
  }

  #watch(pool: FleetPool, settings: ScalingSettings): Watched {
    const known = this.#watched.get(pool);
    if (known !== undefined && isSame(known.settings, settings)) return known;
    return {
      settings,
      meter: known?.settings.tokensPerMs === settings.tokensPerMs ? known.meter : new PoolLoadMeter(pool, settings.tokensPerMs),
      controller: new StandbyController(settings.standby),
      autoscaler: new Autoscaler(settings.autoscale),
      latest: undefined,
    };
  }
}

function isFirst(self: string, { routers }: ExchangeStatus): boolean {
  return routers.every(({ id }) => id >= self);
}

/** Settings come from parsed configurations: equal ones are written the same. */
function isSame(a: ScalingSettings, b: ScalingSettings): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}

/** The reserve of a pool by server: the ranks behind one address join and leave together. */
function toReserve(pool: FleetPool): ReserveServer[] {
  const servers = new Map<string, ReserveServer>();
  for (const { address: id, weight, state, health } of pool.endpoints) {
    if (health.reserve === 'none' || health.leaving) continue;
    const address = toHostPort(id);
    const known = servers.get(address);
    servers.set(address, {
      address,
      weight: (known?.weight ?? 0) + weight,
      active: health.reserve === 'active' && (known?.active ?? true),
      serving: isServing(state) || (known?.serving ?? false),
      able: isAble(health) && (known?.able ?? true),
    });
  }
  return [...servers.values()];
}

/** Whether nothing but the reserve keeps it from serving. */
function isAble({ operator, probe, breaker }: EndpointHealth): boolean {
  return operator === 'none' && (probe === 'none' || probe === 'passing') && breaker.state !== 'open';
}

/** Servers that are there to serve, whether or not they can now; and the limit of one. */
function countServers(pool: FleetPool): { known: number; limitPerServer: number | undefined } {
  let known = 0;
  // Sorted by address: the ranks of a server stand together.
  let last = '';
  let limits: number | undefined = 0;
  for (const { address, state, requestsMax } of pool.endpoints) {
    if (state === 'standby' || state === 'draining') continue;
    const server = toHostPort(address);
    if (server !== last) known += 1;
    last = server;
    limits = limits === undefined || requestsMax === undefined ? undefined : limits + requestsMax;
  }
  return { known, limitPerServer: limits === undefined || known === 0 ? undefined : limits / known };
}
