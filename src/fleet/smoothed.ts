/**
 * An exponential mean over time: what was measured `timeConstantMs` ago still counts e⁻¹ as much. Measurements may come at any intervals.
 * Time is an argument.
 */
export class Smoothed {
  readonly #timeConstantMs: number;
  #value = 0;

  constructor(timeConstantMs: number) {
    this.#timeConstantMs = timeConstantMs;
  }

  get value(): number {
    return this.#value;
  }

  /** Takes in a value that was in force for the last `elapsedMs`. */
  take(value: number, elapsedMs: number): void {
    this.#value += (value - this.#value) * shareOf(elapsedMs, this.#timeConstantMs);
  }
}

/** How far an exponential mean moves to a new value over so long a time, from 0 to 1. */
export function shareOf(elapsedMs: number, timeConstantMs: number): number {
  return 1 - Math.exp(-elapsedMs / timeConstantMs);
}
