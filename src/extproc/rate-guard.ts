/** How often something may happen on one connection. */
export interface Rate {
  /** So often at once. */
  readonly burst: number;
  readonly perSecond: number;
}

/**
 * Calls that are opened only to be reset (CVE-2023-44487, "rapid reset"). Node counts every reset, and Envoy ends every call by one, so its
 * limit is off; here only those count that were reset before anything was answered, which an Envoy does when clients go away or its message
 * timeout passes. The burst is a second of that at full load.
 */
export const unansweredResetRate: Rate = { burst: 5_000, perSecond: 500 };

/** Watches one connection for more of something than a client with a purpose does. */
export class RateGuard {
  readonly #rate: Rate;
  #left: number;
  #atMs: number;

  constructor(rate: Rate, nowMs: number) {
    this.#rate = rate;
    this.#left = rate.burst;
    this.#atMs = nowMs;
  }

  /** Counts one, or something that weighs as much as `count`; false: too many. */
  admits(nowMs: number, count = 1): boolean {
    const { burst, perSecond } = this.#rate;
    this.#left = Math.min(burst, this.#left + ((nowMs - this.#atMs) * perSecond) / 1_000) - count;
    this.#atMs = nowMs;
    return this.#left >= 0;
  }
}
