import type { ConnectionLimits } from '../grpc-transport.ts';

/** How long a client may take to begin, in ms. */
const beginMsMax = 10_000;

/** What a connection does when its time has come. */
export interface TimedSteps {
  /** Sends a ping whose answer is told to {@link ConnectionClock.pong}. */
  ping(): void;
  /** Asks the client to leave. */
  leave(): void;
  close(): void;
}

/** The times of one connection: to begin, to answer pings, to leave. No call has a timer. */
export class ConnectionClock {
  readonly #limits: ConnectionLimits;
  readonly #steps: TimedSteps;
  readonly #timers = new Set<NodeJS.Timeout>();
  #begin: NodeJS.Timeout | undefined;
  #pong: NodeJS.Timeout | undefined;

  constructor(limits: ConnectionLimits, steps: TimedSteps) {
    this.#limits = limits;
    this.#steps = steps;
    const { keepaliveIntervalMs, ageMsMax, ageGraceMs } = limits;
    this.#begin = this.after(beginMsMax, () => steps.close());
    if (keepaliveIntervalMs > 0) this.#timers.add(setInterval(() => this.#ping(), keepaliveIntervalMs).unref());
    if (ageMsMax > 0) {
      // Spread out, so that connections made at once do not all end at once.
      this.after(ageMsMax * (0.9 + 0.2 * Math.random()), () => {
        steps.leave();
        this.after(ageGraceMs, () => steps.close());
      });
    }
  }

  after(ms: number, step: () => void): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      step();
    }, ms).unref();
    this.#timers.add(timer);
    return timer;
  }

  /** The client's preface and settings came. */
  began(): void {
    if (this.#begin === undefined) return;
    this.#cancel(this.#begin);
    this.#begin = undefined;
  }

  /** A ping was answered. */
  pong(): void {
    if (this.#pong === undefined) return;
    this.#cancel(this.#pong);
    this.#pong = undefined;
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #ping(): void {
    if (this.#pong !== undefined) return;
    this.#pong = this.after(this.#limits.keepaliveTimeoutMs, () => this.#steps.close());
    this.#steps.ping();
  }

  #cancel(timer: NodeJS.Timeout): void {
    clearTimeout(timer);
    this.#timers.delete(timer);
  }
}
