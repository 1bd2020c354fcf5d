import type { FleetEndpoint } from './endpoint.ts';
import { type Added, type Load, noLoad } from './load.ts';

/** A pool's endpoints, as far as load is told of them. */
export interface EndpointIndex {
  readonly endpoints: readonly FleetEndpoint[];
  endpoint(address: string): FleetEndpoint | undefined;
}

type MutableLoad = { -readonly [K in keyof Load]: Load[K] };

/** What one other router said of one endpoint, and how far our own additions had come when it last said it. */
interface Told {
  readonly load: MutableLoad;
  addedThen: Readonly<Added>;
}

/**
 * The load that the other routers of one pool told. Each router's word is kept apart, so that a router that is gone takes
 * exactly its own with it: no shared counter exists, and nothing can be stranded.
 *
 * Between snapshots, a router that does not push its events is believed to add what we add ourselves: without that, all
 * routers send to the same idle endpoint until the next snapshot.
 */
export class ForeignLoad {
  readonly #pool: EndpointIndex;
  readonly #routers = new Map<string, { readonly told: Map<string, Told>; pushes: boolean }>();

  constructor(pool: EndpointIndex) {
    this.#pool = pool;
  }

  /** Replaces all that a router told. Endpoints it leaves out carry nothing of its; endpoints unknown here are ignored. */
  applySnapshot(router: string, loads: ReadonlyMap<string, Load>, pushes: boolean, nowMs: number): void {
    const known = this.#router(router);
    if (known.pushes !== pushes) this.#guess(known.told, pushes ? -1 : 1);
    known.pushes = pushes;
    for (const { address } of this.#pool.endpoints) {
      const load = loads.get(address);
      const told = known.told.get(address);
      // Nothing was and nothing is; a router that does not push still marks the time for the guess.
      if (load === undefined && told === undefined && pushes) continue;
      this.#replace(known.told, address, load ?? noLoad, pushes);
      const { requestsWaiting, uncachedTokensWaiting } = load ?? noLoad;
      this.#pool.endpoint(address)?.line.settle(router, { requests: requestsWaiting, tokens: uncachedTokensWaiting }, nowMs);
    }
  }

  /** Takes one change into what a router told; its load never falls below nothing, whatever was lost on the way. */
  applyChange(router: string, address: string, change: Load): void {
    const endpoint = this.#pool.endpoint(address);
    if (endpoint === undefined) return;
    const known = this.#router(router);
    const told = known.told.get(address) ?? this.#begin(known.told, address, known.pushes);
    if (told === undefined) return;
    const before = { ...told.load };
    told.load.requests = bounded(before.requests + change.requests);
    told.load.promptTokens = bounded(before.promptTokens + change.promptTokens);
    told.load.requestsWaiting = bounded(before.requestsWaiting + change.requestsWaiting);
    // What a lost event left behind does not wait for ever: where nobody waits, nothing does.
    told.load.uncachedTokensWaiting = told.load.requestsWaiting === 0 ? 0 : bounded(before.uncachedTokensWaiting + change.uncachedTokensWaiting);
    addTo(endpoint.foreign, told.load, before);
  }

  /** A router is gone, and all that it told with it. */
  forget(router: string, nowMs: number): void {
    const known = this.#routers.get(router);
    if (known === undefined) return;
    if (!known.pushes) this.#guess(known.told, -1);
    for (const [address, { load }] of known.told) {
      const endpoint = this.#pool.endpoint(address);
      if (endpoint === undefined) continue;
      addTo(endpoint.foreign, noLoad, load);
      endpoint.line.settle(router, { requests: 0, tokens: 0 }, nowMs);
    }
    this.#routers.delete(router);
  }

  /** An endpoint is gone, with all that was told of it. To be called while the pool still has it. */
  forgetEndpoint(address: string, nowMs: number): void {
    const endpoint = this.#pool.endpoint(address);
    for (const [router, { told, pushes }] of this.#routers) {
      const entry = told.get(address);
      if (entry === undefined) continue;
      told.delete(address);
      if (endpoint === undefined) continue;
      if (!pushes) endpoint.guessFor(-1, entry.addedThen);
      addTo(endpoint.foreign, noLoad, entry.load);
      endpoint.line.settle(router, { requests: 0, tokens: 0 }, nowMs);
    }
  }

  /**
   * Nobody can be heard for now: what was told last stands as if it were told again now. The guess covers the time between two
   * snapshots; over an outage it would grow without end.
   */
  hold(): void {
    for (const { told, pushes } of this.#routers.values()) {
      if (pushes) continue;
      this.#guess(told, -1);
      for (const [address, entry] of told) entry.addedThen = this.#pool.endpoint(address)?.added.toAdded() ?? entry.addedThen;
      this.#guess(told, 1);
    }
  }

  /** Requests in flight that a router told, over all endpoints. */
  requestsOf(router: string): number {
    let requests = 0;
    for (const { load } of this.#routers.get(router)?.told.values() ?? []) requests += load.requests;
    return requests;
  }

  #router(router: string): { readonly told: Map<string, Told>; pushes: boolean } {
    let known = this.#routers.get(router);
    if (known === undefined) {
      known = { told: new Map(), pushes: true };
      this.#routers.set(router, known);
    }
    return known;
  }

  #begin(told: Map<string, Told>, address: string, pushes: boolean): Told | undefined {
    const endpoint = this.#pool.endpoint(address);
    if (endpoint === undefined) return undefined;
    const made: Told = { load: { ...noLoad }, addedThen: endpoint.added.toAdded() };
    told.set(address, made);
    if (!pushes) endpoint.guessFor(1, made.addedThen);
    return made;
  }

  #replace(told: Map<string, Told>, address: string, load: Load, pushes: boolean): void {
    const endpoint = this.#pool.endpoint(address);
    const entry = told.get(address) ?? this.#begin(told, address, pushes);
    if (endpoint === undefined || entry === undefined) return;
    addTo(endpoint.foreign, load, entry.load);
    Object.assign(entry.load, load);
    if (!pushes) endpoint.guessFor(-1, entry.addedThen);
    entry.addedThen = endpoint.added.toAdded();
    if (!pushes) endpoint.guessFor(1, entry.addedThen);
  }

  /** Enters or withdraws a router's part in the guess on all endpoints it spoke of. */
  #guess(told: ReadonlyMap<string, Told>, sign: 1 | -1): void {
    for (const [address, { addedThen }] of told) this.#pool.endpoint(address)?.guessFor(sign, addedThen);
  }
}

/** Most that one router can have told of one endpoint: far below what would make sums inexact. */
const loadMax = 1e9;

function bounded(load: number): number {
  return Math.min(Math.max(0, load), loadMax);
}

function addTo(sum: MutableLoad, now: Load, before: Load): void {
  sum.requests += now.requests - before.requests;
  sum.promptTokens += now.promptTokens - before.promptTokens;
  sum.requestsWaiting += now.requestsWaiting - before.requestsWaiting;
  sum.uncachedTokensWaiting += now.uncachedTokensWaiting - before.uncachedTokensWaiting;
}
