import * as z from 'zod';
import { ratingOf, timesTypical, typicalMs } from '../measured-latency.ts';
import { defineScorer } from '../strategy.ts';

/**
 * Prefers the endpoint that gives first tokens soonest, by the exponential mean of what it took lately, times one more than those that
 * already wait there.
 */
export const leastLatency = defineScorer({
  type: 'least-latency',
  prefers: 'The endpoint with the least time to first token lately, times the requests that wait there; the share of requests that failed is taken off, so that failing fast does not look fast.',
  wrongWhen:
    'Prompts differ much in length: an endpoint that got the long ones looks slow. What is measured is past, so that bursts are answered late; sticky reckons ahead instead.',
  formula:
    '(1 - failure share) / (1 + t × (1 + waiting) / typical), t = exponential mean of the time to first token, typical = geometric mean of t over the candidates; t unknown counts as typical',
  source: 'Peak EWMA as in Finagle, and least-latency routing of AIBrix and LiteLLM; leaving out failures answers higress#3255.',
  parameters: z.strictObject({}),
  needs: [],
  wantsFirstToken: true,
  create: () => (candidates) => {
    const typical = typicalMs(candidates.map(({ latency }) => latency?.ttftMs?.mean));
    return candidates.map(({ latency, requestsWaiting }) =>
      ratingOf(timesTypical(latency?.ttftMs?.mean, typical) * (1 + requestsWaiting), latency?.failureShare ?? 0),
    );
  },
});
