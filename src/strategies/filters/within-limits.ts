import * as z from 'zod';
import { atLimit } from '../../core/decide.ts';
import { defineFilter } from '../strategy.ts';

/** Leaves out endpoints with as many requests in flight as `limits.requests` allows. */
export const withinLimits = defineFilter({
  type: 'within-limits',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (endpoint) => (endpoint.full ? atLimit : undefined),
});
