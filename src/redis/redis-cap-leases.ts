import { type CapShare, shareOfLimit } from '../fleet/endpoint.ts';
import type { CapLeases, CappedEndpoint } from '../router/ports.ts';
import type { RedisTransport } from './redis-transport.ts';

/** How long a place is held without being renewed, in ms: so long a router that died keeps its places. */
const placeTtlMsDefault = 10_000;
/** Leases renewed or given back by one call. */
const leasesPerCall = 1_000;

/** Places on capped endpoints, kept in Redis under its clock. */
export class RedisCapLeases implements CapLeases {
  readonly #transport: RedisTransport;
  readonly #placeTtlMs: number;
  /** Places held, by pool and address. */
  readonly #held = new Map<string, { readonly pool: string; readonly address: string; readonly leases: Set<string> }>();
  readonly #timer: NodeJS.Timeout;
  readonly #share: () => CapShare;

  /** `share`: this router's part while Redis is away. */
  constructor(transport: RedisTransport, share: () => CapShare, placeTtlMs: number = placeTtlMsDefault) {
    this.#transport = transport;
    this.#share = share;
    this.#placeTtlMs = placeTtlMs;
    this.#timer = setInterval(() => this.#renew(), placeTtlMs / 3);
    this.#timer.unref();
  }

  async acquire(pool: string, lease: string, endpoints: readonly CappedEndpoint[]): Promise<{ readonly taken: string | undefined } | 'unavailable'> {
    const answer = await this.#transport.ask('caps', async () => ({ taken: await this.#transport.scripts.acquireCap(pool, lease, endpoints, this.#placeTtlMs) }));
    // Without an answer a place may have been taken after all: it expires.
    if (answer === undefined) return 'unavailable';
    if (answer.taken !== undefined) this.#places(pool, answer.taken).add(lease);
    return answer;
  }

  release(pool: string, address: string, lease: string): void {
    if (!this.#places(pool, address).delete(lease)) return;
    this.#transport.send('caps', () => this.#transport.scripts.releaseCap(pool, address, [lease]));
  }

  shareOf(requestsMax: number): number {
    return shareOfLimit(requestsMax, this.#share());
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #places(pool: string, address: string): Set<string> {
    const name = `${pool}/${address}`;
    let places = this.#held.get(name);
    if (places === undefined) {
      places = { pool, address, leases: new Set() };
      this.#held.set(name, places);
    }
    return places.leases;
  }

  #renew(): void {
    for (const { pool, address, leases } of this.#held.values()) {
      const all = [...leases];
      for (let at = 0; at < all.length; at += leasesPerCall) {
        const page = all.slice(at, at + leasesPerCall);
        this.#transport.send('caps', () => this.#transport.scripts.renewCap(pool, address, page, this.#placeTtlMs));
      }
    }
  }
}
