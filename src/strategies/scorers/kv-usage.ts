import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { defineScorer } from '../strategy.ts';

const parameters = z.strictObject({
  guard: z
    .number()
    .min(0)
    .max(0.99)
    .default(0.9)
    .describe('share of the KV cache in use, with this prompt, above which ratings fall to 0 ahead of the headroom: a full cache preempts requests'),
});

/** Prefers headroom in the KV cache, once this prompt is in it, and warns of running out of it before it happens. */
export const kvUsage = defineScorer({
  type: 'kv-usage',
  prefers: 'The endpoint with the most of its KV cache free after this prompt; close to full it rates next to nothing, so that no request is preempted or runs out of memory.',
  wrongWhen:
    'Memory is plenty: the emptiest cache is then often the one that holds nothing of this session. It says nothing of queues either: weigh it beside a scorer of load.',
  formula:
    'headroom × min(1, headroom / (1 - guard)), with headroom = 1 - usage - (prompt - cached) / size of the cache, at least 0; 0.5 where the server does not tell',
  source: 'KV cache utilisation as llm-d and AIBrix score it; the guard and the room for the prompt are Fairlead’s.',
  parameters,
  needs: ['promptTokens'],
  wantsMetrics: true,
  create:
    ({ guard }) =>
    (candidates, input) =>
      candidates.map((endpoint) => {
        const usage = endpoint.metrics?.kvUsage;
        if (usage === undefined) return 0.5;
        const headroom = Math.min(1, Math.max(0, 1 - usage - promptShare(endpoint, input)));
        return headroom * Math.min(1, headroom / (1 - guard));
      }),
});

/** Share of the cache that the uncached part of this prompt takes; 0 where the cache's size is unknown. */
function promptShare({ address, metrics }: EndpointSnapshot, { promptTokens, cachedTokens }: DecisionInput): number {
  const kvTokensMax = metrics?.kvTokensMax;
  if (kvTokensMax === undefined || kvTokensMax <= 0) return 0;
  return Math.max(0, promptTokens - (cachedTokens.get(address) ?? 0)) / kvTokensMax;
}
