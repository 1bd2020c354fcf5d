import * as z from 'zod';
import { byScore } from '../by-score.ts';
import { definePicker } from '../strategy.ts';

/** Takes the highest score; equal scores are ordered by the draw, never always the first. */
export const highestScore = definePicker({
  type: 'highest-score',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, scores, input) => ({ order: byScore(candidates, scores, input.draw), reason: 'highest-score', home: undefined }),
});
