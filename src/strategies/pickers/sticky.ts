/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import * as z from 'zod';
import { cachedAtRows } from '../../core/cached-tokens.ts';
import { columnsOf } from '../../core/endpoint-columns.ts';
import { levelAfter, tokensPerMsDefault, waitingOf } from '../../core/expected-wait.ts';
import { type Hash64, hashName } from '../../core/hash.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { bestByScore, byScore } from '../by-score.ts';
import { drawKey } from '../draw-key.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

const parameters = z.strictObject({
  tokensPerMs: z.number().positive().default(tokensPerMsDefault).describe('prefill speed of an endpoint of weight 1, in prompt tokens per ms'),
  missWeight: z.number().min(0).default(2).describe('λ: what an uncached token costs beyond its own computing, since it also evicts what others have cached'),
  overloadMissWeight: z.number().min(0).default(4).describe('added to λ as even the least loaded endpoint has more waiting'),
  overloadTokens: z.number().positive().default(16_000).describe('waiting prompt tokens of the least loaded endpoint at which all of it is added'),
  stepTokens: z.number().positive().default(8_192).describe('prompt tokens that an engine takes in one step: how long decoding requests are held up'),
  leanMs: z
    .number()
    .min(0)
    .default(120)
    .describe('J: how far a session leans to an endpoint of its own, in ms, with many routers, so that those that know the same agree; an eighth of it with one; what other routers send at the same moment is added'),
  scoreMs: z.number().min(0).default(100).describe('what a whole point of the scorers is worth, in ms'),
});

/**
 * Sends a request where its first token is expected soonest, reckoning that a prompt computed anew costs others too:
 * cost = W/r + λ·u/r + d·(1 + (W + u)/step), and J for the session; lowest wins. W: prefill that waits, drained by the clock; u: uncached
 * part of this prompt; d: requests decoding; r: prefill speed. Measured in the routing study that this project rests on. With several
 * routers, W and J reckon with what the others send at the same moment (docs/adr/0011).
 */
export const sticky = definePicker({
  type: 'sticky',
  prefers:
    'The endpoint where the first token is expected soonest: little prefill waiting, much of the prompt cached. Sessions and shared prefixes stay where their cache is until waiting there costs more than computing anew elsewhere.',
  wrongWhen:
    'First tokens are not noticed (observe.firstToken): prompts then count as waiting until their requests end. Speeds of endpoints differ and weights do not say so. Sessions must never move: session-affinity.',
  formula: 'min W/r + λ·u/r + d·(1 + (W + u)/stepTokens) + J; W: prefill waiting, u: uncached part of this prompt, d: requests decoding, r: prefill speed, J: leaning of the session',
  source: 'The routing study on the Mooncake traces, on an engine model calibrated to NVIDIA Dynamo’s mocker.',
  parameters,
  needs: ['session', 'promptTokens', 'prefix'],
  wantsFirstToken: true,
  create: ({ tokensPerMs, missWeight, overloadMissWeight, overloadTokens, stepTokens, leanMs, scoreMs }) => {
    // Read within a decision only, and of a size for thousands of endpoints: made anew each time, they would be most of its garbage.
    const waiting: number[] = [];
    const gains: number[] = [];
    return (candidates, scores, input) => {
      const { promptTokens, nowMs, draw } = input;
      // Loops, and few of them: this is most of what a decision costs.
      const known = columnsOf(candidates, input.pool);
      const { at, columns } = known;
      const cached = cachedAtRows(known, input.cachedTokens);
      const { weights, requests, requestsWaiting } = columns;
      waitingOf(known, tokensPerMs, nowMs, waiting);
      let weightSum = 0;
      let least = Infinity;
      for (let i = 0; i < at.length; i += 1) {
        const weight = weights[at[i]!]!;
        weightSum += weight;
        least = Math.min(least, waiting[i]! / weight);
      }
      // What other routers send at this moment fills up where least waits, as it would from here; this request comes in the middle of it.
      const unheardTokens = input.unheardTokens ?? 0;
      const level = unheardTokens > 0 ? levelAfter(unheardTokens / 2, known, waiting) : least;
      const lambda = missWeight + overloadMissWeight * Math.min(1, level / overloadTokens);
      const key = leanKey(input);
      // Who is to go where is left to chance, then: the lean is, on average, what an endpoint gets of it.
      const leanNowMs = leanMs * (1 - leanSavedAlone / (input.routers ?? 1)) + (2 * unheardTokens) / (tokensPerMs * weightSum);
      const fractions = columns.fractions.of(key);
      const costs = new Array<number>(at.length);
      let most = 0;
      for (let i = 0; i < at.length; i += 1) {
        const place = at[i]!;
        const weight = weights[place]!;
        const held = cached[place]!;
        const rate = tokensPerMs * weight;
        const work = Math.max(waiting[i]!, level * weight);
        const uncached = promptTokens - held;
        const decoding = Math.max(0, requests[place]! - requestsWaiting[place]!) / weight;
        const lean = leanNowMs * (1 - fractions[place]!);
        const cost = work / rate + (lambda * uncached) / rate + decoding * (1 + (work + uncached) / stepTokens) + lean - scoreMs * scores[i]!;
        costs[i] = cost;
        gains[i] = -cost;
        most = Math.max(most, held);
      }
      const best = bestByScore(candidates, gains, draw);
      const first = best[0];
      const chosen = first === undefined ? 0 : (input.cachedTokens.get(first.address) ?? 0);
      const reason = most === 0 ? 'nothing-cached' : chosen === most ? 'cache-kept' : chosen > 0 ? 'cache-partly-kept' : 'cache-left';
      return new LazyPreference(best, () => byScore(candidates, costs.map((cost) => -cost), draw), { reason, home: undefined, costs });
    };
  },
});

/** Part of the lean that a router alone does without: there is nobody to agree with, and the lean costs a little. */
const leanSavedAlone = 0.875;

/** By what a request leans: its session, else its prefix, else chance. */
function leanKey({ affinityKey, facts, draw }: DecisionInput): Hash64 {
  if (affinityKey !== undefined) return affinityKey;
  const block = facts.prefixHashes.at(-1);
  return block === undefined ? drawKey(draw) : hashName(String(block));
}
