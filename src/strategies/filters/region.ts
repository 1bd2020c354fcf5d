import * as z from 'zod';
import { toHostPort } from '../../core/data-parallel-rank.ts';
import { tokensPerMsDefault, waitingTokens } from '../../core/expected-wait.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { perDecision } from '../per-decision.ts';
import { defineFilter } from '../strategy.ts';

const parameters = z.strictObject({
  order: z.array(z.string()).min(1).describe('values of the label, nearest first; what is not named is farthest'),
  label: z.string().min(1).default('region').describe('the label that says where an endpoint is'),
  spillTokens: z
    .number()
    .positive()
    .default(16_000)
    .describe('an endpoint of weight 1 is taken for loaded above this many uncached prompt tokens waiting'),
  spillRequests: z.number().positive().optional().describe('or above this many requests in flight; absent: requests do not matter'),
});

/**
 * Keeps requests in the nearest region as long as an endpoint there has room, and opens the next one, beside it, when all are loaded.
 * A region whose endpoints cannot serve counts as loaded.
 */
export const region = defineFilter({
  type: 'region',
  prefers: 'Leaves out farther regions as long as a nearer one has an endpoint that can serve and is not loaded; then the next region opens beside the nearer ones.',
  wrongWhen:
    'Data must not leave a region: this spills; labels with require does not. Regions are near enough that a cache there is worth more than the way: sticky without it.',
  formula: 'region(endpoint) ≤ nearest region with an endpoint of waiting tokens ≤ spillTokens × weight (and requests ≤ spillRequests × weight)',
  source: 'Locality priorities with overflow, as Envoy’s priority load has them, with waiting prompt tokens in the place of health. The threshold is where the routing study saw overload.',
  parameters,
  example: { order: ['eu-west', 'eu-central'] },
  needs: [],
  wantsFirstToken: true,
  soft: true,
  create: ({ order, label, spillTokens, spillRequests = Infinity }) => {
    const ranks = new Map(order.map((value, i) => [value, i]));
    const rankOf = ({ labels }: EndpointSnapshot): number => ranks.get((Object.hasOwn(labels, label) ? labels[label] : undefined) ?? '') ?? order.length;
    const farthestOpen = perDecision(({ pool, facts, nowMs }) => {
      let nearest = Infinity;
      for (const endpoint of pool.endpoints) {
        const rank = rankOf(endpoint);
        if (rank >= nearest || endpoint.state !== 'ready' || endpoint.full || facts.subset?.has(toHostPort(endpoint.address)) === false) continue;
        const hasRoom =
          waitingTokens(endpoint, tokensPerMsDefault, nowMs) <= spillTokens * endpoint.weight && endpoint.requests <= spillRequests * endpoint.weight;
        if (hasRoom) nearest = rank;
      }
      return nearest;
    });
    return (endpoint, input) => (rankOf(endpoint) <= farthestOpen(input) ? undefined : 'region-farther');
  },
});
