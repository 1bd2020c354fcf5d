import { describe, expect, it } from 'vitest';
import type { Policy } from '../core/policy.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import type { RoutingTable } from '../router/routing-table.ts';
import { createFleetReport } from './fleet-report.ts';

const fleet = new FleetView([
  {
    name: 'chat',
    endpoints: [
      { address: '10.0.0.2:80', weight: 2, labels: { gpu: 'h100' }, requestsMax: 8 },
      { address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: undefined },
    ],
  },
  { name: 'unused', endpoints: [{ address: '[::1]:80', weight: 1, labels: {}, requestsMax: undefined }] },
]);
const pool = { name: 'chat', cluster: 'chat-cluster', policy: { name: 'least-requests' } as Policy, observeFirstToken: false };
const table: RoutingTable = {
  routes: [{ name: '* *', matchesModel: undefined, matchesPath: undefined, targets: [{ pool, weight: 1 }], needs: new Set() }],
  needs: new Set(),
};

describe('createFleetReport', () => {
  it("writes down own and fleet-wide load, names and state, pools as configured, endpoints by address", () => {
    const endpoint = fleet.pool('chat')!.endpoint('10.0.0.1:80')!;
    Object.assign(endpoint.own, { requests: 2, promptTokens: 300, promptTokensWaiting: 100 });
    Object.assign(endpoint.foreign, { requests: 5, promptTokens: 7_000, promptTokensWaiting: 0 });
    endpoint.state = 'draining';
    const idle = { requestsInFlight: 0, promptTokensInFlight: 0, promptTokensWaiting: 0, fleetRequestsInFlight: 0 };
    const expected = {
      router: { id: 'router-1', state: 'serving', uptimeS: 61 },
      pools: [
        {
          name: 'chat',
          cluster: 'chat-cluster',
          policy: 'least-requests',
          endpoints: [
            {
              address: '10.0.0.1:80',
              state: 'draining',
              weight: 1,
              labels: {},
              requestsMax: null,
              requestsInFlight: 2,
              promptTokensInFlight: 300,
              promptTokensWaiting: 100,
              fleetRequestsInFlight: 7,
            },
            { address: '10.0.0.2:80', state: 'ready', weight: 2, labels: { gpu: 'h100' }, requestsMax: 8, ...idle },
          ],
        },
        {
          name: 'unused',
          cluster: null,
          policy: null,
          endpoints: [{ address: '[::1]:80', state: 'ready', weight: 1, labels: {}, requestsMax: null, ...idle }],
        },
      ],
    };
    const report = createFleetReport({ routerId: 'router-1', state: 'serving', uptimeMs: 61_999, fleet, table });
    // Compared as JSON, since that is what goes out: nothing may be undefined.
    expect(JSON.parse(JSON.stringify(report))).toEqual(expected);
    expect(report).toEqual(expected);
  });
});
