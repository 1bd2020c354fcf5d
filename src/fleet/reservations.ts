import type { FleetEndpoint } from './endpoint.ts';
import type { FleetPool } from './fleet-view.ts';

/** Where a request stands between being sent and being over. */
export type ReservationPhase = 'waiting' | 'decoding';

/** One request in flight, counted on one endpoint. */
export interface Reservation {
  readonly lease: string;
  readonly pool: FleetPool;
  readonly endpoint: FleetEndpoint;
  /** What the request counts for until it ends. */
  readonly promptTokens: number;
  readonly startedMs: number;
  readonly phase: ReservationPhase;
}

type MutableReservation = { -readonly [K in keyof Reservation]: Reservation[K] } & {
  /** Held, but not counted for the moment. */
  aside: boolean;
};

/**
 * The requests this router has in flight, each under its lease. A reservation is counted once and released once, whoever
 * reports the end, however often.
 */
export class Reservations {
  /** In order of start: the oldest come first when the expired are looked for. */
  readonly #byLease = new Map<string, MutableReservation>();

  get size(): number {
    return this.#byLease.size;
  }

  find(lease: string): Reservation | undefined {
    return this.#byLease.get(lease);
  }

  /** Takes a held request out of the counts until it is reserved again or released: its own load must not count against it. */
  setAside(lease: string): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held === undefined || held.aside) return held;
    this.#uncount(held);
    held.aside = true;
    return held;
  }

  /** Counts a request on an endpoint. A lease already held moves there instead, keeping its start and its place. */
  reserve(lease: string, pool: FleetPool, endpoint: FleetEndpoint, promptTokens: number, nowMs: number): Reservation {
    const held = this.#byLease.get(lease);
    if (held !== undefined) {
      if (!held.aside) this.#uncount(held);
      held.aside = false;
      held.pool = pool;
      held.endpoint = endpoint;
      held.promptTokens = promptTokens;
      this.#count(held);
      return held;
    }
    const made: MutableReservation = { lease, pool, endpoint, promptTokens, startedMs: nowMs, phase: 'waiting', aside: false };
    this.#byLease.set(lease, made);
    this.#count(made);
    return made;
  }

  /** The first token came: the prompt no longer waits. Returns the reservation if this was news. */
  firstToken(lease: string): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held?.phase !== 'waiting') return undefined;
    if (!held.aside) held.endpoint.own.promptTokensWaiting -= held.promptTokens;
    held.phase = 'decoding';
    return held;
  }

  /** The request is over. Returns the reservation the first time, undefined ever after. */
  release(lease: string): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held === undefined) return undefined;
    this.#byLease.delete(lease);
    if (!held.aside) this.#uncount(held);
    return held;
  }

  /** Releases what started at or before `startedMsMax` and returns it. */
  expire(startedMsMax: number): Reservation[] {
    const expired: Reservation[] = [];
    for (const held of this.#byLease.values()) {
      if (held.startedMs > startedMsMax) break;
      expired.push(held);
    }
    for (const { lease } of expired) this.release(lease);
    return expired;
  }

  #count({ endpoint, promptTokens, phase }: MutableReservation): void {
    endpoint.own.requests += 1;
    endpoint.own.promptTokens += promptTokens;
    if (phase === 'waiting') endpoint.own.promptTokensWaiting += promptTokens;
  }

  #uncount({ endpoint, promptTokens, phase }: MutableReservation): void {
    endpoint.own.requests -= 1;
    endpoint.own.promptTokens -= promptTokens;
    if (phase === 'waiting') endpoint.own.promptTokensWaiting -= promptTokens;
  }
}
