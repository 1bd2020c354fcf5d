import type { Decision, Rejection } from './decision.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import type { DecisionInput, Policy } from './policy.ts';

/** The filter code that means "would serve it, but not now": these make a pool saturated rather than not ready. */
export const atLimit = 'at-limit';

/**
 * Chooses endpoints for one request: subset, filters, scorers, picker. Pure: no clock, chance or memory of its own.
 * The gateway's subset comes before every policy and is matched on address and port (Endpoint Picker Protocol 1.0).
 */
export function decide(policy: Policy, input: DecisionInput): Decision {
  const candidates: EndpointSnapshot[] = [];
  const rejections: Rejection[] = [];
  const { subset } = input.facts;
  for (const endpoint of input.pool.endpoints) {
    if (subset !== undefined && !subset.has(endpoint.address)) {
      rejections.push({ address: endpoint.address, filter: 'subset', reason: 'outside-subset' });
      continue;
    }
    let rejected = false;
    for (const filter of policy.filters) {
      const reason = filter.run(endpoint, input);
      if (reason !== undefined) {
        rejections.push({ address: endpoint.address, filter: filter.name, reason });
        rejected = true;
        break;
      }
    }
    if (!rejected) candidates.push(endpoint);
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
  const { order, reason, home } = policy.picker.run(candidates, totals, input);
  return {
    kind: 'route',
    addresses: order.map((endpoint) => endpoint.address),
    reason,
    home,
    trace: { policy: policy.name, candidates: names, rejections, scores },
  };
}

function causeOfNone(rejections: readonly Rejection[]): 'not-ready' | 'saturated' | 'subset' {
  if (rejections.some(({ reason }) => reason === atLimit)) return 'saturated';
  const inside = rejections.filter(({ filter }) => filter !== 'subset');
  return inside.length === 0 && rejections.length > 0 ? 'subset' : 'not-ready';
}
