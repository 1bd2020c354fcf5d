import { readEndpointList } from '../config/endpoint-list.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { DnsDiscovery } from '../discovery/dns-discovery.ts';
import { FileDiscovery } from '../discovery/file-discovery.ts';
import { type DiscoverySource, discoverySources, type FleetMembers } from '../router/fleet-members.ts';
import type { Discovery, DiscoveryListener, DiscoveryProblem, Rng } from '../router/ports.ts';
import type { ReloadEvents } from '../router/reload-events.ts';

/** One source of one pool's endpoints, as it stands. */
export interface DiscoveryStatus {
  readonly pool: string;
  readonly source: DiscoverySource;
  /** The file, or the name and its type. */
  readonly from: string;
  /** Endpoints that it names; undefined: it was never followed. */
  readonly endpoints: number | undefined;
  /** When it was last followed, in milliseconds since the Unix epoch. */
  readonly followedAtMs: number | undefined;
  /** Why it cannot be followed now; undefined: it can. */
  readonly problem: DiscoveryProblem | undefined;
}

export interface PoolDiscoveriesOptions {
  readonly members: Pick<FleetMembers, 'found'>;
  readonly events: Pick<ReloadEvents, 'discovered' | 'discoveryFailed'>;
  readonly rng: Rng;
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: () => number;
}

interface Running {
  status: DiscoveryStatus;
  readonly discovery: Discovery;
}

/** What is to run. */
interface Wanted extends Pick<DiscoveryStatus, 'pool' | 'source' | 'from'> {
  readonly create: (listener: DiscoveryListener) => Discovery;
}

/** The sources of endpoints that the configuration names, running. */
export class PoolDiscoveries {
  readonly #options: PoolDiscoveriesOptions;
  readonly #running = new Map<string, Running>();

  constructor(options: PoolDiscoveriesOptions) {
    this.#options = options;
  }

  /** How each stands. */
  get status(): readonly DiscoveryStatus[] {
    return [...this.#running.values()].map(({ status }) => status);
  }

  /** Runs what this configuration names, and nothing else. Those that are named as before go on. Resolves when the new ones were asked once. */
  async follow(config: CompiledConfig): Promise<void> {
    const wanted = toWanted(config, this.#options.rng);
    for (const [key, { discovery }] of this.#running) {
      if (wanted.has(key)) continue;
      discovery.stop();
      this.#running.delete(key);
    }
    const starting: Promise<void>[] = [];
    for (const [key, { pool, source, from, create }] of wanted) {
      if (this.#running.has(key)) continue;
      const status: DiscoveryStatus = { pool, source, from, endpoints: undefined, followedAtMs: undefined, problem: undefined };
      const running: Running = { status, discovery: create(this.#listen(key)) };
      this.#running.set(key, running);
      starting.push(running.discovery.start());
    }
    await Promise.all(starting);
  }

  /** Asks all of them now. */
  refresh(): void {
    for (const { discovery } of this.#running.values()) discovery.refresh();
  }

  stop(): void {
    for (const { discovery } of this.#running.values()) discovery.stop();
  }

  #listen(key: string): DiscoveryListener {
    const { members, events, wallMs } = this.#options;
    return {
      found: (endpoints) => {
        const running = this.#running.get(key);
        if (running === undefined) return;
        const { pool, source } = running.status;
        running.status = { ...running.status, endpoints: endpoints.length, followedAtMs: wallMs(), problem: undefined };
        events.discovered(pool, source, endpoints.length);
        members.found(pool, source, endpoints);
      },
      failed: (problem) => {
        const running = this.#running.get(key);
        if (running === undefined) return;
        const { pool, source } = running.status;
        running.status = { ...running.status, problem };
        events.discoveryFailed(pool, source, problem);
      },
    };
  }
}

/** Which discoveries each pool of a configuration has. */
export function sourcesOf({ settings }: Pick<CompiledConfig, 'settings'>): ReadonlyMap<string, ReadonlySet<DiscoverySource>> {
  return new Map(settings.pools.map(({ name, discovery }) => [name, new Set(discoverySources.filter((source) => discovery?.[source] !== undefined))]));
}

/** By a text that is another one wherever anything about it is. */
function toWanted({ settings, files }: CompiledConfig, rng: Rng): ReadonlyMap<string, Wanted> {
  const wanted = new Map<string, Wanted>();
  for (const { name: pool, discovery, labels = {} } of settings.pools) {
    const file = files.endpointLists.get(pool);
    if (file !== undefined) {
      const create = (listener: DiscoveryListener): Discovery => new FileDiscovery({ file, read: (path) => readEndpointList(path, labels), listener });
      wanted.set(JSON.stringify([pool, 'file', file, labels]), { pool, source: 'file', from: file, create });
    }
    const dns = discovery?.dns;
    if (dns !== undefined) {
      const create = (listener: DiscoveryListener): Discovery => new DnsDiscovery({ settings: dns, labels, listener, rng });
      wanted.set(JSON.stringify([pool, 'dns', dns, labels]), { pool, source: 'dns', from: `${dns.name} ${dns.type}`, create });
    }
  }
  return wanted;
}
