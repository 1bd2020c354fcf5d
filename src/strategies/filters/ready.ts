import * as z from 'zod';
import { defineFilter } from '../strategy.ts';

/** Leaves out endpoints that cannot serve now. */
export const ready = defineFilter({
  type: 'ready',
  prefers: 'Leaves out endpoints that are not ready, ejected or draining.',
  wrongWhen: 'Readiness is not to be trusted, so that a request to an endpoint called not ready is better than none: use not-ejected.',
  formula: 'state = ready',
  source: 'The endpoint’s state, from configuration, probes and outlier detection.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (endpoint) => (endpoint.state === 'ready' ? undefined : endpoint.state),
});
