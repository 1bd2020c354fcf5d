/** Resets that a connection may begin with, and how many more each second brings. */
const burst = 5_000;
const perSecond = 500;

/**
 * Watches one connection for calls that are opened only to be reset (CVE-2023-44487, "rapid reset"). Node counts every reset, and Envoy ends
 * every call by one, so its limit is off; here only those count that were reset before anything was answered, which an Envoy does when
 * clients go away or its message timeout passes. Its burst is a second of that at full load.
 */
export class ResetGuard {
  #left = burst;
  #atMs: number;

  constructor(nowMs: number) {
    this.#atMs = nowMs;
  }

  /** Counts one; false: too many. */
  admits(nowMs: number): boolean {
    this.#left = Math.min(burst, this.#left + ((nowMs - this.#atMs) * perSecond) / 1_000) - 1;
    this.#atMs = nowMs;
    return this.#left >= 0;
  }
}
