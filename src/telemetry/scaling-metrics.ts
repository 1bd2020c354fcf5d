import { Gauge, type Registry } from 'prom-client';
import { endpointStates } from '../core/fleet-snapshot.ts';
import type { FleetPool, FleetView } from '../fleet/fleet-view.ts';
import { decodeTokensPerS } from '../fleet/pool-load.ts';
import type { PoolScaling } from '../router/scaling-watch.ts';

export interface ScalingReadings {
  readonly fleet: FleetView;
  /** How a pool stands; undefined: it is not watched. */
  readonly scaling: (pool: string) => PoolScaling | undefined;
}

/** Registers how loaded the pools are, and how many servers they should have. Read when somebody asks; pools that are gone are gone here too. */
export function registerScalingReadings(registry: Registry, { fleet, scaling }: ScalingReadings): void {
  const registers = [registry];
  const perPool = (name: string, help: string, read: (scaling: PoolScaling, pool: FleetPool) => number | undefined): void => {
    new Gauge({
      name,
      help,
      labelNames: ['pool'],
      // Of several workers each knows of all requests.
      aggregator: 'first',
      registers,
      collect() {
        this.reset();
        for (const pool of fleet.pools.values()) {
          const known = scaling(pool.name);
          const value = known && read(known, pool);
          if (value !== undefined) this.set({ pool: pool.name }, value);
        }
      },
    });
  };
  perPool('fairlead_pool_desired_replicas', 'Servers that the pool should have, for an autoscaler; /api/v1/autoscale tells why.', ({ advice }) => advice.desiredReplicas);
  perPool('fairlead_pool_serving_replicas', 'Servers of the pool that take requests as a matter of course.', ({ load }) => load.servers);
  perPool(
    'fairlead_pool_pressure_seconds',
    'Time that a new prompt would wait for those before it, over all endpoints that serve; at most 60, and 0 where nobody serves.',
    ({ load }) => load.waitMs / 1_000,
  );
  perPool(
    'fairlead_pool_limit_utilization_ratio',
    'Requests in flight as a part of the limits of all endpoints that serve; absent where one of them has none.',
    ({ load }) => load.inFlightShare,
  );
  perPool('fairlead_pool_waiting_tokens', 'Prompt tokens that all routers have waiting in the pool, less those believed to be cached or computed.', ({ load }) => load.waitingTokens);
  perPool('fairlead_pool_prefill_tokens_per_second', 'Prompt tokens not believed to be cached that all routers send to the pool.', ({ load }) => load.prefillTokensPerS);
  perPool(
    'fairlead_pool_decode_tokens_per_second',
    'Tokens that the pool generates, estimated from requests in flight and the pace measured in response bytes; absent where none was.',
    (_scaling, pool) => decodeTokensPerS(pool),
  );
  perPool(
    'fairlead_pool_prefill_capacity_tokens_per_second',
    'Prompt tokens that the endpoints that serve can compute: as seen when they were busy, else as configured.',
    ({ load }) => load.capacityTokensPerS * load.weight,
  );
  perPool('fairlead_pool_standby_exhausted', '1 while the pool is under pressure and nobody of its reserve is left to call; absent where it has no reserve.', ({ standby }) =>
    standby.waiting + standby.active === 0 ? undefined : Number(standby.exhausted),
  );
  new Gauge({
    name: 'fairlead_pool_standby_servers',
    help: 'Servers of the pool\'s reserve: "waiting" to be called, or "active".',
    labelNames: ['pool', 'state'],
    aggregator: 'first',
    registers,
    collect() {
      this.reset();
      for (const { name } of fleet.pools.values()) {
        const standby = scaling(name)?.standby;
        if (standby === undefined || standby.waiting + standby.active === 0) continue;
        this.set({ pool: name, state: 'waiting' }, standby.waiting);
        this.set({ pool: name, state: 'active' }, standby.active);
      }
    },
  });
  new Gauge({
    name: 'fairlead_pool_endpoints',
    help: 'Endpoints of the pool, by the state that they are in.',
    labelNames: ['pool', 'state'],
    aggregator: 'first',
    registers,
    collect() {
      this.reset();
      for (const { name, endpoints } of fleet.pools.values()) {
        for (const state of endpointStates) this.set({ pool: name, state }, endpoints.filter((endpoint) => endpoint.state === state).length);
      }
    },
  });
}
