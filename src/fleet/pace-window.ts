/** Samples on which the pace mainly rests: older ones fade. */
const fadeOver = 8;
/** What is older than that says nothing of now, in ms. */
const ageMsMax = 60_000;

/** How an endpoint's first tokens compare with what they were expected to take: 1: as expected, 10: ten times as long. Time is an argument. */
export class PaceWindow {
  #observedMs = 0;
  #expectedMs = 0;
  #samples = 0;
  #lastMs = -Infinity;

  /** A first token came after `observedMs`, where `expectedMs` (> 0) was reckoned from the work that waited there. */
  add(observedMs: number, expectedMs: number, nowMs: number): void {
    if (!(observedMs >= 0 && expectedMs > 0)) return;
    if (nowMs - this.#lastMs > ageMsMax) this.clear();
    const keep = 1 - 1 / Math.min(this.#samples + 1, fadeOver);
    // Sums, so that short ones, which vary most, count least.
    this.#observedMs = this.#observedMs * keep + observedMs;
    this.#expectedMs = this.#expectedMs * keep + expectedMs;
    this.#samples += 1;
    this.#lastMs = nowMs;
  }

  /** The pace; undefined while fewer than `samplesMin` came lately. */
  pace(samplesMin: number, nowMs: number): number | undefined {
    if (this.#samples < samplesMin || nowMs - this.#lastMs > ageMsMax) return undefined;
    return this.#observedMs / this.#expectedMs;
  }

  clear(): void {
    this.#observedMs = 0;
    this.#expectedMs = 0;
    this.#samples = 0;
    this.#lastMs = -Infinity;
  }
}
