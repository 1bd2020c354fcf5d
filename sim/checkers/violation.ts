/** Something that must never happen, and did. */
export interface Violation {
  /** Stable code of the rule that was broken. */
  readonly rule:
    | 'reservation-negative'
    | 'reservation-leaked'
    | 'endpoint-unknown'
    | 'endpoint-not-ready'
    | 'bound-exceeded'
    | 'endpoint-starved'
    /** Left out, or taken in, faster than its back-off allows. */
    | 'endpoint-flapping'
    /** Left out although it has been well for longer than any back-off. */
    | 'endpoint-forgotten'
    /** Taken in again on the strength of trials, all of which it cannot but have failed. */
    | 'endpoint-trusted'
    | 'too-many-ejected'
    | 'too-many-trials';
  readonly atMs: number;
  readonly message: string;
}

/** Violations kept in full; further ones are only counted. */
const keptMax = 20;

/** Where checkers report. */
export class Violations {
  readonly #kept: Violation[] = [];
  #count = 0;

  add(rule: Violation['rule'], atMs: number, message: string): void {
    this.#count += 1;
    if (this.#kept.length < keptMax) this.#kept.push({ rule, atMs, message });
  }

  get kept(): readonly Violation[] {
    return this.#kept;
  }

  get count(): number {
    return this.#count;
  }
}
