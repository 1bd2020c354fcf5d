import type { FleetEndpoint, FleetPool } from './fleet-view.ts';

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

type MutableReservation = { -readonly [K in keyof Reservation]: Reservation[K] };

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

  /** Counts a request on an endpoint. A lease already held moves there instead, keeping its start. */
  reserve(lease: string, pool: FleetPool, endpoint: FleetEndpoint, promptTokens: number, nowMs: number): Reservation {
    const held = this.#byLease.get(lease);
    if (held !== undefined) {
      this.#uncount(held);
      held.pool = pool;
      held.endpoint = endpoint;
      held.promptTokens = promptTokens;
      this.#count(held);
      return held;
    }
    const made: MutableReservation = { lease, pool, endpoint, promptTokens, startedMs: nowMs, phase: 'waiting' };
    this.#byLease.set(lease, made);
    this.#count(made);
    return made;
  }

  /** The first token came: the prompt no longer waits. Returns the reservation if this was news. */
  firstToken(lease: string): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held?.phase !== 'waiting') return undefined;
    held.endpoint.own.promptTokensWaiting -= held.promptTokens;
    held.phase = 'decoding';
    return held;
  }

  /** The request is over. Returns the reservation the first time, undefined ever after. */
  release(lease: string): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held === undefined) return undefined;
    this.#byLease.delete(lease);
    this.#uncount(held);
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
