import type { EndpointColumns } from '../core/endpoint-columns.ts';
import type { EndpointState } from '../core/fleet-snapshot.ts';
import type { PoolSnapshot } from '../core/pool-snapshot.ts';
import { CacheView } from './cache-view.ts';
import { type EndpointDefinition, FleetEndpoint } from './endpoint.ts';
import type { Added } from './load.ts';
import { ForeignLoad } from './foreign-load.ts';
import { PoolColumns } from './pool-columns.ts';
import { UnheardWork } from './unheard-work.ts';

/** A pool as configuration or discovery names it. */
export interface PoolDefinition {
  readonly name: string;
  readonly endpoints: readonly EndpointDefinition[];
}

/** An endpoint that came or went. */
export interface MembershipChange {
  readonly pool: FleetPool;
  readonly endpoint: FleetEndpoint;
  /** `removed`: it takes nothing new and finishes what it has; `gone`: it has done so. */
  readonly kind: 'discovered' | 'removed' | 'returned' | 'gone';
  /** What it was before. */
  readonly from?: EndpointState;
}

/** One pool: its endpoints, how many requests this router sent it, and their mean prompt. */
export class FleetPool implements PoolSnapshot {
  readonly name: string;
  /** What other routers told. */
  readonly foreign: ForeignLoad;
  /** What other routers send here at the moment at which this one does. */
  readonly unheard = new UnheardWork();
  /** What the endpoints are believed to have cached. */
  readonly cache: CacheView;
  /** Sorted by address. Replaced, never changed, when endpoints come or go. */
  endpoints: readonly FleetEndpoint[];
  #byAddress: ReadonlyMap<string, FleetEndpoint>;
  readonly #columns = new PoolColumns();
  /** Endpoints on their way out, and since when. */
  readonly #leaving = new Map<string, number>();
  /** Requests sent here by this router so far. */
  sequence = 0;
  /** All that was ever sent here: by this router, and by the others as far as they pushed it. Only differences mean anything. */
  readonly dispatched: Added = { requests: 0, promptTokens: 0, uncachedTokens: 0 };
  #promptTokensMean = 0;

