import * as z from 'zod';
import { placeOfAddress } from '../../core/address-order.ts';
import { rendezvousColumnsOf, rendezvousHome } from '../../core/rendezvous.ts';
import { bestByClass, boundLoad, boundParameters, byClass } from '../bounded-load.ts';
import { bestByScore, byScore } from '../by-score.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/**
 * Keeps a session on one endpoint: weighted rendezvous hashing with bounded load. No ring: at equal memory a ring spreads keys half as
 * evenly, and what it saves, a claim per endpoint and request, is little beside the rest of a decision.
 *
 * A session goes to its home while the home is within the bound. Above that it goes to the next endpoint of its preference within the
 * bound, and stays there (`placedOn`) while that one is within it: its cache is there now. Without a session, the score decides.
 */
export const sessionAffinity = definePicker({
  type: 'session-affinity',
  prefers:
    'Keeps every session on its home, the same on all routers without asking, while the home carries at most its bound of the fleet’s load; else on the next endpoint of the session’s preference, where it stays.',
  wrongWhen:
    'Requests carry no session, or few sessions make most of the load. Where sessions share long prefixes, prefix-affinity and sticky find them on other endpoints too; where first tokens are noticed, sticky waits less.',
  formula: 'first in rendezvous order of keyed hash(tenant, session) with load + own ≤ max(bound × mean, mean + slackRequests × mean request); means by weight',
  source:
    'Weighted rendezvous: Schindelhauer & Schomaker, SPAA 2005. Bound: Mirrokni, Thorup & Zadimoghaddam, “Consistent Hashing with Bounded Loads”, 2016; the slack was measured on the Mooncake traces.',
  parameters: z.strictObject(boundParameters),
  needs: ['session', 'promptTokens'],
  create: (settings) => (candidates, scores, input) => {
    const { affinityKey, draw, placedOn } = input;
    if (affinityKey === undefined) {
      return new LazyPreference(bestByScore(candidates, scores, draw), () => byScore(candidates, scores, draw), { reason: 'no-session', home: undefined });
    }

    const { endpoints } = input.pool;
    const { within, below } = boundLoad(settings, candidates, input);
    const columns = rendezvousColumnsOf(candidates, input.pool);
    // Home is the first of the whole pool, candidate or not: a session that a limit or a failure turned away is away, and stays
    // where its cache is when home has room again.
    const home = rendezvousHome(affinityKey, endpoints, rendezvousColumnsOf(endpoints, input.pool))?.address;
    const inClasses = (classOf: (index: number) => number, reason?: string): LazyPreference => {
      const best = bestByClass(affinityKey, candidates, columns, 2, classOf);
      const told = reason ?? (best[0]?.address === home ? 'affinity-home' : 'affinity-diverted');
      return new LazyPreference(best, () => byClass(affinityKey, candidates, columns, classOf), { reason: told, home });
    };
    const placed = placedOn === undefined ? -1 : placeOfAddress(candidates, placedOn);
    if (placed !== -1 && within(placed)) return inClasses((i) => (i === placed ? 0 : 1), 'affinity-placed');
    const isAnyWithin = candidates.some((_, i) => within(i));
    return isAnyWithin ? inClasses((i) => (within(i) ? 0 : 1)) : inClasses((i) => (below(i) ? 0 : 1), 'affinity-all-over-bound');
  },
});
