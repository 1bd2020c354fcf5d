import { LRUCache } from 'lru-cache';

/** Sessions remembered at most, per router. */
const placementsMax = 200_000;

/**
 * The exceptions to the hash: sessions that were sent elsewhere than to their home, and where. Bounded; the least recently
 * used is forgotten first, and a forgotten session simply goes home again.
 */
export class Placements {
  readonly #byKey = new LRUCache<string, string>({ max: placementsMax });

  /** Address where this session's cache is, if that is not its home. */
  find(pool: string, keyId: string): string | undefined {
    return this.#byKey.get(`${pool}/${keyId}`);
  }

  /** Notes where a session was sent. */
  note(pool: string, keyId: string, address: string, home: string | undefined): void {
    const name = `${pool}/${keyId}`;
    if (address === home) this.#byKey.delete(name);
    else this.#byKey.set(name, address);
  }

  get size(): number {
    return this.#byKey.size;
  }
}
