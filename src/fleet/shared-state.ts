import type { EngineMetrics } from '../core/fleet-snapshot.ts';
import type { FleetView } from './fleet-view.ts';
import type { CachedPrompt } from './cache-view.ts';
import type { CapShare } from './endpoint.ts';
import { type Load, noLoad } from './load.ts';
import type { HealthRow } from './health-row.ts';
import type { Placements } from './placements.ts';

/** Something that happened on one endpoint and that other routers should hear of. */
export type LoadEvent =
  /** A request was sent. `placement`: its session's key, where the session went elsewhere than to its home, or came back. */
  | {
      readonly kind: 'dispatch';
      readonly pool: string;
      readonly address: string;
      readonly promptTokens: number;
      readonly uncachedTokens: number;
      readonly placement: Placement | undefined;
      /** What the endpoint's cache holds from now on; undefined where the pool's policy does not reckon with caches. */
      readonly cached: CacheTrail | undefined;
    }
  /** Its first token came: the prompt waits no longer. */
  | { readonly kind: 'first-token'; readonly pool: string; readonly address: string; readonly uncachedTokens: number }
  /** It is over. `waiting`: no first token had come. */
  | {
      readonly kind: 'done';
      readonly pool: string;
      readonly address: string;
      readonly promptTokens: number;
      readonly uncachedTokens: number;
      readonly waiting: boolean;
    }
  /** Something new is known of its health. */
  | { readonly kind: 'health'; readonly pool: string; readonly address: string; readonly row: HealthRow };

/** Who keeps what routers say of endpoints' health. */
export interface HealthWords {
  /** All that was said of a pool's endpoints. */
  rows(pool: string): HealthRow[];
  /** Another router said this. */
  receive(pool: string, row: HealthRow): void;
  /** Another router's request got its first token; the endpoint's line knows already. */
  heardToken(pool: string, address: string, uncachedTokens: number): void;
}

/** By what a request's prompt is known to a cache: its session's keyed hash, and its blocks where the body was read. */
export type CacheTrail = Omit<CachedPrompt, 'promptTokens'>;

/** A session by its keyed hash, and whether it now lives away from its home. */
export interface Placement {
  readonly keyId: string;
  readonly away: boolean;
}

/** One router's load in one pool, by address; endpoints without load are left out. */
export type PoolLoad = ReadonlyMap<string, Load>;

/**
 * The meeting point of this router's memory and what routers tell one another. Everything that comes in is taken for what an
 * untrusted peer may have written: pools and endpoints that are not configured are ignored, numbers are bounded by the caller.
 */
export class SharedState {
  readonly #fleet: FleetView;
  readonly #placements: Placements;
  /** By pool whose model servers' metrics are read once for all routers: endpoints that this router read since it last told. */
  readonly #metricsRead = new Map<string, Set<string>>();
  /** Absent: nobody keeps them. */
  health: HealthWords | undefined;

  constructor(fleet: FleetView, placements: Placements) {
    this.#fleet = fleet;
    this.#placements = placements;
  }

