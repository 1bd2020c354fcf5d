import * as z from 'zod';
import { defineScorer } from '../strategy.ts';

/**
 * Prefers the fewest requests in flight: (least + 1) / (own + 1), so the emptiest endpoint rates 1 and one with twice as
 * many rates about a half.
 */
export const leastRequests = defineScorer({
  type: 'least-requests',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates) => {
    let least = Infinity;
    for (const { requests } of candidates) least = Math.min(least, requests);
    return candidates.map(({ requests }) => (least + 1) / (requests + 1));
  },
});
