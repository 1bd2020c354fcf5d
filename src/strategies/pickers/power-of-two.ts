import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { bestMax } from '../../core/policy.ts';
import { rendezvousBest, rendezvousColumnsOf, rendezvousOrder } from '../../core/rendezvous.ts';
import { drawKey } from '../draw-key.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/**
 * Draws two by weight and takes the better: by score, and where scores are equal, as without scorers, by requests for the weight. The
 * other follows, then the rest as they would have been drawn: were they sorted by load, all retries would go to the same emptiest one.
 */
export const powerOfTwo = definePicker({
  type: 'power-of-two',
  prefers: 'The better of two endpoints drawn by chance, by score, else by requests for the weight. Nearly as even as the best of all, and many routers with stale load do not all take the same one.',
  wrongWhen: 'Load is known well and fleets are small: highest-score finds the best of all. Caches of sessions count only as far as a scorer rates them, and only if both draws are lucky.',
  formula: 'a, b drawn with P = weight / Σ weight, without replacement; a if score(a) > score(b), or equal and (requests(a) + 1) / weight(a) ≤ that of b; else b',
  source: 'Mitzenmacher, “The Power of Two Choices in Randomized Load Balancing”, IEEE TPDS 2001.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, scores, { pool, draw }) => {
    const key = drawKey(draw);
    const columns = rendezvousColumnsOf(candidates, pool);
    const drawn = rendezvousBest(key, candidates, bestMax, undefined, columns);
    const [one, other] = drawn;
    if (one === undefined || other === undefined) return { order: candidates, reason: 'only-one', home: undefined };
    const scoreOf = (endpoint: EndpointSnapshot): number => scores[candidates.indexOf(endpoint)] ?? 0;
    const loadOf = ({ requests, weight }: EndpointSnapshot): number => (requests + 1) / weight;
    const gain = scoreOf(other) - scoreOf(one);
    const isOtherBetter = gain === 0 ? loadOf(other) < loadOf(one) : gain > 0;
    const swap = (order: readonly EndpointSnapshot[]): readonly EndpointSnapshot[] => (isOtherBetter ? [other, one, ...order.slice(2)] : order);
    return new LazyPreference(swap(drawn), () => swap(rendezvousOrder(key, candidates, columns)), { reason: 'better-of-two', home: undefined });
  },
});
