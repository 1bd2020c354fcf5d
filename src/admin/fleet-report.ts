import type { EndpointState } from '../core/fleet-snapshot.ts';
import type { FleetPool, FleetView } from '../fleet/fleet-view.ts';
import type { RoutedPool, RoutingTable } from '../router/routing-table.ts';

/** What this router says of itself. */
export interface RouterReport {
  readonly id: string;
  /** Where its life stands. */
  readonly state: 'starting' | 'serving' | 'draining';
  readonly uptimeS: number;
}

/** One endpoint: load is this router's own, except where the name says fleet. */
export interface EndpointReport {
  readonly address: string;
  readonly state: EndpointState;
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  /** Most requests in flight that are allowed here; null: no limit. */
  readonly requestsMax: number | null;
  readonly requestsInFlight: number;
  readonly promptTokensInFlight: number;
  /** Prompt tokens of requests that gave no first token yet. */
  readonly promptTokensWaiting: number;
  /** Requests of all routers, as far as this one knows. */
  readonly fleetRequestsInFlight: number;
}

export interface PoolReport {
  readonly name: string;
  /** Envoy's name for it, and the policy that chooses in it; null: no route leads here. */
  readonly cluster: string | null;
  readonly policy: string | null;
  readonly endpoints: readonly EndpointReport[];
}

/** The fleet as this router sees it: the body of `/api/v1/fleet`. */
export interface FleetReport {
  readonly router: RouterReport;
  readonly pools: readonly PoolReport[];
}

/** Writes down the fleet as it stands now. Pools in the configuration's order, endpoints by address. */
export function createFleetReport({
  routerId,
  state,
  uptimeMs,
  fleet,
  table,
}: {
  readonly routerId: string;
  readonly state: RouterReport['state'];
  readonly uptimeMs: number;
  readonly fleet: FleetView;
  readonly table: RoutingTable;
}): FleetReport {
  const routed = new Map<string, RoutedPool>(table.routes.flatMap(({ targets }) => targets.map(({ pool }) => [pool.name, pool] as const)));
  return {
    router: { id: routerId, state, uptimeS: Math.floor(uptimeMs / 1_000) },
    pools: [...fleet.pools.values()].map((pool) => toPoolReport(pool, routed.get(pool.name))),
  };
}

function toPoolReport({ name, endpoints }: FleetPool, routed: RoutedPool | undefined): PoolReport {
  return {
    name,
    cluster: routed?.cluster ?? null,
    policy: routed?.policy.name ?? null,
    endpoints: endpoints.map(({ address, state, weight, labels, requestsMax, own, requests }) => ({
      address,
      state,
      weight,
      labels,
      requestsMax: requestsMax ?? null,
      requestsInFlight: own.requests,
      promptTokensInFlight: own.promptTokens,
      promptTokensWaiting: own.promptTokensWaiting,
      fleetRequestsInFlight: requests,
    })),
  };
}
