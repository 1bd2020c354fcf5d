/** First and longest wait before a worker is replaced, in ms. */
const firstMs = 100;
const longestMs = 10_000;
/** A worker that served so long, in ms, was not to blame for its predecessors. */
const soundMs = 60_000;

/** How long to wait before a worker is started anew: longer each time that it ended soon, so that one that cannot live does not take the machine. */
export class RestartDelay {
  #nextMs = firstMs;

  /** After a worker that served for `servedMs`. In ms. */
  after(servedMs: number): number {
    if (servedMs >= soundMs) this.#nextMs = firstMs;
    const delayMs = this.#nextMs;
    this.#nextMs = Math.min(longestMs, 2 * delayMs);
    return delayMs;
  }
}