  get pools(): readonly string[] {
    return [...this.#fleet.pools.keys()];
  }

  /** What this router has in flight in a pool. */
  ownLoad(pool: string): PoolLoad {
    const loads = new Map<string, Load>();
    for (const { address, own } of this.#fleet.pool(pool)?.endpoints ?? []) {
      if (own.requests > 0) loads.set(address, own.toLoad());
    }
    return loads;
  }

  /** From now on, what one router reads of a pool's model servers goes to all. */
  shareMetrics(pool: string): void {
    if (this.#fleet.pool(pool) !== undefined && !this.#metricsRead.has(pool)) this.#metricsRead.set(pool, new Set());
  }

  /** The same, of these pools and no others. */
  shareMetricsOf(pools: readonly string[]): void {
    for (const pool of [...this.#metricsRead.keys()]) if (!pools.includes(pool)) this.#metricsRead.delete(pool);
    for (const pool of pools) this.shareMetrics(pool);
  }

  /** This router read an endpoint's metrics. */
  noteMetrics(pool: string, address: string): void {
    this.#metricsRead.get(pool)?.add(address);
  }

  /** What this router read of a pool's model servers since it was last asked. */
  takeMetrics(pool: string): ReadonlyMap<string, EngineMetrics> {
    const read = new Map<string, EngineMetrics>();
    const noted = this.#metricsRead.get(pool);
    for (const address of noted ?? []) {
      const metrics = this.#fleet.pool(pool)?.endpoint(address)?.metrics;
      if (metrics !== undefined) read.set(address, metrics);
    }
    noted?.clear();
    return read;
  }

  /** Another router read an endpoint's metrics. Whoever has the pool's metrics read takes them away when they are stale. */
  applyMetrics(pool: string, address: string, metrics: EngineMetrics): void {
    const endpoint = this.#metricsRead.has(pool) ? this.#fleet.pool(pool)?.endpoint(address) : undefined;
    if (endpoint !== undefined && (endpoint.metrics?.scrapedMs ?? -Infinity) < metrics.scrapedMs) endpoint.metrics = metrics;
  }

  applySnapshot(router: string, pool: string, loads: PoolLoad, pushes: boolean, nowMs: number): void {
    this.#fleet.pool(pool)?.foreign.applySnapshot(router, loads, pushes, nowMs);
  }

  applyEvent(router: string, event: LoadEvent, nowMs: number): void {
    const pool = this.#fleet.pool(event.pool);
    const endpoint = pool?.endpoint(event.address);
    if (pool === undefined || endpoint === undefined) return;
    if (event.kind === 'health') {
      this.health?.receive(event.pool, event.row);
      return;
    }
    const { uncachedTokens } = event;
    switch (event.kind) {
      case 'dispatch': {
        const { promptTokens, placement, cached } = event;
        const change = { requests: 1, promptTokens, requestsWaiting: 1, uncachedTokensWaiting: uncachedTokens };
        pool.foreign.applyChange(router, event.address, change);
        pool.unheard.heard(uncachedTokens, nowMs);
        endpoint.line.join(router, uncachedTokens, nowMs);
        pool.noteDispatch(promptTokens, uncachedTokens);
        if (placement !== undefined) this.applyPlacement(event.pool, event.address, placement);
        if (cached !== undefined) pool.cache.note(event.address, { ...cached, promptTokens });
        return;
      }
      case 'first-token':
        pool.foreign.applyChange(router, event.address, { ...noLoad, requestsWaiting: -1, uncachedTokensWaiting: -uncachedTokens });
        endpoint.line.leave(router, uncachedTokens, nowMs, true);
        endpoint.health.progressMs = nowMs;
        this.health?.heardToken(event.pool, event.address, uncachedTokens);
        return;
      case 'done': {
        const { promptTokens, waiting } = event;
        const left = waiting ? { requestsWaiting: -1, uncachedTokensWaiting: -uncachedTokens } : {};
        pool.foreign.applyChange(router, event.address, { ...noLoad, requests: -1, promptTokens: -promptTokens, ...left });
        if (waiting) endpoint.line.leave(router, uncachedTokens, nowMs, false);
        endpoint.health.progressMs = nowMs;
      }
    }
  }

  /** Another router sent a session to an endpoint: its cache is there now. For one that is home again the address does not matter. */
  applyPlacement(pool: string, address: string, { keyId, away }: Placement): void {
    if (!away) this.#placements.forget(pool, keyId);
    else if (this.#fleet.pool(pool)?.endpoint(address) !== undefined) this.#placements.set(pool, keyId, address);
  }

  /** Where a session lives, if not at its home. */
  placedOn(pool: string, keyId: string): string | undefined {
    return this.#placements.find(pool, keyId);
  }

  /** This router's latest exceptions in a pool, newest first. */
  placements(pool: string, max: number): { readonly keyId: string; readonly address: string }[] {
    return this.#placements.latest(pool, max);
  }

  /** So many routers share the fleet, this one included. */
  noteRouters(routers: number): void {
    this.#fleet.routers = routers;
  }

  /** Divides all limits among routers that cannot ask one another; undefined: they can again. */
  shareCaps(share: CapShare | undefined): void {
    for (const pool of this.#fleet.pools.values()) for (const endpoint of pool.endpoints) endpoint.shareCap(share);
  }

  /** Nobody can be heard for now: what the others told last stands, and what they are believed to add since does not pile up. */
  hold(): void {
    for (const pool of this.#fleet.pools.values()) pool.foreign.hold();
  }

  /** A router is gone: its load goes with it, its placements stay. */
  forget(router: string, nowMs: number): void {
    for (const pool of this.#fleet.pools.values()) pool.foreign.forget(router, nowMs);
  }

  /** Requests in flight that a router told. */
  requestsOf(router: string): number {
    let requests = 0;
    for (const pool of this.#fleet.pools.values()) requests += pool.foreign.requestsOf(router);
    return requests;
  }

  /** Own requests in flight. */
  get ownRequests(): number {
    let requests = 0;
    for (const pool of this.#fleet.pools.values()) for (const { own } of pool.endpoints) requests += own.requests;
    return requests;
  }
}
