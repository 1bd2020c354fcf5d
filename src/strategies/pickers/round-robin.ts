import * as z from 'zod';
import { definePicker } from '../strategy.ts';

/** Takes the candidates in turn, by this router's count of requests to the pool. */
export const roundRobin = definePicker({
  type: 'round-robin',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, _scores, { sequence }) => {
    const start = sequence % candidates.length;
    return { order: [...candidates.slice(start), ...candidates.slice(0, start)], reason: 'in-turn', home: undefined };
  },
});
