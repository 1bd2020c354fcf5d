import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { timed } from '../../../test/measured-endpoints.ts';
import { leastLatency } from './least-latency.ts';

const rate = (...candidates: EndpointSnapshot[]): readonly number[] => leastLatency.create({})(candidates, {} as DecisionInput);
const waiting = (endpoint: EndpointSnapshot, requestsWaiting: number): EndpointSnapshot => ({ ...endpoint, requestsWaiting });

describe('least-latency', () => {
  it('rates the usual 0.5, half of it 2/3, twice of it 1/3', () => {
    expect(rate(timed({ mean: 100 }), timed({ mean: 200 }), timed({ mean: 400 }))).toEqual([2 / 3, 0.5, 1 / 3].map((rating) => expect.closeTo(rating, 12) as number));
  });

  it('multiplies by those that wait', () => {
    const [fastBusy, slowIdle] = rate(waiting(timed({ mean: 100 }), 3), timed({ mean: 400 }));
    expect(fastBusy).toBeCloseTo(slowIdle!);
    const [fast, slow] = rate(waiting(timed({ mean: 100 }), 4), timed({ mean: 400 }));
    expect(fast).toBeLessThan(slow!);
  });

  it('takes an endpoint that was never measured for usual, with its own queue', () => {
    const unknown = idleEndpoint('10.0.0.9:80');
    const [fast, slow, idle, busy] = rate(timed({ mean: 100 }), timed({ mean: 400 }), unknown, waiting(unknown, 7));
    expect(idle).toBe(0.5);
    expect([fast! > idle!, idle! > slow!]).toEqual([true, true]);
    expect(busy).toBeCloseTo(1 / 9);
    expect(rate(unknown, unknown)).toEqual([0.5, 0.5]);
  });

  it('does not take an endpoint for fast that fails fast', () => {
    const [flaky, sound] = rate(timed({ mean: 100, failureShare: 0.9 }), timed({ mean: 200 }));
    expect(flaky).toBeLessThan(sound!);
    // One that only fails has no times, and no share of requests until its failures have grown old.
    expect(rate(timed({ failureShare: 1 }), timed({ mean: 60_000 }))).toEqual([0, 0.5]);
  });

  it('copes with times of 0', () => {
    expect(rate(timed({ mean: 0 }), timed({ mean: 0.5 }))).toEqual([0.5, 0.5]);
  });
});
