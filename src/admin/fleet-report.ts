import type { EndpointState, EngineMetrics, LatencySnapshot } from '../core/fleet-snapshot.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import type { ChangeCause } from '../fleet/endpoint-change.ts';
import type { FleetPool, FleetView } from '../fleet/fleet-view.ts';
import type { StateExchange } from '../router/ports.ts';
import type { RouteWeights, RouteWeightsOverlay } from '../router/route-weights.ts';
import { poolsOf, type Route, type RoutedPool, type RoutingTable } from '../router/routing-table.ts';
import { shiftedShare } from '../router/weight-shift.ts';

/** What this router says of itself. */
export interface RouterReport {
  readonly id: string;
  /** Where its life stands. */
  readonly state: 'starting' | 'serving' | 'draining';
  readonly uptimeS: number;
}

/** What an endpoint's model server says of itself. */
export interface EngineReport {
  /** Since it was scraped. */
  readonly ageMs: number;
  readonly requestsRunning: number | null;
  readonly requestsQueued: number | null;
  /** Share of the KV cache in use, from 0 to 1. */
  readonly kvUsage: number | null;
  readonly kvTokensMax: number | null;
  readonly adapters: readonly string[] | null;
  readonly adaptersMax: number | null;
}

/** One endpoint: load is this router's own, except where the name says fleet. With the fields that say fleet, a decision can be repeated. */
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
  readonly uncachedTokensWaiting: number;
  /** Requests of all routers, as far as this one knows. */
  readonly fleetRequestsInFlight: number;
  readonly fleetPromptTokensInFlight: number;
  readonly fleetRequestsWaiting: number;
  readonly fleetUncachedTokensWaiting: number;
  /** Uncached prompt tokens of the request that the endpoint is believed to work on, and since when; 0 and null: none waits. */
  readonly headTokens: number;
  readonly headAgeMs: number | null;
  /** Why it is in its state, and for how long; null: it was from the start. */
  readonly changed: { readonly cause: ChangeCause; readonly detail: string | null; readonly ageMs: number } | null;
  /** Until it is tried again; null: nothing is waited for. */
  readonly retryInMs: number | null;
  /** Trial requests that it takes now, being half-open. */
  readonly trialsFree: number;
  /** Whether it belongs to its pool's reserve. */
  readonly standby: boolean;
  /** Since it last became ready; null: it was from the start, or is not ready. */
  readonly readyForMs: number | null;
  readonly contextTokensMax: number | null;
  readonly kvTokensMax: number | null;
  /** Null: nothing was measured yet. */
  readonly latency: (Omit<LatencySnapshot, 'tpotMs'> & { readonly tpotMs: LatencySnapshot['tpotMs'] | null }) | null;
  /** Null: it is not scraped, or not lately. */
  readonly engine: EngineReport | null;
}

export interface PoolReport {
  readonly name: string;
  /** Envoy's name for it, and the policy that chooses in it; null: no route leads here. */
  readonly cluster: string | null;
  readonly policy: string | null;
  /** Mean prompt of the pool's requests: what one of unknown length is reckoned at. */
  readonly promptTokensMean: number;
  readonly endpoints: readonly EndpointReport[];
}

/** How this router shares state with others. */
export interface SharingReport {
  readonly kind: 'memory' | 'workers' | 'redis';
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
  readonly routes: readonly RouteReport[];
}

/** One route, with the weights in force. */
export interface RouteReport {
  readonly name: string;
  /** `configuredWeight`: what the configuration says, where an operator set another. */
  readonly targets: readonly { readonly pool: string; readonly model: string | null; readonly weight: number; readonly configuredWeight: number }[];
  /** `share`: the part that has moved, from 0 to 1; `overridden`: an operator set it, whatever the schedule says. */
  readonly shift: { readonly from: string; readonly to: string; readonly share: number; readonly overridden: boolean } | null;
  readonly fallback: readonly { readonly pool: string; readonly model: string | null }[];
}

