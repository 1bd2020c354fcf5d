/** First tokens so close to a late one came of the same step of the engine, in ms. */
const sameStepMs = 50;
/** What lies further back than that is another matter, in ms. */
const ageMsMax = 10_000;

/**
 * Steps of an endpoint's engine that came late one after the other, with nothing on time in between: one may be late for many reasons, the
 * next one too where the endpoint has become slow. Time is an argument.
 */
export class LateSteps {
  #steps = 0;
  #requests = 0;
  #lastMs = -Infinity;
  #usualPace: number | undefined;

  /** Steps in a row. */
  steps(nowMs: number): number {
    this.#expire(nowMs);
    return this.#steps;
  }

  /** Requests that had to wait for them. */
  requests(nowMs: number): number {
    this.#expire(nowMs);
    return this.#requests;
  }

  /** The endpoint's pace before the first of them. */
  get usualPace(): number | undefined {
    return this.#usualPace;
  }

  /** A first token came long after it should have. `usualPace`: how the endpoint did before; counts where this is the first. */
  late(usualPace: number, nowMs: number): void {
    this.#expire(nowMs);
    if (this.#steps === 0) this.#usualPace = usualPace;
    this.#steps += 1;
    this.#requests += 1;
    this.#lastMs = nowMs;
  }

  /** Whether a first token at this time came of the step that was late last. `waitedLong`: then it is one more that had to wait for it. */
  isOfLast(nowMs: number, waitedLong: boolean): boolean {
    if (this.#steps === 0 || nowMs - this.#lastMs > sameStepMs) return false;
    if (waitedLong) this.#requests += 1;
    return true;
  }

  /** A first token came in time: all is well. */
  clear(): void {
    this.#steps = 0;
    this.#requests = 0;
    this.#lastMs = -Infinity;
    this.#usualPace = undefined;
  }

  #expire(nowMs: number): void {
    if (nowMs - this.#lastMs > ageMsMax) this.clear();
  }
}
