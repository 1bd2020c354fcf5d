import type { Decision, NoneCause, Rejection } from './decision.ts';
import { toHostPort } from './data-parallel-rank.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import type { DecisionInput, Policy } from './policy.ts';

/** The filter code that means "would serve it, but not now": these make a pool saturated rather than not ready. */
export const atLimit = 'at-limit';
/** The same for an endpoint whose KV cache has no room now. */
export const kvFull = 'kv-full';
/** The filter code for a prompt that an endpoint's model could never take. */
export const contextTooLong = 'context-too-long';

/**
 * Chooses endpoints for one request: subset, filters, scorers, picker. Pure: no clock, chance or memory of its own.
 * The gateway's subset comes before every policy and is matched on address and port (Endpoint Picker Protocol 1.0).
 */
export function decide(policy: Policy, input: DecisionInput): Decision {
  const rejections: Rejection[] = [];
  const { subset } = input.facts;
  let candidates = input.pool.endpoints;
  if (subset !== undefined) {
    candidates = candidates.filter(({ address }) => {
      if (subset.has(toHostPort(address))) return true;
      rejections.push({ address, filter: 'subset', reason: 'outside-subset' });
      return false;
    });
  }
  for (const filter of policy.filters) if (filter.soft !== true) candidates = applyFilter(filter, candidates, input, rejections);
  for (const filter of policy.filters) {
    if (filter.soft !== true || candidates.length === 0) continue;
    const leftOut: Rejection[] = [];
    const preferred = applyFilter(filter, candidates, input, leftOut);
    if (preferred.length === 0) continue;
    candidates = preferred;
    rejections.push(...leftOut);
  }

  const names = candidates.map((endpoint) => endpoint.address);
  if (candidates.length === 0) {
    return { kind: 'none', cause: causeOfNone(rejections), trace: { policy: policy.name, candidates: names, rejections, scores: [] } };
  }

  const totals = new Array<number>(candidates.length).fill(0);
  const scores = policy.scorers.map(({ name, run, weight }) => {
    const ratings = run(candidates, input);
    for (let i = 0; i < totals.length; i += 1) totals[i] = (totals[i] ?? 0) + weight * (ratings[i] ?? 0.5);
    return { scorer: name, weight, ratings };
  });
  const { order, reason, home, costs } = policy.picker.run(candidates, totals, input);
  return {
    kind: 'route',
    addresses: order.map((endpoint) => endpoint.address),
    reason,
    home,
    trace: { policy: policy.name, candidates: names, rejections, scores, ...(costs && { costs }) },
  };
}

/** Those that a filter lets pass, in their order; the same array where it lets all pass. */
function applyFilter(
  { name, run }: Policy['filters'][number],
  candidates: readonly EndpointSnapshot[],
  input: DecisionInput,
  rejections: Rejection[],
): readonly EndpointSnapshot[] {
  const before = rejections.length;
  for (const endpoint of candidates) {
    const reason = run(endpoint, input);
    if (reason !== undefined) rejections.push({ address: endpoint.address, filter: name, reason });
  }
  if (rejections.length === before) return candidates;
  const rejected = new Set(rejections.slice(before).map(({ address }) => address));
  return candidates.filter(({ address }) => !rejected.has(address));
}

function causeOfNone(rejections: readonly Rejection[]): NoneCause {
  if (rejections.some(({ reason }) => reason === atLimit || reason === kvFull)) return 'saturated';
  const inside = rejections.filter(({ filter }) => filter !== 'subset');
  if (inside.length > 0 && inside.every(({ reason }) => reason === contextTooLong)) return 'too-long';
  return inside.length === 0 && rejections.length > 0 ? 'subset' : 'not-ready';
}
