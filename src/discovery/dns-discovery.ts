import { promises as dns, type RecordWithTtl, type SrvRecord } from 'node:dns';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import type { Discovery, DiscoveryListener, Rng } from '../router/ports.ts';

/** How a pool's endpoints are looked up. */
export interface DnsSettings {
  readonly name: string;
  readonly type: 'A' | 'AAAA' | 'SRV';
  /** Of A and AAAA, which tell none; unused for SRV. */
  readonly port?: number | undefined;
  /** Longest time between two look-ups, in ms. */
  readonly intervalMs: number;
  /** `ip:port` of the name server; undefined: the machine's. */
  readonly server?: string | undefined;
  /** Whether an answer without addresses means that there are no endpoints. */
  readonly allowEmpty: boolean;
}

export interface DnsDiscoveryOptions {
  readonly settings: DnsSettings;
  /** Labels of all endpoints that are found. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly listener: DiscoveryListener;
  readonly rng: Rng;
  /** Shortest time between two look-ups, in ms; default: a second. */
  readonly intervalMsMin?: number;
  /** How long a name server is waited for, in ms, and how often it is asked; a second, twice. */
  readonly timeoutMs?: number;
}

const tries = 2;
/** Look-ups vary by this share, so that routers do not fall into step. */
const jitterShare = 0.1;
const endpointsMax = 10_000;

/** Addresses behind one name, and how long they hold. */
interface Addresses {
  readonly found: readonly string[];
  readonly ttlS: number;
}

/** Codes of answers that mean no addresses, and nothing wrong: of a name that has no such record, and of one that may not even be there. */
const noRecord: readonly string[] = ['ENODATA'];
const noRecordOrName: readonly string[] = [...noRecord, 'ENOTFOUND'];

/**
 * Endpoints that the name service names. A look-up that fails changes nothing: the last answer holds. Of SRV records those of the lowest
 * priority count (RFC 2782), and their weights, whose mean is made 1 so that they stand beside weights written by hand.
 */
export class DnsDiscovery implements Discovery {
  readonly #options: DnsDiscoveryOptions;
  readonly #resolver: dns.Resolver;
  #timer: NodeJS.Timeout | undefined;
  #failures = 0;
  #looking: Promise<void> | undefined;
  #stopped = false;

  constructor(options: DnsDiscoveryOptions) {
    const { settings, timeoutMs = 1_000 } = options;
    this.#options = options;
    this.#resolver = new dns.Resolver({ timeout: timeoutMs, tries });
    if (settings.server !== undefined) this.#resolver.setServers([settings.server]);
  }

  start(): Promise<void> {
    return this.#look();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#resolver.cancel();
  }

  refresh(): void {
    void this.#look();
  }

