import * as z from 'zod';
import { defineFilter } from '../strategy.ts';

/** Leaves out endpoints that cannot serve now. */
export const ready = defineFilter({
  type: 'ready',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (endpoint) => (endpoint.state === 'ready' ? undefined : endpoint.state),
});
