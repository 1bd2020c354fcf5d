import type { CappedEndpoint } from '../../router/ports.ts';

/** Places of a worker that ended: its requests go on at their endpoints for a while, and nobody is left to report their ends to. */
interface Orphaned {
  readonly worker: string;
  readonly endsMs: number;
}

/** How long they are still counted, in ms: as long as Redis keeps the places of a router that died. */
export const orphanedMs = 10_000;

/** Places on endpoints with an exact limit, of all workers, counted in one place. */
export class CapLedger {
  readonly #nowMs: () => number;
  /** By pool and address, who holds a place: lease → worker. */
  readonly #held = new Map<string, Map<string, string>>();
  #orphaned: Orphaned[] = [];

  /** `nowMs`: monotonic, in ms. */
  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** Takes a place on the first endpoint that has one, for a worker's lease; a lease that holds a place there keeps it. Undefined: all are full. */
  acquire(worker: string, pool: string, lease: string, endpoints: readonly CappedEndpoint[]): string | undefined {
    this.#expire();
    for (const { address, requestsMax } of endpoints) {
      const places = this.#places(pool, address);
      if (!places.has(lease) && places.size >= requestsMax) continue;
      places.set(lease, worker);
      return address;
    }
    return undefined;
  }

  /** Gives a place back. Idempotent. */
  release(pool: string, address: string, lease: string): void {
    const name = nameOf(pool, address);
    const places = this.#held.get(name);
    places?.delete(lease);
    if (places?.size === 0) this.#held.delete(name);
  }

  /** The worker is gone. */
  ended(worker: string): void {
    this.#orphaned.push({ worker, endsMs: this.#nowMs() + orphanedMs });
  }

  /** Places taken on an endpoint. */
  taken(pool: string, address: string): number {
    this.#expire();
    return this.#held.get(nameOf(pool, address))?.size ?? 0;
  }

  #expire(): void {
    if (this.#orphaned.length === 0) return;
    const nowMs = this.#nowMs();
    const over = new Set(this.#orphaned.filter(({ endsMs }) => endsMs <= nowMs).map(({ worker }) => worker));
    if (over.size === 0) return;
    this.#orphaned = this.#orphaned.filter(({ worker }) => !over.has(worker));
    for (const [name, places] of this.#held) {
      for (const [lease, worker] of places) if (over.has(worker)) places.delete(lease);
      if (places.size === 0) this.#held.delete(name);
    }
  }

  #places(pool: string, address: string): Map<string, string> {
    const name = nameOf(pool, address);
    let places = this.#held.get(name);
    if (places === undefined) {
      places = new Map();
      this.#held.set(name, places);
    }
    return places;
  }
}

function nameOf(pool: string, address: string): string {
  return `${pool}/${address}`;
}
