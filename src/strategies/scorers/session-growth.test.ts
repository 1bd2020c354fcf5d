import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import { createAffinityHasher } from '../../core/hash.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { measured } from '../../../test/measured-endpoints.ts';
import { sessionGrowth } from './session-growth.ts';

const key = createAffinityHasher('test-secret')('', 'alice');
const rate = (
  candidates: readonly EndpointSnapshot[],
  promptTokens: number,
  { growth = 2, session = true, cached = {} }: { growth?: number; session?: boolean; cached?: Record<string, number> } = {},
): readonly number[] =>
  sessionGrowth.create({ growth })(candidates, {
    promptTokens,
    affinityKey: session ? key : undefined,
    cachedTokens: new Map(Object.entries(cached)),
  } as unknown as DecisionInput);

// 40 000, 20 000 and 5 000 tokens free.
const candidates = [
  measured({ kvUsage: 0.5, kvTokensMax: 80_000 }, '10.0.0.1:80'),
  measured({ kvUsage: 0.75, kvTokensMax: 80_000 }, '10.0.0.2:80'),
  measured({ kvUsage: 0.5, kvTokensMax: 10_000 }, '10.0.0.3:80'),
];

describe('session-growth', () => {
  it('wants room for the session’s prompt also when it has grown', () => {
    expect(rate(candidates, 8_000)).toEqual([0.6, expect.closeTo(0.2), 0]);
    expect(rate(candidates, 8_000, { growth: 1 })).toEqual([0.8, 0.6, 0]);
    expect(rate(candidates, 8_000, { growth: 5 })).toEqual([0, 0, 0]);
  });

  it('hardly minds where a short session goes', () => {
    const [most, , least] = rate(candidates, 10);
    expect(most! - least!).toBeLessThan(0.01);
  });

  it('expects no growth of a request without a session', () => {
    expect(rate(candidates, 8_000, { session: false })).toEqual([0.8, 0.6, 0]);
  });

  it('needs no room for what is cached', () => {
    expect(rate(candidates, 8_000, { cached: { '10.0.0.2:80': 16_000, '10.0.0.3:80': 15_000 } })).toEqual([0.6, 1, 0.8]);
  });

  it('is neutral where usage or size is unknown, and rates a full cache 0', () => {
    expect(rate([idleEndpoint('10.0.0.1:80'), measured({ kvUsage: 0.1 }), measured({ kvTokensMax: 100 }), measured({ kvUsage: 1, kvTokensMax: 100 })], 8)).toEqual([0.5, 0.5, 0.5, 0]);
  });
});
