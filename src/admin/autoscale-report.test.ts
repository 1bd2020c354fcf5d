import { describe, expect, it } from 'vitest';
import { FleetView } from '../fleet/fleet-view.ts';
import type { PoolScaling } from '../router/scaling-watch.ts';
import { createAutoscaleReports } from './autoscale-report.ts';

describe('the advice told', () => {
  it('has a number wherever an autoscaler may look, and null where there is none', () => {
    const fleet = new FleetView(['chat', 'unwatched'].map((name) => ({ name, endpoints: [{ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: undefined }] })));
    fleet.pool('chat')!.endpoints[0]!.own.requests = 3;
    const scaling: PoolScaling = {
      load: {
        weight: 2,
        servers: 1,
        waitMs: 12.345_67,
        inFlightShare: undefined,
        waitingTokens: 90,
        requests: 3,
        requestsPerS: 1 / 3,
        promptTokensPerS: 20,
        prefillTokensPerS: 10,
        capacityTokensPerS: 100,
      },
      advice: { desiredReplicas: 4, reason: 'queue' },
      standby: { waiting: 1, active: 0, exhausted: false },
    };
    const reports = createAutoscaleReports(fleet, (pool) => (pool === 'chat' ? scaling : undefined));
    expect(JSON.parse(JSON.stringify(reports))).toEqual([
      {
        pool: 'chat',
        desiredReplicas: 4,
        reason: 'queue',
        servingReplicas: 1,
        standby: { waiting: 1, active: 0, exhausted: false },
        pressureMs: 12.346,
        inFlightShare: null,
        requestsInFlight: 3,
        requestsPerSecond: 0.333,
        promptTokensPerSecond: 20,
        prefillTokensPerSecond: 10,
        decodeTokensPerSecond: null,
        waitingTokens: 90,
        prefillCapacityTokensPerSecond: 200,
      },
    ]);
  });
});
