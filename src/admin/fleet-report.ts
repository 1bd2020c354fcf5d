import type { EndpointState } from '../core/fleet-snapshot.ts';
import type { FleetPool, FleetView } from '../fleet/fleet-view.ts';
import type { StateExchange } from '../router/ports.ts';
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

/** How this router shares state with others. */
export interface SharingReport {
  readonly kind: 'memory' | 'redis';
  /** Whether the routers hear one another now. */
  readonly connected: boolean;
  /** Whether load is pushed as it changes, or told by snapshots alone. */
  readonly pushing: boolean;
  /** Age of what is known of the others; null where nothing is shared or was heard. */
  readonly snapshotAgeMs: number | null;
  /** What is wrong, by a stable code and in words; null: nothing known. */
  readonly trouble: { readonly code: string; readonly message: string } | null;
}

/** A router of the fleet, this one included. */
export interface PeerReport {
  readonly id: string;
  /** Since it was last heard. */
  readonly ageMs: number;
  readonly requestsInFlight: number;
  /** Its part of all requests in flight, from 0 to 1; 0 where there are none. */
  readonly loadShare: number;
}

/** The fleet as this router sees it: the body of `/api/v1/fleet`. */
export interface FleetReport {
  readonly router: RouterReport;
  readonly sharing: SharingReport;
  readonly routers: readonly PeerReport[];
  readonly pools: readonly PoolReport[];
}

/** Writes down the fleet as it stands now. Pools in the configuration's order, endpoints by address. */
export function createFleetReport({
  routerId,
  state,
  uptimeMs,
  fleet,
  table,
  exchange,
}: {
  readonly routerId: string;
  readonly state: RouterReport['state'];
  readonly uptimeMs: number;
  readonly fleet: FleetView;
  readonly table: RoutingTable;
  readonly exchange: Pick<StateExchange, 'kind' | 'status' | 'snapshotAgeMs' | 'trouble'>;
}): FleetReport {
  const routed = new Map<string, RoutedPool>(table.routes.flatMap(({ targets }) => targets.map(({ pool }) => [pool.name, pool] as const)));
  return {
    router: { id: routerId, state, uptimeS: Math.floor(uptimeMs / 1_000) },
    ...reportSharing(exchange),
    pools: [...fleet.pools.values()].map((pool) => toPoolReport(pool, routed.get(pool.name))),
  };
}

function reportSharing(exchange: Pick<StateExchange, 'kind' | 'status' | 'snapshotAgeMs' | 'trouble'>): Pick<FleetReport, 'sharing' | 'routers'> {
  const { connected, pushing, routers } = exchange.status();
  const trouble = exchange.trouble();
  const ageMs = exchange.snapshotAgeMs();
  const total = routers.reduce((sum, { requestsInFlight }) => sum + requestsInFlight, 0);
  return {
    sharing: {
      kind: exchange.kind,
      connected,
      pushing,
      snapshotAgeMs: ageMs === undefined ? null : Math.round(ageMs),
      trouble: trouble === undefined ? null : { code: trouble.code, message: trouble.message },
    },
    routers: routers.map(({ id, ageMs: sinceMs, requestsInFlight }) => ({
      id,
      ageMs: Math.round(sinceMs),
      requestsInFlight,
      loadShare: total === 0 ? 0 : requestsInFlight / total,
    })),
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