/** Writes down the fleet as it stands now. Pools in the configuration's order, endpoints by address. */
export function createFleetReport({
  routerId,
  state,
  uptimeMs,
  nowMs,
  fleet,
  table,
  exchange,
  weights,
  wallMs = 0,
}: {
  readonly routerId: string;
  readonly state: RouterReport['state'];
  readonly uptimeMs: number;
  /** Router's clock. */
  readonly nowMs: number;
  readonly fleet: FleetView;
  readonly table: RoutingTable;
  readonly exchange: Pick<StateExchange, 'kind' | 'status' | 'snapshotAgeMs' | 'trouble'>;
  /** What operators set; absent: nothing. */
  readonly weights?: RouteWeights | undefined;
  /** Milliseconds since the Unix epoch, for schedules. */
  readonly wallMs?: number | undefined;
}): FleetReport {
  const routed = new Map<string, RoutedPool>(table.routes.flatMap(poolsOf).map((pool) => [pool.name, pool] as const));
  return {
    router: { id: routerId, state, uptimeS: Math.floor(uptimeMs / 1_000) },
    ...reportSharing(exchange),
    pools: [...fleet.pools.values()].map((pool) => toPoolReport(pool, routed.get(pool.name), nowMs)),
    routes: table.routes.map((route) => toRouteReport(route, weights?.of(route.name), wallMs)),
  };
}

function toRouteReport({ name, targets, shift, fallback = [] }: Route, overlay: RouteWeightsOverlay | undefined, wallMs: number): RouteReport {
  return {
    name,
    targets: targets.map(({ pool, model, weight }, i) => ({
      pool: pool.name,
      model: model ?? null,
      weight: overlay?.weights?.[i] ?? weight,
      configuredWeight: weight,
    })),
    shift:
      shift === undefined
        ? null
        : {
            from: shift.from,
            to: shift.to.pool.name,
            share: overlay?.shiftShare ?? shiftedShare(shift, wallMs),
            overridden: overlay?.shiftShare !== undefined,
          },
    fallback: fallback.map(({ pool, model }) => ({ pool: pool.name, model: model ?? null })),
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

function toPoolReport({ name, endpoints, promptTokensMean }: FleetPool, routed: RoutedPool | undefined, nowMs: number): PoolReport {
  return {
    name,
    cluster: routed?.cluster ?? null,
    policy: routed?.policy.name ?? null,
    promptTokensMean,
    endpoints: endpoints.map((endpoint) => toEndpointReport(endpoint, nowMs)),
  };
}

function toEndpointReport(endpoint: FleetEndpoint, nowMs: number): EndpointReport {
  const { address, state, weight, labels, requestsMax, contextTokensMax, kvTokensMax, own, headTokens, latency, metrics, readySinceMs } = endpoint;
  const { last } = endpoint.health;
  const { untilMs } = endpoint.health.breaker.verdict;
  return {
    address,
    state,
    weight,
    labels,
    requestsMax: requestsMax ?? null,
    requestsInFlight: own.requests,
    promptTokensInFlight: own.promptTokens,
    uncachedTokensWaiting: own.uncachedTokensWaiting,
    fleetRequestsInFlight: endpoint.requests,
    fleetPromptTokensInFlight: endpoint.promptTokens,
    fleetRequestsWaiting: endpoint.requestsWaiting,
    fleetUncachedTokensWaiting: endpoint.uncachedTokensWaiting,
    headTokens,
    headAgeMs: headTokens === 0 ? null : Math.max(0, Math.round(nowMs - endpoint.headSinceMs)),
    changed: last === undefined ? null : { cause: last.cause, detail: last.detail ?? null, ageMs: Math.max(0, Math.round(nowMs - last.atMs)) },
    retryInMs: untilMs === undefined ? null : Math.max(0, Math.round(untilMs - nowMs)),
    trialsFree: endpoint.trialsFree,
    standby: endpoint.standby,
    readyForMs: state !== 'ready' || readySinceMs === undefined ? null : Math.max(0, Math.round(nowMs - readySinceMs)),
    contextTokensMax: contextTokensMax ?? null,
    kvTokensMax: kvTokensMax ?? null,
    latency: latency === undefined ? null : { ...latency, tpotMs: latency.tpotMs ?? null },
    engine: metrics === undefined ? null : toEngineReport(metrics, nowMs),
  };
}

function toEngineReport({ scrapedMs, requestsRunning, requestsQueued, kvUsage, kvTokensMax, adapters, adaptersMax }: EngineMetrics, nowMs: number): EngineReport {
  return {
    ageMs: Math.max(0, Math.round(nowMs - scrapedMs)),
    requestsRunning: requestsRunning ?? null,
    requestsQueued: requestsQueued ?? null,
    kvUsage: kvUsage ?? null,
    kvTokensMax: kvTokensMax ?? null,
    adapters: adapters === undefined ? null : [...adapters].sort(),
    adaptersMax: adaptersMax ?? null,
  };
}