  /** Looks up, tells, and sets the time for the next. Never rejects. */
  #look(): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    clearTimeout(this.#timer);
    this.#looking ??= this.#lookUp().then((ttlS) => {
      this.#looking = undefined;
      if (this.#stopped) return;
      const { settings, rng, intervalMsMin = 1_000 } = this.#options;
      // After a failure soon, and then less and less often.
      const wantedMs = ttlS === undefined ? intervalMsMin * 2 ** (this.#failures - 1) : ttlS * 1_000;
      const nextMs = Math.min(settings.intervalMs, Math.max(intervalMsMin, wantedMs)) * (1 - jitterShare * rng.draw());
      this.#timer = setTimeout(() => void this.#look(), nextMs).unref();
    });
    return this.#looking;
  }

  /** Seconds for which the answer holds; undefined: it failed. */
  async #lookUp(): Promise<number | undefined> {
    const { settings, listener } = this.#options;
    try {
      const { endpoints, ttlS } = settings.type === 'SRV' ? await this.#lookUpServices() : await this.#lookUpAddresses(settings.type);
      if (this.#stopped) return undefined;
      if (endpoints.length === 0 && !settings.allowEmpty) throw new Error('the answer holds no addresses; with allowEmpty that means no endpoints');
      if (endpoints.length > endpointsMax) throw new Error(`the answer holds ${endpoints.length} addresses; expected at most ${endpointsMax}`);
      this.#failures = 0;
      listener.found(endpoints);
      return ttlS;
    } catch (error) {
      if (this.#stopped) return undefined;
      this.#failures = Math.min(30, this.#failures + 1);
      listener.failed({ source: `${settings.name} ${settings.type}`, causes: [{ path: '', message: describe(error as NodeJS.ErrnoException) }] });
      return undefined;
    }
  }

  async #lookUpAddresses(type: 'A' | 'AAAA'): Promise<{ endpoints: EndpointDefinition[]; ttlS: number }> {
    const { settings } = this.#options;
    const { found, ttlS } = await this.#addresses(settings.name, type, settings.allowEmpty ? noRecord : []);
    return { endpoints: [...new Set(found)].map((address) => this.#toEndpoint(address, settings.port ?? 0, 1)), ttlS };
  }

  async #lookUpServices(): Promise<{ endpoints: EndpointDefinition[]; ttlS: number }> {
    const { settings } = this.#options;
    const records = await this.#resolver.resolveSrv(settings.name).catch((error: unknown): SrvRecord[] => {
      if (settings.allowEmpty && (error as NodeJS.ErrnoException).code === 'ENODATA') return [];
      throw error;
    });
    const lowest = Math.min(...records.map(({ priority }) => priority));
    const services = records.filter(({ priority }) => priority === lowest);
    // A weight of 0 means hardly ever where others have one, and nothing where none has.
    const weights = services.map(({ weight }) => Math.max(1, weight));
    const mean = weights.reduce((sum, weight) => sum + weight, 0) / Math.max(1, weights.length);
    const names = [...new Set(services.map(({ name }) => name))];
    const addresses = new Map(await Promise.all(names.map(async (name) => [name, await this.#addressesOfTarget(name)] as const)));
    const endpoints = new Map<string, EndpointDefinition>();
    let ttlS = Infinity;
    services.forEach(({ name, port }, i) => {
      const target = addresses.get(name);
      // Node does not tell the TTL of SRV records: that of the addresses has to do.
      if (target !== undefined && target.found.length > 0) ttlS = Math.min(ttlS, target.ttlS);
      for (const address of target?.found ?? []) {
        const endpoint = this.#toEndpoint(address, port, (weights[i] ?? 1) / mean);
        if (!endpoints.has(endpoint.address)) endpoints.set(endpoint.address, endpoint);
      }
    });
    return { endpoints: [...endpoints.values()], ttlS };
  }

  /** IPv4 where the name has any, else IPv6. A target that is gone is left out; one that cannot be looked up makes the whole answer void. */
  async #addressesOfTarget(name: string): Promise<Addresses> {
    const four = await this.#addresses(name, 'A', noRecordOrName);
    return four.found.length > 0 ? four : this.#addresses(name, 'AAAA', noRecordOrName);
  }

  /** `emptyCodes`: those that mean none. */
  async #addresses(name: string, type: 'A' | 'AAAA', emptyCodes: readonly string[]): Promise<Addresses> {
    try {
      const records: RecordWithTtl[] = type === 'A' ? await this.#resolver.resolve4(name, { ttl: true }) : await this.#resolver.resolve6(name, { ttl: true });
      return { found: records.map(({ address }) => address), ttlS: Math.min(...records.map(({ ttl }) => ttl)) };
    } catch (error) {
      if (emptyCodes.includes((error as NodeJS.ErrnoException).code ?? '')) return { found: [], ttlS: Infinity };
      throw error;
    }
  }

  #toEndpoint(address: string, port: number, weight: number): EndpointDefinition {
    const hostPort = address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
    return { address: hostPort, weight, labels: this.#options.labels ?? {}, requestsMax: undefined, contextTokensMax: undefined, kvTokensMax: undefined };
  }
}

/** Words for c-ares' codes. */
const causes: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no such name (NXDOMAIN)',
  ENODATA: 'the name has no such record; with allowEmpty that means no endpoints',
  ETIMEOUT: 'the name server does not answer',
  ECONNREFUSED: 'the name server cannot be reached',
  ESERVFAIL: 'the name server failed (SERVFAIL)',
  EREFUSED: 'the name server refuses to answer (REFUSED)',
};

function describe(error: NodeJS.ErrnoException): string {
  return causes[error.code ?? ''] ?? error.message;
}
