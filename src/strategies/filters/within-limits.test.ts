import { describe, expect, it } from 'vitest';
import { atLimit } from '../../core/decide.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { FleetEndpoint } from '../../fleet/endpoint.ts';
import { withinLimits } from './within-limits.ts';

const run = withinLimits.create({});

describe('within-limits', () => {
  it.each<[number, number | undefined, string | undefined]>([
    [0, undefined, undefined],
    [1_000_000, undefined, undefined],
    [0, 1, undefined],
    [1, 1, atLimit],
    [2, 1, atLimit],
    [7, 8, undefined],
    [8, 8, atLimit],
  ])('%d in flight of %s: %s', (requests, requestsMax, reason) => {
    const endpoint = new FleetEndpoint({ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax });
    endpoint.own.requests = requests;
    expect(run(endpoint, {} as DecisionInput)).toBe(reason);
  });

  it('counts the whole fleet, not this router alone', () => {
    const endpoint = new FleetEndpoint({ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: 3 });
    endpoint.own.requests = 1;
    expect(run(endpoint, {} as DecisionInput)).toBeUndefined();
    Object.assign(endpoint.foreign, { requests: 2, promptTokens: 0, promptTokensWaiting: 0 });
    expect(run(endpoint, {} as DecisionInput)).toBe(atLimit);
  });
});
