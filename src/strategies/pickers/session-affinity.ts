import * as z from 'zod';
import { rendezvousHome, rendezvousOrder } from '../../core/rendezvous.ts';
import { boundLoad, boundParameters, moveToFront } from '../bounded-load.ts';
import { byScore } from '../by-score.ts';
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
    const { affinityKey } = input;
    if (affinityKey === undefined) return { order: byScore(candidates, scores, input.draw), reason: 'no-session', home: undefined };

    const { within, below } = boundLoad(settings, candidates, input);
    const preference = rendezvousOrder(affinityKey, candidates);
    // Home is the first of the whole pool, candidate or not: a session that a limit or a failure turned away is away, and stays
    // where its cache is when home has room again.
    const home = rendezvousHome(affinityKey, input.pool.endpoints)?.address;
    const placed = input.placedOn === undefined ? undefined : preference.find(({ address }) => address === input.placedOn);
    if (placed !== undefined && within(placed)) return { order: moveToFront(preference, [placed]), reason: 'affinity-placed', home };
    const roomy = preference.filter(within);
    if (roomy.length === 0) return { order: moveToFront(preference, preference.filter(below)), reason: 'affinity-all-over-bound', home };
    const order = moveToFront(preference, roomy);
    return { order, reason: order[0]?.address === home ? 'affinity-home' : 'affinity-diverted', home };
  },
});
