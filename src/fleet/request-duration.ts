/**
 * How long requests take, learned from those that ended: running mean and mean deviation, as TCP estimates its round trip
 * (RFC 6298: gains 1/8 and 1/4). Tells how long a request without any sign of its end is still believed to run.
 */
export class RequestDuration {
  #meanMs = 0;
  #deviationMs = 0;
  #count = 0;

  learn(durationMs: number): void {
    this.#count += 1;
    if (this.#count === 1) {
      this.#meanMs = durationMs;
      this.#deviationMs = durationMs / 2;
      return;
    }
    this.#deviationMs += (Math.abs(durationMs - this.#meanMs) - this.#deviationMs) / 4;
    this.#meanMs += (durationMs - this.#meanMs) / 8;
  }

  /** Whether anything was learned. */
  get known(): boolean {
    return this.#count > 0;
  }

  /**
   * A time that hardly any request exceeds: mean + 16 deviations, at least a minute. Generous, because generation lengths
   * have a long tail and a release too early hides load, while one too late is repaired by the next real ending.
   */
  get longMs(): number {
    return Math.max(60_000, this.#meanMs + 16 * this.#deviationMs);
  }
}
