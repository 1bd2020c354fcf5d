import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { timed } from '../../../test/measured-endpoints.ts';
import { tailLatency } from './tail-latency.ts';


type Parameters = Partial<ReturnType<typeof tailLatency.parameters.parse>>;

const rate = (candidates: readonly EndpointSnapshot[], parameters: Parameters = {}): readonly number[] =>
  tailLatency.create(tailLatency.parameters.parse(parameters))(candidates, {} as DecisionInput);
const closeTo = (...ratings: number[]): unknown[] => ratings.map((rating) => expect.closeTo(rating, 12) as unknown);

// The first has the better mean, the second the better p95, the third the better p99.
const spread = [
  timed({ mean: 50, p95: 800, p99: 1_600 }),
  timed({ mean: 300, p95: 400, p99: 3_200 }),
  timed({ mean: 300, p95: 1_600, p99: 800 }),
];

describe('tail-latency', () => {
  it('rates by the quantile asked for', () => {
    expect(rate(spread, { of: 'ttft' })).toEqual(closeTo(1 / 2, 2 / 3, 1 / 3));
    expect(rate(spread, { of: 'ttft', quantile: 'p99' })).toEqual(closeTo(1 / 2, 1 / 3, 2 / 3));
  });

  it('keeps time to first token and time per token apart, or weighs both alike', () => {
    const candidates = [timed({ p95: 100, tpotP95: 40 }), timed({ p95: 400, tpotP95: 10 }), timed({ p95: 200, tpotP95: 5 })];
    expect(rate(candidates, { of: 'ttft' })).toEqual(closeTo(2 / 3, 1 / 3, 1 / 2));
    expect(rate(candidates, { of: 'tpot' }).map((rating) => rating > 0.5)).toEqual([false, true, true]);
    const both = rate(candidates);
    // Alike in both: 100 × 40 = 400 × 10; the third is better in sum.
    expect(both[0]).toBeCloseTo(both[1]!);
    expect(both[2]).toBeGreaterThan(both[0]!);
  });

  it('takes what was hardly measured for usual', () => {
    const few = timed({ p95: 1, samples: 9 });
    expect(rate([few, idleEndpoint('10.0.0.9:80'), timed({ p95: 100 }), timed({ p95: 400 })], { of: 'ttft' })).toEqual(closeTo(1 / 2, 1 / 2, 2 / 3, 1 / 3));
    expect(rate([few, timed({ p95: 4 })], { of: 'ttft', samplesMin: 9 })).toEqual(closeTo(2 / 3, 1 / 3));
    expect(rate([timed({ p95: 7 })], { of: 'tpot' })).toEqual([0.5]);
  });

  it('takes off the share of failures', () => {
    expect(rate([timed({ p95: 100, failureShare: 0.5 }), timed({ p95: 100 }), timed({ failureShare: 1 })], { of: 'ttft' })).toEqual(closeTo(0.25, 0.5, 0));
  });
});
