/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import * as z from 'zod';
import { columnsOf } from '../../core/endpoint-columns.ts';
import { drawKey } from '../draw-key.ts';
import { defineScorer } from '../strategy.ts';

/**
 * A leaning of its own for each session: an even rating that hangs on session and endpoint alone. With a small weight it decides
 * between endpoints that are about equal: routers that know the same thing then lean the same way for one session and different
 * ways for different ones, so that requests that arrive at many routers at once do not all take the same emptiest endpoint.
 * A request without a session leans by its draw.
 */
export const lean = defineScorer({
  type: 'lean',
  prefers:
    'An order of endpoints of its own for each session, the same on all routers. With a small weight it decides among endpoints that are about equal, so that many routers do not all take the same emptiest one.',
  wrongWhen: 'Its weight is large: it knows nothing of load.',
  formula: 'hash(session, endpoint) as a fraction from 0 to 1; of the draw where there is no session',
  source: 'The term J of the default policy, measured with 2 to 8 routers on the Mooncake conversation trace.',
  parameters: z.strictObject({}),
  // Leans by the session where it is known; not worth reading a body for.
  needs: [],
  create: () => (candidates, { pool, affinityKey, draw }) => {
    const key = affinityKey ?? drawKey(draw);
    const { at, columns } = columnsOf(candidates, pool);
    const fractions = columns.fractions.of(key);
    const ratings = new Array<number>(at.length);
    for (let i = 0; i < at.length; i += 1) ratings[i] = fractions[at[i]!]!;
    return ratings;
  },
});
