import * as z from 'zod';
import { cachedOf } from '../../core/cached-tokens.ts';
import { type Hash64, pairFraction } from '../../core/hash.ts';
import type { DecisionInput, Preference } from '../../core/policy.ts';
import { rendezvousColumnsOf, rendezvousHome } from '../../core/rendezvous.ts';
import { prefixBlockTokens } from '../../core/request-facts.ts';
import { bestByClass, boundLoad, boundParameters, byClass } from '../bounded-load.ts';
import { byScore } from '../by-score.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

const parameters = z.strictObject({
  ...boundParameters,
  matchShare: z
    .number()
    .min(0)
    .max(0.99)
    .default(0.1)
    .describe(
      'a prompt goes by its hash where less than this share of it is cached anywhere, beyond what all endpoints have; above it fewer and fewer do, so that what many prompts share comes to be held by more than one endpoint',
    ),
});

/**
 * Sends a prompt where the longest part of it is cached, else where a hash of what distinguishes it says; within the bound of load
 * always.
 *
 * What a system prompt common to all must not do is to draw all of them to the endpoint that saw it first. Four things prevent it: what
 * every endpoint has cached counts for nothing; what is left has to be a good part of the prompt, and the less it is, the more prompts go
 * by their hash all the same, which makes other endpoints hold it too; those that hold it share it out by hash, up to the bound; and
 * the key of that hash is the session, or the first block after the longest part that is cached anywhere, which is where this prompt
 * departs from those before it.
 */
export const prefixAffinity = definePicker({
  type: 'prefix-affinity',
  prefers:
    'The endpoint whose prefix cache holds the longest part of the prompt, while it carries at most its bound of the fleet’s load; for new content the home of its session or of its first distinguishing block, so that a common system prompt draws nothing together.',
  wrongWhen:
    'Bodies are not read (then only the session tells), or prompts are short: below one block of 512 tokens there is nothing to tell them apart. The bound is a step: sticky weighs waiting against recomputing token by token, and was faster on every trace.',
  formula:
    'c(e): tokens cached; all = min c, best = max c over those within the bound; g = (best − all) / (prompt − all); argmax c(e) if g > 0 and fraction(key) ≥ ((1 − g) / (1 − matchShare))⁴, else first in rendezvous order of the key, which is the session, else the first block beyond max c; load + own ≤ max(bound × mean, mean + slackRequests × mean request)',
  source:
    'Longest cached prefix, as SGLang’s and llm-d’s routers; the bound of Mirrokni, Thorup & Zadimoghaddam, 2016; the trap of the common first block, and the first distinct block as the key, from the routing study on the Mooncake traces.',
  parameters,
  needs: ['prefix', 'session', 'promptTokens'],
  create: ({ matchShare, ...settings }) => (candidates, scores, input) => {
    const { promptTokens, draw } = input;
    const cached = cachedOf(candidates, input);
    let everywhere = Infinity;
    let anywhere = 0;
    for (let i = 0; i < cached.length; i += 1) {
      const tokens = Math.min(cached[i] ?? 0, promptTokens);
      cached[i] = tokens;
      everywhere = Math.min(everywhere, tokens);
      anywhere = Math.max(anywhere, tokens);
    }
    const key = distinguishingKey(input, anywhere);
    const { within, below } = boundLoad(settings, candidates, input);
    const columns = rendezvousColumnsOf(candidates, input.pool);
    // By key where there is one; what nothing distinguishes is short, or all of it is cached somewhere: then the score decides.
    const scored = key === undefined ? byScore(candidates, scores, draw) : undefined;
    const inClasses = (classes: number, classOf: (index: number) => number, reason: string): Preference => {
      if (key !== undefined) return new LazyPreference(bestByClass(key, candidates, columns, classes, classOf), () => byClass(key, candidates, columns, classOf), { reason, home: undefined });
      const classOfEach = new Map(candidates.map((endpoint, i) => [endpoint, classOf(i)]));
      const order = (scored ?? []).toSorted((a, b) => (classOfEach.get(a) ?? 0) - (classOfEach.get(b) ?? 0));
      return { order, reason, home: undefined };
    };
    let best = -1;
    for (let i = 0; i < cached.length; i += 1) if ((cached[i] ?? 0) > best && within(i)) best = cached[i] ?? 0;
    if (best === -1) return inClasses(2, (i) => (below(i) ? 0 : 1), 'prefix-all-over-bound');
    const share = (best - everywhere) / Math.max(1, promptTokens - everywhere);
    const spread = ((1 - share) / (1 - matchShare)) ** 4;
    if (best > everywhere && (key === undefined || pairFraction(key, spreadSalt) >= spread)) {
      const reason = best === anywhere ? 'prefix-cached' : 'prefix-partly-cached';
      return inClasses(3, (i) => (within(i) ? (cached[i] === best ? 0 : 1) : 2), reason);
    }
    const roomyFirst = (reason: string): Preference => inClasses(2, (i) => (within(i) ? 0 : 1), reason);
    if (key === undefined) return roomyFirst('no-prefix');
    const home = rendezvousHome(key, candidates, columns);
    const isHomeWithin = home !== undefined && within(candidates.indexOf(home));
    return roomyFirst(isHomeWithin ? 'prefix-home' : 'prefix-diverted');
  },
});

/** Sets the fraction that spreads apart from the claims that endpoints have to a key. */
const spreadSalt: Hash64 = { high: 0x9216d5d9, low: 0x8979fb1b };

/**
 * What tells this prompt from others: its session, which stays the same from turn to turn; without one its first whole block beyond the
 * `cached` tokens that some endpoint holds (whole blocks, but for the last token of a prompt, which is always computed). Undefined: nothing
 * does.
 */
function distinguishingKey({ facts, affinityKey }: DecisionInput, cached: number): Hash64 | undefined {
  if (affinityKey !== undefined) return affinityKey;
  const block = facts.prefixHashes[Math.ceil(cached / prefixBlockTokens)];
  return block === undefined ? undefined : { high: Math.floor(block / 0x200000) >>> 0, low: (block % 0x100000000) >>> 0 };
}
