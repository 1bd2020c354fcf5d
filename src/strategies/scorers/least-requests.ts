import * as z from 'zod';
import { defineScorer } from '../strategy.ts';

/**
 * Prefers the fewest requests in flight: (least + 1) / (own + 1), so the emptiest endpoint rates 1 and one with twice as
 * many rates about a half.
 */
export const leastRequests = defineScorer({
  type: 'least-requests',
  prefers: 'The endpoint with the fewest requests in flight, counted over all routers; weights do not matter.',
  wrongWhen:
    'Prompts differ much in length (least-tokens counts what they cost), endpoints in speed (weighted-least-requests), or sessions come back (their caches are ignored).',
  formula: '(least + 1) / (requests + 1), least over the candidates',
  source: 'Least connections, as load balancers have long had it; + 1 so that idle endpoints divide.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates) => {
    let least = Infinity;
    for (const { requests } of candidates) least = Math.min(least, requests);
    return candidates.map(({ requests }) => (least + 1) / (requests + 1));
  },
});
