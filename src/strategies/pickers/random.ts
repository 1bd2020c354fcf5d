import * as z from 'zod';
import { bestMax } from '../../core/policy.ts';
import { rendezvousBest, rendezvousColumnsOf, rendezvousOrder } from '../../core/rendezvous.ts';
import { drawKey } from '../draw-key.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/** Takes any, by weight; so are those to try next. */
export const random = definePicker({
  type: 'random',
  prefers: 'Any endpoint, by chance: one of twice the weight twice as often. What to try next is drawn the same way.',
  wrongWhen: 'Anything is known of load or caches. At the same mean, some endpoint always has much more than its share: power-of-two costs as little and is far more even.',
  formula: 'P(endpoint) = weight / Σ weight',
  source: 'Weighted draws without replacement: Efraimidis & Spirakis, “Weighted random sampling with a reservoir”, 2006, as rendezvous order of the draw.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, _scores, { pool, draw }) => {
    const key = drawKey(draw);
    const columns = rendezvousColumnsOf(candidates, pool);
    return new LazyPreference(rendezvousBest(key, candidates, bestMax, undefined, columns), () => rendezvousOrder(key, candidates, columns), { reason: 'drawn', home: undefined });
  },
});
