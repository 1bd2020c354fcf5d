import type { Clock } from '../../src/router/ports.ts';
import { EventQueue } from './event-queue.ts';

/** What is to be done at a time. */
export type TimedAction = () => void;

const startOfTimeMs = Date.UTC(2026, 0, 1);

/** A clock that stands still until someone takes what is due: the simulator's time, and all its timers. */
export class VirtualTime implements Clock {
  readonly #queue = new EventQueue<TimedAction>();
  #nowMs = 0;

  nowMs(): number {
    return this.#nowMs;
  }

  /** The same as a date, in ms since the Unix epoch: virtual time begins with the year 2026. */
  wallMs(): number {
    return startOfTimeMs + this.#nowMs;
  }

  /** Time of what is due next; undefined: nothing is. */
  get nextMs(): number | undefined {
    return this.#queue.nextMs;
  }

  /** Does something at a time, at the earliest now. */
  at(ms: number, action: TimedAction): void {
    this.#queue.add(Math.max(ms, this.#nowMs), action);
  }

  /** Does something when so much time has passed. */
  after(ms: number, action: TimedAction): void {
    this.at(this.#nowMs + ms, action);
  }

  /** Goes to the time of what is due next and does it; false: nothing is due. */
  step(): boolean {
    const due = this.#queue.take();
    if (due === undefined) return false;
    this.#nowMs = due.atMs;
    due.event();
    return true;
  }
}
