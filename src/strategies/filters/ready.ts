import * as z from 'zod';
import { standing } from '../../core/filter-promises.ts';
import type { EndpointState } from '../../core/fleet-snapshot.ts';
import { defineFilter } from '../strategy.ts';

const cannotServe: ReadonlySet<EndpointState> = new Set(['joining', 'not-ready', 'ejected', 'draining', 'standby'] as const);

/** Leaves out endpoints that cannot serve now. */
export const ready = defineFilter({
  type: 'ready',
  prefers: 'Leaves out endpoints that cannot or may not serve: joining, not-ready, ejected, draining, standby. Where others can take the request, also those that are slow, and half-open ones that have their trials.',
  wrongWhen: 'Readiness is not to be trusted, so that a request to an endpoint called not ready is better than none: use not-ejected.',
  formula: 'state ∈ {ready, warming}; half-open with a trial free; else slow, half-open',
  source: 'The endpoint’s state, from configuration, probes and outlier detection.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => standing(({ state }) => (cannotServe.has(state) ? state : undefined)),
  // Better late than never: an endpoint that is slow, or on trial, still serves where nobody else does.
  createPreference: () => standing(({ state, trialsFree }) => (state === 'slow' || (state === 'half-open' && trialsFree <= 0) ? state : undefined)),
});
