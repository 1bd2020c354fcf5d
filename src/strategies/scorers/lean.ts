import * as z from 'zod';
import { hashName, pairFraction } from '../../core/hash.ts';
import { defineScorer } from '../strategy.ts';

/**
 * A leaning of its own for each session: an even rating that hangs on session and endpoint alone. With a small weight it decides
 * between endpoints that are about equal: routers that know the same thing then lean the same way for one session and different
 * ways for different ones, so that requests that arrive at many routers at once do not all take the same emptiest endpoint.
 * A request without a session leans by its draw.
 */
export const lean = defineScorer({
  type: 'lean',
  parameters: z.strictObject({}),
  // Leans by the session where it is known; not worth reading a body for.
  needs: [],
  create: () => (candidates, { affinityKey, draw }) => {
    const key = affinityKey ?? hashName(String(draw));
    return candidates.map(({ hash }) => pairFraction(key, hash));
  },
});
