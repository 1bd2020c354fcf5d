import { LRUCache } from 'lru-cache';
import type { StoredPlacement } from '../../router/shared-exchange.ts';

/** Sessions kept per pool: as many as Redis keeps. */
const placementsMax = 100_000;

/** Sessions that live elsewhere than at their home, for workers that join: what the workers that are there know already. */
export class KeptPlacements {
  /** By pool: session → address, '' where it is at its home again. */
  readonly #pools = new Map<string, LRUCache<string, string>>();

  store(pool: string, placements: readonly StoredPlacement[]): void {
    let kept = this.#pools.get(pool);
    if (kept === undefined) {
      kept = new LRUCache({ max: placementsMax });
      this.#pools.set(pool, kept);
    }
    for (const { keyId, address } of placements) kept.set(keyId, address ?? '');
  }

  /** Forgets all pools but these. */
  keepPools(pools: ReadonlySet<string>): void {
    for (const pool of [...this.#pools.keys()]) if (!pools.has(pool)) this.#pools.delete(pool);
  }

  /** Of a pool, oldest first. */
  read(pool: string): readonly StoredPlacement[] {
    const placements: StoredPlacement[] = [];
    this.#pools.get(pool)?.forEach((address, keyId) => placements.push({ keyId, address: address === '' ? undefined : address }));
    // They come most recently told first.
    return placements.reverse();
  }
}
