import { LRUCache } from 'lru-cache';

/** Sessions remembered at most, per pool and router. */
const placementsMax = 200_000;

/**
 * The exceptions to the hash: sessions that were sent elsewhere than to their home, and where. Bounded; the least recently
 * used is forgotten first, and a forgotten session simply goes home again.
 */
export class Placements {
  readonly #pools = new Map<string, LRUCache<string, string>>();

  /** Address where this session's cache is, if that is not its home. */
  find(pool: string, keyId: string): string | undefined {
    return this.#pools.get(pool)?.get(keyId);
  }

  /** Notes where a session was sent. Says what changed: it is away now, or back home; undefined: nothing did. */
  note(pool: string, keyId: string, address: string, home: string | undefined): 'away' | 'home' | undefined {
    if (address === home) return this.forget(pool, keyId) ? 'home' : undefined;
    if (this.#pools.get(pool)?.peek(keyId) === address) return undefined;
    this.set(pool, keyId, address);
    return 'away';
  }

  set(pool: string, keyId: string, address: string): void {
    let placed = this.#pools.get(pool);
    if (placed === undefined) {
      placed = new LRUCache({ max: placementsMax });
      this.#pools.set(pool, placed);
    }
    placed.set(keyId, address);
  }

  /** True if there was something to forget. */
  forget(pool: string, keyId: string): boolean {
    return this.#pools.get(pool)?.delete(keyId) ?? false;
  }

  /** Forgets all pools but these. */
  keepPools(pools: ReadonlySet<string>): void {
    for (const pool of [...this.#pools.keys()]) if (!pools.has(pool)) this.#pools.delete(pool);
  }

  /** The latest used, newest first. */
  latest(pool: string, max: number): { readonly keyId: string; readonly address: string }[] {
    const latest: { keyId: string; address: string }[] = [];
    for (const [keyId, address] of this.#pools.get(pool)?.entries() ?? []) {
      if (latest.length >= max) break;
      latest.push({ keyId, address });
    }
    return latest;
  }

  get size(): number {
    let size = 0;
    for (const placed of this.#pools.values()) size += placed.size;
    return size;
  }
}
