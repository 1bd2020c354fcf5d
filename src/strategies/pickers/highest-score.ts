import * as z from 'zod';
import { bestByScore, byScore } from '../by-score.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/** Takes the highest score; equal scores are ordered by the draw, never always the first. */
export const highestScore = definePicker({
  type: 'highest-score',
  prefers: 'The endpoint whose scorers add up highest; among equals each has the same chance.',
  wrongWhen:
    'Many routers see the same stale load: all take the same best endpoint at once. Add the scorer lean with a small weight, or use power-of-two. Without scorers it is random.',
  formula: 'max Σ weight × rating over the scorers; ties by draw',
  source: 'None: the plain maximum.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, scores, { draw }) =>
    new LazyPreference(bestByScore(candidates, scores, draw), () => byScore(candidates, scores, draw), { reason: 'highest-score', home: undefined }),
});
