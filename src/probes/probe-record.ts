import type { ProbeFailure } from '../router/probe-events.ts';
import type { ProbeSettings, ProbeVerdict } from '../router/probe-verdict.ts';

/** How one probe went. */
export type ProbeOutcome = { readonly ok: true } | { readonly ok: false; readonly cause: ProbeFailure; readonly detail: string };

/**
 * What the probes of one server add up to. Rules:
 * - A server that passed no longer does after `failures` failed probes in a row; one that did not does after `passes` passed ones. Of a
 *   server that nobody knows anything about, the first probe decides.
 * - A failed probe means that the model is loading, if the server does not list its model, or answers 503 without having passed since it was
 *   last seen unreachable. Everything else, a later 503 among it, is a failure.
 */
export class ProbeRecord {
  #verdict: ProbeVerdict | undefined;
  /** In a row; one of them is 0. */
  #passed = 0;
  #failed = 0;
  /** Whether it passed since it was last unreachable. */
  #hasServed = false;

  /** Takes in one probe; `isKnown`: another router has told of the server. Returns what now holds; undefined: cannot be said yet. */
  note(outcome: ProbeOutcome, { failures, passes }: Pick<ProbeSettings, 'failures' | 'passes'>, isKnown: boolean): ProbeVerdict | undefined {
    const isFirst = this.#verdict === undefined && !isKnown;
    if (outcome.ok) {
      this.#passed += 1;
      this.#failed = 0;
      this.#hasServed = true;
      if (this.#passed >= passes || isFirst) this.#verdict = { kind: 'passing' };
      return this.#verdict;
    }
    this.#failed += 1;
    this.#passed = 0;
    if (outcome.cause === 'unreachable') this.#hasServed = false;
    const isOut = this.#verdict !== undefined && this.#verdict.kind !== 'passing';
    if (this.#failed >= failures || isFirst || isOut) this.#verdict = this.#toVerdict(outcome);
    return this.#verdict;
  }

  #toVerdict({ cause, detail }: Extract<ProbeOutcome, { ok: false }>): ProbeVerdict {
    const isLoading = cause === 'model-missing' || (cause === 'unavailable' && !this.#hasServed);
    return { kind: isLoading ? 'loading' : 'failing', detail };
  }

  /** Whether it passes and the last probe did: nothing is about to change. */
  get isSound(): boolean {
    return this.#verdict?.kind === 'passing' && this.#failed === 0;
  }

  /** Others probe the server now, and know better. */
  forget(): void {
    this.#verdict = undefined;
    this.#passed = 0;
    this.#failed = 0;
  }
}
