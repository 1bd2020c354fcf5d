import { ChurnMap } from '../core/churn-map.ts';
import { encodeReports, type ForwardedCompletion } from './exchange-messages.ts';
import type { Clock, Completion } from './ports.ts';

export interface ReportOutboxOptions {
  readonly routerId: string;
  readonly clock: Clock;
  /** Sends a message to one router. Calls `failed` where it is known, or may be, that it did not arrive. */
  readonly send: (owner: string, message: string, failed: () => void) => void;
  /** Whether a router is known to be gone, and its counts with it. */
  readonly isGone: (owner: string) => boolean;
  /** Time without an acknowledgement after which a message is taken for lost, in ms. */
  readonly lostAfterMs: number;
}

/** A message that is not acknowledged yet. */
interface Sent {
  readonly owner: string;
  readonly text: string;
  readonly reports: number;
  /** When it was sent last; -Infinity: it did not arrive. */
  sentMs: number;
}

/** Completion reports kept for their owners until they have arrived. */
const waitingMax = 50_000;
const reportsPerMessageMax = 1_000;
/** Messages of one router that wait for an acknowledgement, and routers that have any: readers take no more than 20 000 numbers at once. */
const receivedMax = 10_000;

/**
 * Completion reports on their way to the routers that own the leases, kept until those say that they have them. A channel of Redis
 * tells nobody that a message was lost with the connection that it was written to; the request would stay counted until it expires.
 * What may be lost is sent again: a report counts once, however often it arrives.
 */
export class ReportOutbox {
  readonly #options: ReportOutboxOptions;
  /** Not sent yet, by owner. */
  readonly #gathered = new Map<string, ForwardedCompletion[]>();
  /** Sent and not acknowledged, by the message's number; oldest first. */
  readonly #sent = new ChurnMap<number, Sent>();
  /** Numbers of messages that arrived here and were not acknowledged yet, by their sender. */
  readonly #received = new Map<string, number[]>();
  #waiting = 0;
  #number = 0;

  constructor(options: ReportOutboxOptions) {
    this.#options = options;
  }

  /** Reports of which it is not known yet that they have arrived. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Keeps a report until it is sent. False: too many wait already. */
  add(owner: string, lease: string, completion: Completion): boolean {
    if (this.#waiting >= waitingMax) return false;
    this.#waiting += 1;
    const gathered = this.#gathered.get(owner);
    if (gathered === undefined) this.#gathered.set(owner, [{ lease, completion }]);
    else gathered.push({ lease, completion });
    return true;
  }

  /** Sends what has gathered. */
  flush(): void {
    for (const [owner, gathered] of this.#gathered) {
      this.#gathered.delete(owner);
      for (let at = 0; at < gathered.length; at += reportsPerMessageMax) {
        const reports = gathered.slice(at, at + reportsPerMessageMax);
        this.#number += 1;
        const text = encodeReports({ router: this.#options.routerId, number: this.#number, reports, received: this.#takeReceived(owner) });
        const sent = { owner, text, reports: reports.length, sentMs: 0 };
        this.#sent.set(this.#number, sent);
        this.#send(sent);
      }
    }
  }

  /** Sends again what is known not to have arrived or was not acknowledged in time. What is for routers that are gone is dropped. */
  sendAgain(): void {
    const { clock, isGone, lostAfterMs } = this.#options;
    const nowMs = clock.nowMs();
    this.#sent.visit((sent, number) => {
      if (nowMs - sent.sentMs < lostAfterMs) return true;
      if (isGone(sent.owner)) this.#forget(number, sent);
      else this.#send(sent);
      return true;
    });
  }

  /** Tells others which of their messages have arrived. */
  acknowledge(): void {
    const { routerId, send, isGone } = this.#options;
    for (const router of [...this.#received.keys()]) {
      const received = this.#takeReceived(router);
      if (!isGone(router)) send(router, encodeReports({ router: routerId, number: 0, reports: [], received }), () => {});
    }
  }

  /** A message of another router has arrived, and needs an acknowledgement. Where too many do, it is sent again, and acknowledged then. */
  arrived(router: string, number: number): void {
    const received = this.#received.get(router);
    if (received !== undefined) {
      if (received.length < receivedMax) received.push(number);
    } else if (this.#received.size < receivedMax) {
      this.#received.set(router, [number]);
    }
  }

  /** Another router says that it has these messages. */
  acknowledged(router: string, numbers: readonly number[]): void {
    for (const number of numbers) {
      const sent = this.#sent.get(number);
      if (sent?.owner === router) this.#forget(number, sent);
    }
  }

  #send(sent: Sent): void {
    const { clock, send } = this.#options;
    sent.sentMs = clock.nowMs();
    send(sent.owner, sent.text, () => (sent.sentMs = -Infinity));
  }

  #forget(number: number, sent: Sent): void {
    this.#sent.delete(number);
    this.#waiting -= sent.reports;
  }

  #takeReceived(router: string): readonly number[] {
    const received = this.#received.get(router) ?? [];
    this.#received.delete(router);
    return received;
  }
}
