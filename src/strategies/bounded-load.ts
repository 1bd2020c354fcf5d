/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import * as z from 'zod';
import { columnsOf } from '../core/endpoint-columns.ts';
import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import type { Hash64 } from '../core/hash.ts';
import { bestMax, type DecisionInput } from '../core/policy.ts';
import { rendezvousBest, type RendezvousColumns, rendezvousOrder } from '../core/rendezvous.ts';

/** Parameters of every picker whose affinity ends at a bound of load. */
export const boundParameters = {
  bound: z.number().min(1).default(1.25).describe('an endpoint may carry this many times the mean load'),
  slackRequests: z
    .number()
    .min(0)
    .default(2)
    .describe('or the mean load plus this many average requests, whichever is more: keeps affinity when few requests are in flight'),
  load: z.enum(['tokens', 'requests']).default('tokens').describe('what is bounded: prompt tokens in flight, or requests in flight'),
};

/** Their values. */
export interface BoundSettings {
  readonly bound: number;
  readonly slackRequests: number;
  readonly load: 'tokens' | 'requests';
}

/** Who of the candidates, by index, may take one request. Stays what it was at the moment of the decision. */
export interface LoadBound {
  /** Whether an endpoint, with this request, carries at most max(bound × mean, mean + slack). */
  readonly within: (index: number) => boolean;
  /**
   * Whether it carries no more than its share of what is there without this request. Where a prompt is larger than every bound it has to
   * go somewhere, and better not to the fullest.
   */
  readonly below: (index: number) => boolean;
}

/**
 * Bounded load after Mirrokni, Thorup & Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), with means by weight, over the
 * whole fleet's load. The slack is added because a factor alone throws affinity away when two or three requests are in flight.
 */
export function boundLoad({ bound, slackRequests, load }: BoundSettings, candidates: readonly EndpointSnapshot[], input: DecisionInput): LoadBound {
  const isTokens = load === 'tokens';
  const own = isTokens ? input.promptTokens : 1;
  const { at, columns } = columnsOf(candidates, input.pool);
  const { requests: inFlight, promptTokens: tokens, weights: weightsAt } = columns;
  const loadsAt = isTokens ? tokens : inFlight;
  // A copy, since loads go on changing; of numbers rather than bytes, since memory for those is slow to get.
  const loads = new Array<number>(at.length);
  let total = own;
  let requests = 1;
  let weights = 0;
  for (let i = 0; i < at.length; i += 1) {
    const place = at[i]!;
    const carried = loadsAt[place]!;
    loads[i] = carried;
    total += carried;
    requests += inFlight[place]!;
    weights += weightsAt[place]!;
  }
  const loadOf = (index: number): number => loads[index]!;
  const weightOf = (index: number): number => weightsAt[at[index]!]!;
  const slack = (slackRequests * total) / requests;
  return {
    within: (index) => {
      const mean = (total * weightOf(index)) / weights;
      return loadOf(index) + own <= Math.max(bound * mean, mean + slack);
    },
    below: (index) => loadOf(index) <= ((total - own) * weightOf(index)) / weights,
  };
}

/** Candidates by class, lowest first, and within a class by rendezvous order of the key. `classOf` is asked for indices. */
export function byClass(key: Hash64, candidates: readonly EndpointSnapshot[], columns: RendezvousColumns, classOf: (index: number) => number): EndpointSnapshot[] {
  const classes = new Map(candidates.map((endpoint, i) => [endpoint, classOf(i)]));
  // Sorting is stable.
  return rendezvousOrder(key, candidates, columns).sort((a, b) => (classes.get(a) ?? 0) - (classes.get(b) ?? 0));
}

/** The first of `byClass`, `bestMax` of them or all; there are `classes` classes, counted from 0. */
export function bestByClass(
  key: Hash64,
  candidates: readonly EndpointSnapshot[],
  columns: RendezvousColumns,
  classes: number,
  classOf: (index: number) => number,
): EndpointSnapshot[] {
  const best: EndpointSnapshot[] = [];
  for (let wanted = 0; wanted < classes && best.length < bestMax; wanted += 1) {
    best.push(...rendezvousBest(key, candidates, bestMax - best.length, (i) => classOf(i) === wanted, columns));
  }
  return best;
}
