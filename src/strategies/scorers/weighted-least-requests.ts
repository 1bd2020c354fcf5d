import * as z from 'zod';
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
  create: () => (candidates) => {
    let least = Infinity;
    for (const { requests, weight } of candidates) least = Math.min(least, (requests + 1) / weight);
    return candidates.map(({ requests, weight }) => Math.min(1, (least * weight) / (requests + 1)));
  },
});
