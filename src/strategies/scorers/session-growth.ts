import * as z from 'zod';
import { defineScorer } from '../strategy.ts';

const parameters = z.strictObject({
  growth: z.number().min(1).max(100).default(2).describe('how many times its present length a session’s prompt is expected to reach'),
});

/**
 * Prefers endpoints where a session can grow: its turns add to its prompt, and what does not fit later is computed again elsewhere, or
 * drives others out of the cache.
 */
export const sessionGrowth = defineScorer({
  type: 'session-growth',
  prefers: 'The endpoint whose free KV cache holds this session’s prompt also when it has grown; matters for long prompts, hardly for short ones.',
  wrongWhen: 'Sessions are single requests, or so short that memory is never short. It says nothing of queues: weigh it beside a scorer of load.',
  formula:
    '1 - (growth × prompt - cached) / free tokens, at least 0, with free = (1 - usage) × size of the cache; growth is 1 without a session; 0.5 where usage or size is unknown',
  source: 'Fairlead. Agents’ contexts grow turn by turn and reuse most of it, so that a session’s place is chosen for its later turns.',
  parameters,
  needs: ['session', 'promptTokens'],
  wantsMetrics: true,
  create:
    ({ growth }) =>
    (candidates, { affinityKey, promptTokens, cachedTokens }) => {
      const expected = promptTokens * (affinityKey === undefined ? 1 : growth);
      return candidates.map(({ address, metrics }) => {
        if (metrics?.kvUsage === undefined || metrics.kvTokensMax === undefined) return 0.5;
        const free = (1 - metrics.kvUsage) * metrics.kvTokensMax;
        const needed = Math.max(0, expected - (cachedTokens.get(address) ?? 0));
        return needed < free ? 1 - needed / free : 0;
      });
    },
});
