import type { AdviceReason } from '../fleet/autoscale.ts';
import type { FleetView } from '../fleet/fleet-view.ts';
import { decodeTokensPerS } from '../fleet/pool-load.ts';
import type { PoolScaling } from '../router/scaling-watch.ts';

/** How many servers a pool should have, and why: what `/api/v1/autoscale/:pool` answers. Names are part of the API: autoscalers read them. */
export interface AutoscaleReport {
  readonly pool: string;
  readonly desiredReplicas: number;
  /** What the advice rests on. */
  readonly reason: AdviceReason;
  /** Servers that take requests now. */
  readonly servingReplicas: number;
  /** Servers of the reserve. */
  readonly standby: { readonly waiting: number; readonly active: number; readonly exhausted: boolean };
  /** Time that a new prompt would wait for those before it. */
  readonly pressureMs: number;
  /** Requests in flight as a part of the limits; null: not every endpoint has one. */
  readonly inFlightShare: number | null;
  readonly requestsInFlight: number;
  readonly requestsPerSecond: number;
  readonly promptTokensPerSecond: number;
  /** Of these, those not believed to be cached. */
  readonly prefillTokensPerSecond: number;
  /** Null: no pace of generation was measured. */
  readonly decodeTokensPerSecond: number | null;
  readonly waitingTokens: number;
  /** What the endpoints that serve can prefill. */
  readonly prefillCapacityTokensPerSecond: number;
}

/** All pools that are watched, in the fleet's order. */
export function createAutoscaleReports(fleet: FleetView, scaling: (pool: string) => PoolScaling | undefined): AutoscaleReport[] {
  return [...fleet.pools.values()].flatMap((pool) => {
    const known = scaling(pool.name);
    if (known === undefined) return [];
    const { advice, load, standby } = known;
    const decode = decodeTokensPerS(pool);
    return {
      pool: pool.name,
      desiredReplicas: advice.desiredReplicas,
      reason: advice.reason,
      servingReplicas: load.servers,
      standby,
      pressureMs: rounded(load.waitMs),
      inFlightShare: load.inFlightShare === undefined ? null : rounded(load.inFlightShare),
      requestsInFlight: rounded(load.requests),
      requestsPerSecond: rounded(load.requestsPerS),
      promptTokensPerSecond: rounded(load.promptTokensPerS),
      prefillTokensPerSecond: rounded(load.prefillTokensPerS),
      decodeTokensPerSecond: decode === undefined ? null : rounded(decode),
      waitingTokens: rounded(load.waitingTokens),
      prefillCapacityTokensPerSecond: rounded(load.capacityTokensPerS * load.weight),
    };
  });
}

function rounded(value: number): number {
  return Math.round(value * 1_000) / 1_000;
}
