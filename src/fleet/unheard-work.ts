/**
 * Time from a dispatch within which what the others sent at the same moment is heard of, in ms. Pushed events take 2.4 ms in the middle,
 * and nine in ten take less than this (docs/shared-state.md); a longer time would count more of what was sent afterwards.
 */
const hearingMs = 5;
/** Own dispatches that the mean is over, about. */
const meanOver = 64;

/**
 * The work that other routers send to a pool at the moment at which this one sends a request, of which none of them can know yet: learned
 * from what they turn out to have sent, as soon as it is heard of. Next to nothing where requests come one by one; most of the burst
 * where many come at the same instant.
 */
export class UnheardWork {
  #tokens = 0;
  /** Uncached tokens of others' requests, ever. */
  #heard = 0;
  /** Own dispatches that are still listened after, oldest first, and what had been heard by then. */
  readonly #listening: { readonly untilMs: number; readonly heardBefore: number }[] = [];

  /** What to reckon with beside all that is known, in uncached prompt tokens over the whole pool. */
  get tokens(): number {
    return this.#tokens;
  }

  /** This router sent a request. */
  sent(nowMs: number): void {
    this.#learn(nowMs);
    this.#listening.push({ untilMs: nowMs + hearingMs, heardBefore: this.#heard });
  }

  /** Another router told that it sent a request of so many uncached tokens. */
  heard(uncachedTokens: number, nowMs: number): void {
    this.#learn(nowMs);
    this.#heard += uncachedTokens;
  }

  #learn(nowMs: number): void {
    for (let oldest = this.#listening[0]; oldest !== undefined && oldest.untilMs < nowMs; oldest = this.#listening[0]) {
      this.#listening.shift();
      this.#tokens += (this.#heard - oldest.heardBefore - this.#tokens) / meanOver;
    }
  }
}