  constructor(definition: PoolDefinition) {
    this.name = definition.name;
    const endpoints = definition.endpoints.map((endpoint) => new FleetEndpoint(endpoint, this.#columns));
    this.endpoints = endpoints.sort(byAddress);
    this.#columns.replace(endpoints);
    this.foreign = new ForeignLoad(this);
    this.cache = new CacheView(endpoints.length, (address) => this.endpoint(address)?.kvTokensMax);
    this.#byAddress = new Map(endpoints.map((endpoint) => [endpoint.address, endpoint]));
  }

  endpoint(address: string): FleetEndpoint | undefined {
    return this.#byAddress.get(address);
  }

  get version(): number {
    return this.#columns.version;
  }

  get columns(): EndpointColumns {
    return this.#columns.columns;
  }

  /** Endpoints that are no longer named and still have requests to finish. */
  get leaving(): number {
    return this.#leaving.size;
  }

  /**
   * Takes the endpoints that the pool has from now on. Those it has already stay the objects they are, with their load, caches, latencies
   * and health, under the new definition; those it has no longer drain, and `sweep` takes them away. Of an address named twice the first
   * definition counts.
   */
  update(definitions: readonly EndpointDefinition[], nowMs: number): MembershipChange[] {
    const changes: MembershipChange[] = [];
    const named = new Set<string>();
    const joined: FleetEndpoint[] = [];
    for (const definition of definitions) {
      const { address } = definition;
      if (named.has(address)) continue;
      named.add(address);
      const known = this.#byAddress.get(address);
      if (known === undefined) {
        const endpoint = new FleetEndpoint(definition, this.#columns);
        endpoint.readySinceMs = nowMs;
        joined.push(endpoint);
        changes.push({ pool: this, endpoint, kind: 'discovered' });
        continue;
      }
      known.redefine(definition);
      if (!this.#leaving.delete(address)) continue;
      known.health.leaving = false;
      known.setState(known.health.derive(false), nowMs);
      changes.push({ pool: this, endpoint: known, kind: 'returned', from: 'draining' });
    }
    for (const endpoint of this.endpoints) {
      if (named.has(endpoint.address) || this.#leaving.has(endpoint.address)) continue;
      this.#leaving.set(endpoint.address, nowMs);
      endpoint.health.leaving = true;
      const from = endpoint.state;
      endpoint.setState('draining', nowMs);
      changes.push({ pool: this, endpoint, kind: 'removed', from });
    }
    if (joined.length > 0) this.#replace([...this.endpoints, ...joined].sort(byAddress));
    return changes;
  }

  /**
   * Takes away those endpoints that were to leave and have nothing in flight any more, of any router; or have had `deadlineMs` for it. A
   * request that is still in flight on one that is gone keeps the object, and is released on it.
   */
  sweep(nowMs: number, deadlineMs: number): MembershipChange[] {
    if (this.#leaving.size === 0) return [];
    const changes: MembershipChange[] = [];
    for (const [address, sinceMs] of this.#leaving) {
      const endpoint = this.#byAddress.get(address);
      if (endpoint === undefined) continue;
      // What is guessed for routers that tell only now and then is no request that anybody has seen.
      if (endpoint.own.requests + endpoint.foreign.requests > 0 && nowMs - sinceMs < deadlineMs) continue;
      this.#leaving.delete(address);
      this.foreign.forgetEndpoint(address, nowMs);
      this.cache.forget(address);
      changes.push({ pool: this, endpoint, kind: 'gone' });
    }
    const gone = new Set(changes.map(({ endpoint }) => endpoint));
    if (gone.size > 0) this.#replace(this.endpoints.filter((endpoint) => !gone.has(endpoint)));
    return changes;
  }

  #replace(endpoints: readonly FleetEndpoint[]): void {
    this.endpoints = endpoints;
    this.#byAddress = new Map(endpoints.map((endpoint) => [endpoint.address, endpoint]));
    this.#columns.replace(endpoints);
    this.cache.shareAmong(endpoints.length);
  }

  /** Running mean of the prompts seen here, in tokens: what a prompt of unknown length is reckoned at. At least 1. */
  get promptTokensMean(): number {
    return Math.max(1, Math.round(this.#promptTokensMean));
  }

  /** One more request was sent here, by whichever router. */
  noteDispatch(promptTokens: number, uncachedTokens: number): void {
    this.dispatched.requests += 1;
    this.dispatched.promptTokens += promptTokens;
    this.dispatched.uncachedTokens += uncachedTokens;
  }

  /** Takes one prompt's length into the mean (exponential, over about the last 64). */
  learnPromptTokens(tokens: number): void {
    this.#promptTokensMean += (tokens - this.#promptTokensMean) / (this.#promptTokensMean === 0 ? 1 : 64);
  }
}

/**
 * Time that a pool without endpoints is kept after it was to go, in ms: the other routers hear in the meantime that nothing of this one's
 * is in flight there. Two snapshots at the longest period that can be configured.
 */
const emptyPoolMs = 10_000;

/** The fleet in this router's memory. */
export class FleetView {
  /** In the order of their definition; those that are to go come last. Replaced, never changed, when pools come or go. */
  pools: ReadonlyMap<string, FleetPool>;
  /** Routers that share this fleet, this one included, when last anything was heard. */
  routers = 1;
  /** Pools that are no longer named, by the time since which they have no endpoint left; undefined: they have. */
  readonly #leaving = new Map<string, number | undefined>();

  constructor(definitions: readonly PoolDefinition[]) {
    this.pools = new Map(definitions.map((definition) => [definition.name, new FleetPool(definition)]));
  }

  pool(name: string): FleetPool | undefined {
    return this.pools.get(name);
  }

  /** Whether a pool is no longer named, and only finishes what it has. */
  isLeaving(name: string): boolean {
    return this.#leaving.has(name);
  }

  /** Takes the pools that there are from now on. Those there already stay the objects they are; those no longer named drain. */
  update(definitions: readonly PoolDefinition[], nowMs: number): MembershipChange[] {
    const changes: MembershipChange[] = [];
    const pools = new Map<string, FleetPool>();
    for (const { name, endpoints } of definitions) {
      const pool = this.pools.get(name) ?? new FleetPool({ name, endpoints: [] });
      changes.push(...pool.update(endpoints, nowMs));
      pools.set(name, pool);
      this.#leaving.delete(name);
    }
    for (const [name, pool] of this.pools) {
      if (pools.has(name)) continue;
      changes.push(...pool.update([], nowMs));
      pools.set(name, pool);
      if (!this.#leaving.has(name)) this.#leaving.set(name, undefined);
    }
    this.pools = pools;
    return changes;
  }

  /** Takes away endpoints that have left (see `FleetPool.sweep`), and pools that have lost their last. To be called about once a second. */
  sweep(nowMs: number, deadlineMs: number): MembershipChange[] {
    const changes: MembershipChange[] = [];
    for (const pool of this.pools.values()) changes.push(...pool.sweep(nowMs, deadlineMs));
    for (const [name, emptySinceMs] of this.#leaving) {
      if ((this.pools.get(name)?.endpoints.length ?? 0) > 0) continue;
      if (emptySinceMs === undefined) {
        this.#leaving.set(name, nowMs);
      } else if (nowMs - emptySinceMs >= emptyPoolMs) {
        this.#leaving.delete(name);
        this.pools = new Map([...this.pools].filter(([kept]) => kept !== name));
      }
    }
    return changes;
  }
}

function byAddress(a: FleetEndpoint, b: FleetEndpoint): number {
  return a.address < b.address ? -1 : 1;
}

export { FleetEndpoint } from './endpoint.ts';
