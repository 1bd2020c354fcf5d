import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { measured } from '../../../test/measured-endpoints.ts';
import { kvUsage } from './kv-usage.ts';

const rate = (candidates: readonly EndpointSnapshot[], promptTokens = 0, cached: Record<string, number> = {}, guard = 0.9): readonly number[] =>
  kvUsage.create({ guard })(candidates, { promptTokens, cachedTokens: new Map(Object.entries(cached)) } as unknown as DecisionInput);
const used = (kvUsed: number, kvTokensMax?: number, address?: string): EndpointSnapshot => measured({ kvUsage: kvUsed, kvTokensMax }, address);

describe('kv-usage', () => {
  it('rates headroom', () => {
    expect(rate([used(0), used(0.25), used(0.75)])).toEqual([1, 0.75, 0.25]);
  });

  it('falls to nothing ahead of a full cache', () => {
    const [at90, at95, at99, full] = rate([used(0.9), used(0.95), used(0.99), used(1)]);
    expect(at90).toBeCloseTo(0.1);
    expect(at95).toBeCloseTo(0.05 / 2);
    expect(at99).toBeCloseTo(0.01 / 10);
    expect(full).toBe(0);
    expect(rate([used(0.75)], 0, {}, 0.5)[0]).toBeCloseTo(0.25 / 2);
  });

  it('counts this prompt in, but for what is cached', () => {
    const candidates = [used(0.5, 10_000, '10.0.0.1:80'), used(0.5, 10_000, '10.0.0.2:80'), used(0.5, 40_000, '10.0.0.3:80')];
    expect(rate(candidates, 4_000, { '10.0.0.2:80': 4_000 })).toEqual([expect.closeTo(0.1), 0.5, 0.4]);
    // A prompt that does not fit any more.
    expect(rate(candidates, 6_000)[0]).toBe(0);
    expect(rate([used(0.5)], 6_000)).toEqual([0.5]);
  });

  it('is neutral where the server does not tell', () => {
    expect(rate([idleEndpoint('10.0.0.1:80'), used(0.1), measured({ requestsQueued: 0 })])).toEqual([0.5, 0.9, 0.5]);
  });
});
