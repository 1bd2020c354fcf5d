import type { EndpointState } from '../core/fleet-snapshot.ts';
import type { FleetView } from './fleet-view.ts';
import type { CapShare, Load } from './endpoint.ts';
import type { Placements } from './placements.ts';

/** Something that happened on one endpoint and that other routers should hear of. */
export type LoadEvent =
  /** A request was sent. `placement`: its session's key, where the session went elsewhere than to its home, or came back. */
  | { readonly kind: 'dispatch'; readonly pool: string; readonly address: string; readonly promptTokens: number; readonly placement: Placement | undefined }
  /** Its first token came: the prompt waits no longer. */
  | { readonly kind: 'first-token'; readonly pool: string; readonly address: string; readonly promptTokens: number }
  /** It is over. `waiting`: no first token had come. */
  | { readonly kind: 'done'; readonly pool: string; readonly address: string; readonly promptTokens: number; readonly waiting: boolean };

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
      if (own.requests > 0) loads.set(address, own);
    }
    return loads;
  }

  applySnapshot(router: string, pool: string, loads: PoolLoad, pushes: boolean): void {
    this.#fleet.pool(pool)?.foreign.applySnapshot(router, loads, pushes);
  }

  applyEvent(router: string, event: LoadEvent): void {
    const pool = this.#fleet.pool(event.pool);
    if (pool?.endpoint(event.address) === undefined) return;
    const { promptTokens } = event;
    switch (event.kind) {
      case 'dispatch':
        pool.foreign.applyEvent(router, event.address, { requests: 1, promptTokens, promptTokensWaiting: promptTokens });
        if (event.placement !== undefined) this.applyPlacement(event.pool, event.address, event.placement);
        return;
      case 'first-token':
        pool.foreign.applyEvent(router, event.address, { requests: 0, promptTokens: 0, promptTokensWaiting: -promptTokens });
        return;
      case 'done':
        pool.foreign.applyEvent(router, event.address, {
          requests: -1,
          promptTokens: -promptTokens,
          promptTokensWaiting: event.waiting ? -promptTokens : 0,
        });
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

  /** Another router found an endpoint out of order, or in order again. */
  applyEndpointState(pool: string, address: string, state: Extract<EndpointState, 'ready' | 'ejected'>): void {
    const endpoint = this.#fleet.pool(pool)?.endpoint(address);
    if (endpoint === undefined) return;
    if (state === 'ejected' ? endpoint.state === 'ready' : endpoint.state === 'ejected') endpoint.state = state;
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
  forget(router: string): void {
    for (const pool of this.#fleet.pools.values()) pool.foreign.forget(router);
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
