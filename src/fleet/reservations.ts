import { ChurnMap } from '../core/churn-map.ts';
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
  /** Of them, those not believed to be cached: what it adds to the wait for a first token. */
  readonly uncachedTokens: number;
  readonly startedMs: number;
  /** When it was last heard to go on; its start, if it never was. */
  readonly aliveMs: number;
  readonly phase: ReservationPhase;
  /** Whether its answer comes as a stream of tokens; undefined: not known. */
  readonly streams: boolean | undefined;
}

type MutableReservation = { -readonly [K in keyof Reservation]: Reservation[K] } & {
  /** Held, but not counted for the moment. */
  aside: boolean;
};

/** What a request counts for. */
export interface RequestSize {
  readonly promptTokens: number;
  readonly uncachedTokens: number;
  /** As in {@link Reservation}. */
  readonly streams?: boolean | undefined;
}

/** This router's own name in an endpoint's line; no other router can have it. */
const self = '';

/**
 * The requests this router has in flight, each under its lease. A reservation is counted once and released once, whoever
 * reports the end, however often.
 */
export class Reservations {
  /** In order of start: the oldest come first when the expired are looked for. */
  readonly #byLease = new ChurnMap<string, MutableReservation>();

  get size(): number {
    return this.#byLease.size;
  }

  find(lease: string): Reservation | undefined {
    return this.#byLease.get(lease);
  }

  /** Takes a held request out of the counts until it is reserved again or released: its own load must not count against it. */
  setAside(lease: string, nowMs: number): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held === undefined || held.aside) return held;
    this.#uncount(held, nowMs);
    held.aside = true;
    return held;
  }

  /** Counts a request on an endpoint. A lease already held moves there instead, keeping its start and its place. */
  reserve(lease: string, pool: FleetPool, endpoint: FleetEndpoint, { promptTokens, uncachedTokens, streams }: RequestSize, nowMs: number): Reservation {
    const held = this.#byLease.get(lease);
    if (held !== undefined) {
      if (!held.aside) this.#uncount(held, nowMs);
      held.aside = false;
      held.pool = pool;
      held.endpoint = endpoint;
      held.promptTokens = promptTokens;
      held.uncachedTokens = uncachedTokens;
      held.streams = streams;
      this.#count(held, nowMs);
      return held;
    }
    const made: MutableReservation = { lease, pool, endpoint, promptTokens, uncachedTokens, startedMs: nowMs, aliveMs: nowMs, phase: 'waiting', streams, aside: false };
    this.#byLease.set(lease, made);
    this.#count(made, nowMs);
    return made;
  }

  /** The first token came: the prompt no longer waits. Returns the reservation if this was news. */
  firstToken(lease: string, nowMs: number): Reservation | undefined {
    const held = this.#byLease.get(lease);
    if (held?.phase !== 'waiting') return undefined;
    if (!held.aside) this.#leaveLine(held, nowMs, true);
    held.phase = 'decoding';
    return held;
  }

  /** The request is over; `answered`: in full. Returns the reservation the first time, undefined ever after. */
  release(lease: string, nowMs: number, answered = false): Reservation | undefined {
    const held = this.#byLease.take(lease);
    if (held === undefined) return undefined;
    // An answer in one piece has its first token with its last.
    if (!held.aside) this.#uncount(held, nowMs, answered && held.streams === false);
    return held;
  }

  /** The request goes on. */
  keepAlive(lease: string, nowMs: number): void {
    const held = this.#byLease.get(lease);
    if (held !== undefined) held.aliveMs = nowMs;
  }

  /** Releases what started, or was last heard to go on, at or before `aliveMsMax`, and returns it. */
  expire(aliveMsMax: number, nowMs: number): Reservation[] {
    const expired: Reservation[] = [];
    this.#byLease.visit((held) => {
      if (held.startedMs > aliveMsMax) return false;
      if (held.aliveMs <= aliveMsMax) expired.push(held);
      return true;
    });
    for (const { lease } of expired) this.release(lease, nowMs);
    return expired;
  }

  #count({ endpoint, promptTokens, uncachedTokens, phase }: MutableReservation, nowMs: number): void {
    endpoint.own.requests += 1;
    endpoint.own.promptTokens += promptTokens;
    if (phase !== 'waiting') return;
    endpoint.own.requestsWaiting += 1;
    endpoint.own.uncachedTokensWaiting += uncachedTokens;
    endpoint.line.join(self, uncachedTokens, nowMs);
  }

  #uncount(held: MutableReservation, nowMs: number, served = false): void {
    const { own } = held.endpoint;
    own.requests -= 1;
    own.promptTokens -= held.promptTokens;
    if (held.phase === 'waiting') this.#leaveLine(held, nowMs, served);
  }

  #leaveLine({ endpoint, uncachedTokens }: MutableReservation, nowMs: number, served: boolean): void {
    endpoint.own.requestsWaiting -= 1;
    endpoint.own.uncachedTokensWaiting -= uncachedTokens;
    endpoint.line.leave(self, uncachedTokens, nowMs, served);
  }
}
