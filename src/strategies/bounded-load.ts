import * as z from 'zod';
import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import type { DecisionInput } from '../core/policy.ts';

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

/** Who may take one request. */
export interface LoadBound {
  /** Whether an endpoint, with this request, carries at most max(bound × mean, mean + slack). */
  readonly within: (endpoint: EndpointSnapshot) => boolean;
  /**
   * Whether it carries no more than its share of what is there without this request. Where a prompt is larger than every bound it has to
   * go somewhere, and better not to the fullest.
   */
  readonly below: (endpoint: EndpointSnapshot) => boolean;
}

/**
 * Bounded load after Mirrokni, Thorup & Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), with means by weight, over the
 * whole fleet's load. The slack is added because a factor alone throws affinity away when two or three requests are in flight.
 */
export function boundLoad({ bound, slackRequests, load }: BoundSettings, candidates: readonly EndpointSnapshot[], input: DecisionInput): LoadBound {
  const loadOf = load === 'tokens' ? (e: EndpointSnapshot) => e.promptTokens : (e: EndpointSnapshot) => e.requests;
  const own = load === 'tokens' ? input.promptTokens : 1;
  let total = own;
  let requests = 1;
  let weights = 0;
  for (const endpoint of candidates) {
    total += loadOf(endpoint);
    requests += endpoint.requests;
    weights += endpoint.weight;
  }
  const slack = (slackRequests * total) / requests;
  return {
    within: (endpoint) => {
      const mean = (total * endpoint.weight) / weights;
      return loadOf(endpoint) + own <= Math.max(bound * mean, mean + slack);
    },
    below: (endpoint) => loadOf(endpoint) <= ((total - own) * endpoint.weight) / weights,
  };
}

/** The chosen first, then the rest, each in the order of the whole. */
export function moveToFront(all: readonly EndpointSnapshot[], chosen: readonly EndpointSnapshot[]): EndpointSnapshot[] {
  if (chosen.length === all.length) return [...chosen];
  const first = new Set(chosen);
  return [...chosen, ...all.filter((endpoint) => !first.has(endpoint))];
}
