/**
 * Tells of the first occurrence at once, and of those that follow in one summary per period. Without occurrences no timer
 * runs, and a timer never keeps the process alive.
 */
export class RateLimited<T> {
  readonly #periodMs: number;
  readonly #tell: (count: number, latest: T) => void;
  #timer: NodeJS.Timeout | undefined;
  #pending: { count: number; latest: T } | undefined;

  /** `tell` gets the number of occurrences since it was last called, and the latest of them. */
  constructor(periodMs: number, tell: (count: number, latest: T) => void) {
    this.#periodMs = periodMs;
    this.#tell = tell;
  }

  /** One more occurrence. */
  note(occurrence: T): void {
    if (this.#timer === undefined) {
      this.#startPeriod();
      this.#tell(1, occurrence);
    } else if (this.#pending === undefined) {
      this.#pending = { count: 1, latest: occurrence };
    } else {
      this.#pending.count += 1;
      this.#pending.latest = occurrence;
    }
  }

  /** Tells what is pending now, and forgets the period. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending !== undefined) this.#tell(pending.count, pending.latest);
  }

  #startPeriod(): void {
    this.#timer = setTimeout(() => {
      const due = this.#pending !== undefined;
      this.flush();
      if (due) this.#startPeriod();
    }, this.#periodMs);
    this.#timer.unref();
  }
}
