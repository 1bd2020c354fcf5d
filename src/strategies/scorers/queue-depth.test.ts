import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { measured } from '../../../test/measured-endpoints.ts';
import { queueDepth } from './queue-depth.ts';

const rate = (...candidates: EndpointSnapshot[]): readonly number[] => queueDepth.create({})(candidates, {} as DecisionInput);
const queued = (requestsQueued: number, rest: Partial<EndpointSnapshot> = {}, requestsRunning?: number): EndpointSnapshot => ({
  ...measured({ requestsQueued, requestsRunning }),
  ...rest,
});

describe('queue-depth', () => {
  it('rates the shortest queue 1, and one of twice as many about a half', () => {
    expect(rate(queued(0), queued(1), queued(3))).toEqual([1, 1 / 2, 1 / 4]);
    expect(rate(queued(9), queued(19), queued(4))).toEqual([1 / 2, 1 / 4, 1]);
  });

  it('reckons by capacity', () => {
    expect(rate(queued(8, { weight: 4 }), queued(2), queued(5))).toEqual([1, 1, 1 / 2]);
  });

  it('takes what was sent since the scrape for queued', () => {
    // 6 in flight, 2 of them running then: 4 wait, though the server said 1.
    expect(rate(queued(1, { requests: 6 }, 2), queued(4))).toEqual([1, 1]);
    // Others than our routers send there too: its own word is the least that is believed.
    expect(rate(queued(4, { requests: 1 }, 8), queued(4))).toEqual([1, 1]);
    // Without a count of those running, nobody knows which of them were sent since.
    expect(rate(queued(0, { requests: 6 }), queued(0))).toEqual([1, 1]);
  });

  it('is neutral where the server does not tell', () => {
    expect(rate(idleEndpoint('10.0.0.1:80'), queued(3), measured({ kvUsage: 0.5 }))).toEqual([0.5, 1, 0.5]);
  });
});
