/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import * as z from 'zod';
import { columnsOf } from '../../core/endpoint-columns.ts';
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
  create: () => (candidates, { pool }) => {
    const { at, columns } = columnsOf(candidates, pool);
    const { requests } = columns;
    let least = Infinity;
    for (let i = 0; i < at.length; i += 1) if (requests[at[i]!]! < least) least = requests[at[i]!]!;
    const ratings = new Array<number>(at.length);
    for (let i = 0; i < at.length; i += 1) ratings[i] = (least + 1) / (requests[at[i]!]! + 1);
    return ratings;
  },
});
