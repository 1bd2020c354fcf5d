import * as z from 'zod';
import { standing } from '../../core/filter-promises.ts';
import { defineFilter } from '../strategy.ts';

/** Leaves out endpoints that failed too often, and no others. */
export const notEjected = defineFilter({
  type: 'not-ejected',
  prefers: 'Leaves out ejected endpoints alone: what is not ready or draining may still be tried.',
  wrongWhen: 'Readiness is known: ready also spares requests that would certainly fail. Beside ready it adds nothing.',
  formula: 'state ≠ ejected',
  source: 'The endpoint’s state, as outlier detection sets it from responses that really failed.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => standing(({ state }) => (state === 'ejected' ? 'ejected' : undefined)),
});
