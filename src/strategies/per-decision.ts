import type { DecisionInput } from '../core/policy.ts';

/**
 * What a filter has to know of the whole pool, computed once for a decision instead of once for each endpoint. Keeps the last result
 * only, under the identity of its input, so the answer is that of `compute` as long as inputs are not changed after they were made.
 */
export function perDecision<T>(compute: (input: DecisionInput) => T): (input: DecisionInput) => T {
  let last: { readonly input: DecisionInput; readonly value: T } | undefined;
  return (input) => {
    if (last?.input !== input) last = { input, value: compute(input) };
    return last.value;
  };
}
