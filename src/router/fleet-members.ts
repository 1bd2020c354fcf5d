import { toHostPort } from '../core/data-parallel-rank.ts';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import type { FleetView, MembershipChange, PoolDefinition } from '../fleet/fleet-view.ts';

/** Where an endpoint is named. Of one that is named in several places the first in this order defines it. */
export const memberSources = ['operator', 'configuration', 'file', 'dns'] as const;
export type MemberSource = (typeof memberSources)[number];

/** Sources that tell by themselves what there is. */
export const discoverySources = ['file', 'dns'] as const satisfies readonly MemberSource[];
export type DiscoverySource = (typeof discoverySources)[number];

/** A list of endpoints that somebody wrote: read, or everything that is wrong with it, each with its path in the list. */
export type EndpointListOutcome =
  | { readonly ok: true; readonly endpoints: readonly EndpointDefinition[] }
  | { readonly ok: false; readonly problems: readonly { readonly path: string; readonly message: string }[] };

/** What is known of one pool's endpoints, by who named them. */
interface Members {
  readonly named: Map<MemberSource, readonly EndpointDefinition[]>;
  /** Addresses (`ip:port`) that an operator took away, whoever names them. */
  readonly removed: Set<string>;
}

export interface FleetMembersOptions {
  readonly fleet: FleetView;
  readonly nowMs: () => number;
  /** Is told what came and went, after it did. */
  readonly changed: (changes: readonly MembershipChange[]) => void;
}

/**
 * Which endpoints each pool has: those of the configuration, of files and names, and what operators added and took away, merged and told
 * to the fleet. Each source speaks for itself alone, so that one that fails takes nothing of another's away.
 */
export class FleetMembers {
  readonly #options: FleetMembersOptions;
  readonly #pools = new Map<string, Members>();

  /** `pools`: what the configuration names. The fleet has just been made of them. */
  constructor(options: FleetMembersOptions, pools: readonly PoolDefinition[]) {
    this.#options = options;
    for (const pool of pools) this.#members(pool.name).named.set('configuration', pool.endpoints);
  }

  /**
   * The configuration was replaced. `sources` tells which discoveries each pool still has: what others had found goes. What operators did
   * stays as long as its pool does.
   */
  configure(pools: readonly PoolDefinition[], sources: ReadonlyMap<string, ReadonlySet<DiscoverySource>>): void {
    const names = new Set(pools.map(({ name }) => name));
    for (const name of [...this.#pools.keys()]) if (!names.has(name)) this.#pools.delete(name);
    for (const { name, endpoints } of pools) {
      const { named } = this.#members(name);
      named.set('configuration', endpoints);
      for (const source of discoverySources) if (sources.get(name)?.has(source) !== true) named.delete(source);
    }
    const { fleet, nowMs } = this.#options;
    this.#tell(fleet.update(pools.map(({ name }) => ({ name, endpoints: this.#merged(name) })), nowMs()));
  }

  /** A source told which endpoints a pool has. Ignored where there is no such pool any more. */
  found(pool: string, source: DiscoverySource, endpoints: readonly EndpointDefinition[]): void {
    const members = this.#pools.get(pool);
    if (members === undefined) return;
    members.named.set(source, endpoints);
    this.#update(pool);
  }

  /** An operator adds an endpoint, with all its ranks, or defines it anew. False: there is no such pool. */
  add(pool: string, endpoints: readonly EndpointDefinition[]): boolean {
    const members = this.#pools.get(pool);
    if (members === undefined) return false;
    const added = new Set(endpoints.map(({ address }) => toHostPort(address)));
    for (const address of added) members.removed.delete(address);
    const others = (members.named.get('operator') ?? []).filter(({ address }) => !added.has(toHostPort(address)));
    members.named.set('operator', [...others, ...endpoints]);
    this.#update(pool);
    return true;
  }

  /** An operator takes an endpoint away (`ip:port`, with all its ranks), until it is added again. Returns which part of the name was unknown. */
  remove(pool: string, address: string): 'pool' | 'endpoint' | undefined {
    const members = this.#pools.get(pool);
    if (members === undefined) return 'pool';
    const isMeant = (endpoint: EndpointDefinition): boolean => toHostPort(endpoint.address) === address;
    if (!this.#merged(pool).some(isMeant)) return 'endpoint';
    members.named.set('operator', (members.named.get('operator') ?? []).filter((endpoint) => !isMeant(endpoint)));
    // Kept also where nobody else names it now: a file or a name might do so a moment later.
    members.removed.add(address);
    this.#update(pool);
    return undefined;
  }

  /** Who names an endpoint; undefined: nobody does (any more). */
  sourceOf(pool: string, address: string): MemberSource | undefined {
    const members = this.#pools.get(pool);
    return memberSources.find((source) => members?.named.get(source)?.some((endpoint) => endpoint.address === address));
  }

  /** Takes away what has left (see `FleetView.sweep`). To be called about once a second. */
  sweep(deadlineMs: number): void {
    this.#tell(this.#options.fleet.sweep(this.#options.nowMs(), deadlineMs));
  }

  #update(name: string): void {
    const { fleet, nowMs } = this.#options;
    this.#tell(fleet.pool(name)?.update(this.#merged(name), nowMs()) ?? []);
  }

  /** Ranks of one address are one endpoint: they come from the same source. */
  #merged(name: string): readonly EndpointDefinition[] {
    const { named, removed } = this.#members(name);
    const merged: EndpointDefinition[] = [];
    const taken = new Set<string>(removed);
    for (const source of memberSources) {
      const endpoints = named.get(source) ?? [];
      for (const endpoint of endpoints) if (!taken.has(toHostPort(endpoint.address))) merged.push(endpoint);
      for (const { address } of endpoints) taken.add(toHostPort(address));
    }
    return merged;
  }

  #members(pool: string): Members {
    let members = this.#pools.get(pool);
    if (members === undefined) {
      members = { named: new Map(), removed: new Set() };
      this.#pools.set(pool, members);
    }
    return members;
  }

  #tell(changes: readonly MembershipChange[]): void {
    if (changes.length > 0) this.#options.changed(changes);
  }
}
