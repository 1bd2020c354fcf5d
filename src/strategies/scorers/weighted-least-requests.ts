/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import * as z from 'zod';
import { columnsOf } from '../../core/endpoint-columns.ts';
import { defineScorer } from '../strategy.ts';

/** Prefers the fewest requests for an endpoint's weight, this one included, so that fleets of unequal GPUs fill evenly. */
export const weightedLeastRequests = defineScorer({
  type: 'weighted-least-requests',
  prefers: 'The endpoint with the fewest requests in flight for its weight, this one included: twice the weight carries twice the requests.',
  wrongWhen: 'Prompts differ much in length: a request is a request here (weighted-fair and least-tokens count tokens). Weights that are guessed wrong stay wrong.',
  formula: 'least / own, where own = (requests + 1) / weight and least is the least own of the candidates',
  source: 'Shortest expected delay, (C + 1) / U, of the Linux Virtual Server’s schedulers.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, { pool }) => {
    const { at, columns } = columnsOf(candidates, pool);
    const { requests, weights } = columns;
    let least = Infinity;
    for (let i = 0; i < at.length; i += 1) least = Math.min(least, (requests[at[i]!]! + 1) / weights[at[i]!]!);
    const ratings = new Array<number>(at.length);
    for (let i = 0; i < at.length; i += 1) ratings[i] = Math.min(1, (least * weights[at[i]!]!) / (requests[at[i]!]! + 1));
    return ratings;
  },
});
