/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import type { CandidateColumns } from './endpoint-columns.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';

/** Prefill speed that stands for an endpoint of weight 1, in tokens/ms. What it is matters little: 15 to 100 give the same (ROUTING.md). */
export const tokensPerMsDefault = 45;

/** The part of the first request in line that the clock may take off: an endpoint that hangs must not look idle. */
const headShareMax = 0.9;

/**
 * Prefill that an endpoint still has before it, in tokens: the uncached tokens of all that wait, less what it is believed to have done
 * of the first since its last sign of progress.
 */
export function waitingTokens(endpoint: EndpointSnapshot, tokensPerMs: number, nowMs: number): number {
  const { headTokens, headSinceMs, uncachedTokensWaiting, weight } = endpoint;
  return stillWaiting(uncachedTokensWaiting, headTokens, tokensPerMs * weight * Math.max(0, nowMs - headSinceMs));
}

/** `waitingTokens` of all candidates, in their order, written into `waiting`, which may be longer and is returned; absent: a new array. */
export function waitingOf({ at, columns }: CandidateColumns, tokensPerMs: number, nowMs: number, waiting = new Array<number>(at.length)): number[] {
  const { weights, headTokens, headSinceMs, uncachedTokensWaiting } = columns;
  for (let i = 0; i < at.length; i += 1) {
    const place = at[i]!;
    waiting[i] = stillWaiting(uncachedTokensWaiting[place]!, headTokens[place]!, tokensPerMs * weights[place]! * Math.max(0, nowMs - headSinceMs[place]!));
  }
  return waiting;
}

/** `workedOff`: what could have been done since the last sign of progress. */
function stillWaiting(uncachedTokensWaiting: number, headTokens: number, workedOff: number): number {
  return Math.max(0, uncachedTokensWaiting - Math.min(headShareMax * headTokens, workedOff));
}

/** Time until the first token of a prompt of which `uncachedTokens` are to be computed, in ms, if it were sent to the endpoint now. */
export function expectedTtftMs(endpoint: EndpointSnapshot, uncachedTokens: number, tokensPerMs: number, nowMs: number): number {
  return (waitingTokens(endpoint, tokensPerMs, nowMs) + uncachedTokens) / (tokensPerMs * endpoint.weight);
}

/**
 * How high work stands after `tokens` more were poured over the candidates, always where least waits: in tokens for each unit of weight.
 * Those that had more than that waiting got nothing of it. `waiting` in the order of the candidates, of which there is at least one.
 */
export function levelAfter(
  tokens: number,
  { at, columns: { weights: weightsAt } }: { readonly at: Int32Array; readonly columns: Pick<CandidateColumns['columns'], 'weights'> },
  waiting: readonly number[],
): number {
  let level = Infinity;
  // Over ever fewer endpoints, and so ever lower, until all that are counted get some: no sorting, few rounds.
  for (;;) {
    let weights = 0;
    let poured = tokens;
    for (let i = 0; i < at.length; i += 1) {
      const weight = weightsAt[at[i]!]!;
      const work = waiting[i]!;
      if (work >= level * weight) continue;
      weights += weight;
      poured += work;
    }
    if (weights === 0 || poured / weights >= level) return level;
    level = poured / weights;
  }
}
