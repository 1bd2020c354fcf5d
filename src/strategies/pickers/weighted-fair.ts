import * as z from 'zod';
import { bestByScore, byScore } from '../by-score.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/**
 * Shares out work, in prompt tokens, by weight: the request goes where work in flight, this prompt included, is least for the weight.
 * `weighted-least-requests` does the same with requests, so that there a long prompt counts no more than a short one; `least-tokens` counts
 * only what is still to be computed, so that there an endpoint whose prompts are all prefilled counts as free.
 */
export const weightedFair = definePicker({
  type: 'weighted-fair',
  prefers:
    'Gives each endpoint its share, by weight, of the work in flight, in prompt tokens until requests end. Unlike weighted-least-requests, a long prompt weighs more than a short one; unlike least-tokens, prompts that are computed still count, as the memory they hold.',
  wrongWhen: 'First tokens are noticed: least-tokens and sticky know what still waits. Caches and scores are ignored.',
  formula: 'min (promptTokens in flight + own promptTokens) / weight; ties by draw',
  source: 'The finish tags of weighted fair queueing (Demers, Keshav & Shenker, SIGCOMM 1989), with what is in flight in the place of virtual time.',
  parameters: z.strictObject({}),
  needs: ['promptTokens'],
  create: () => (candidates, _scores, { promptTokens, draw }) => {
    const costs = candidates.map((endpoint) => (endpoint.promptTokens + promptTokens) / endpoint.weight);
    const gains = costs.map((cost) => -cost);
    return new LazyPreference(bestByScore(candidates, gains, draw), () => byScore(candidates, gains, draw), { reason: 'least-work-for-weight', home: undefined, costs });
  },
});
