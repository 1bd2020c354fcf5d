import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { rendezvousHome, rendezvousOrder } from '../../core/rendezvous.ts';
import { byScore } from '../by-score.ts';
import { definePicker } from '../strategy.ts';

const parameters = z.strictObject({
  bound: z.number().min(1).default(1.25).describe('an endpoint may carry this many times the mean load'),
  slackRequests: z
    .number()
    .min(0)
    .default(2)
    .describe('or the mean load plus this many average requests, whichever is more: keeps affinity when few requests are in flight'),
  load: z.enum(['tokens', 'requests']).default('tokens').describe('what is bounded: prompt tokens in flight, or requests in flight'),
});

/**
 * Keeps a session on one endpoint: weighted rendezvous hashing with bounded load (the bound after Mirrokni, Thorup &
 * Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016; the slack because a factor alone throws affinity away
 * when two or three requests are in flight).
 *
 * A session goes to its home while the home, with this request, carries at most max(bound × mean, mean + slack). Above that
 * it goes to the next endpoint of its preference within the bound, and stays there (`placedOn`) while that one is within it:
 * its cache is there now. Without a session, the score decides.
 */
export const sessionAffinity = definePicker({
  type: 'session-affinity',
  parameters,
  needs: ['session', 'promptTokens'],
  create: ({ bound, slackRequests, load }) => {
    const loadOf = load === 'tokens' ? (e: EndpointSnapshot) => e.promptTokens : (e: EndpointSnapshot) => e.requests;
    return (candidates, scores, input) => {
      const { affinityKey } = input;
      if (affinityKey === undefined) return { order: byScore(candidates, scores, input.draw), reason: 'no-session', home: undefined };

      const own = load === 'tokens' ? input.promptTokens : 1;
      let total = own;
      let requests = 1;
      let weights = 0;
      for (const endpoint of candidates) {
        total += loadOf(endpoint);
        requests += endpoint.requests;
        weights += endpoint.weight;
      }
      const slack = (slackRequests * total) / requests;
      const within = (endpoint: EndpointSnapshot): boolean => {
        const mean = (total * endpoint.weight) / weights;
        return loadOf(endpoint) + own <= Math.max(bound * mean, mean + slack);
      };

      const preference = rendezvousOrder(affinityKey, candidates);
      // Home is the first of the whole pool, candidate or not: a session that a limit or a failure turned away is away, and stays
      // where its cache is when home has room again.
      const home = rendezvousHome(affinityKey, input.pool.endpoints)?.address;
      const placed = input.placedOn === undefined ? undefined : preference.find(({ address }) => address === input.placedOn);
      if (placed !== undefined && within(placed)) {
        return { order: [placed, ...preference.filter((endpoint) => endpoint !== placed)], reason: 'affinity-placed', home };
      }
      const roomy = preference.filter(within);
      if (roomy.length === 0) {
        // A prompt larger than every bound has to go somewhere, and better not to the fullest: to one that carries no more than
        // its share of what is there.
        const below = preference.filter((endpoint) => loadOf(endpoint) <= ((total - own) * endpoint.weight) / weights);
        return { order: moveToFront(preference, below), reason: 'affinity-all-over-bound', home };
      }
      const order = moveToFront(preference, roomy);
      return { order, reason: order[0]?.address === home ? 'affinity-home' : 'affinity-diverted', home };
    };
  },
});

/** The chosen first, then the rest, each in the order of the whole. */
function moveToFront(all: readonly EndpointSnapshot[], chosen: readonly EndpointSnapshot[]): EndpointSnapshot[] {
  const first = new Set(chosen);
  return [...chosen, ...all.filter((endpoint) => !first.has(endpoint))];
}
