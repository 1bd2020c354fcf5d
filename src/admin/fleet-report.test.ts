import { describe, expect, it } from 'vitest';
import type { Policy } from '../core/policy.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import type { RoutingTable } from '../router/routing-table.ts';
import { createMemoryExchange } from '../router/memory-exchange.ts';
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
    Object.assign(endpoint.own, { requests: 2, promptTokens: 300, requestsWaiting: 1, uncachedTokensWaiting: 100 });
    Object.assign(endpoint.foreign, { requests: 5, promptTokens: 7_000, requestsWaiting: 0, uncachedTokensWaiting: 0 });
    endpoint.state = 'draining';
    endpoint.health.last = { cause: 'operator', detail: undefined, atMs: 3_500.4 };
    endpoint.line.join('other', 90, 4_000);
    const measured = fleet.pool('chat')!.endpoint('10.0.0.2:80')!;
    measured.readySinceMs = 2_000;
    measured.metrics = { scrapedMs: 4_600, requestsRunning: 3, requestsQueued: undefined, kvUsage: 0.5, kvTokensMax: 1_000, adapters: new Set(['b', 'a']), adaptersMax: 2 };
    fleet.pool('chat')!.learnPromptTokens(640);
    const noLoad = { requestsInFlight: 0, promptTokensInFlight: 0, uncachedTokensWaiting: 0 };
    const noFleetLoad = { fleetRequestsInFlight: 0, fleetPromptTokensInFlight: 0, fleetRequestsWaiting: 0, fleetUncachedTokensWaiting: 0, headTokens: 0, headAgeMs: null };
    const unknown = { changed: null, retryInMs: null, trialsFree: 0, standby: false, readyForMs: null, contextTokensMax: null, kvTokensMax: null, latency: null, engine: null };
    const idle = { ...noLoad, ...noFleetLoad, ...unknown };
    const expected = {
      router: { id: 'router-1', state: 'serving', uptimeS: 61 },
      sharing: { kind: 'memory', connected: true, pushing: false, snapshotAgeMs: null, trouble: null },
      routers: [],
      pools: [
        {
          name: 'chat',
          cluster: 'chat-cluster',
          policy: 'least-requests',
          promptTokensMean: 640,
          endpoints: [
            {
              address: '10.0.0.1:80',
              state: 'draining',
              weight: 1,
              labels: {},
              requestsMax: null,
              requestsInFlight: 2,
              promptTokensInFlight: 300,
              uncachedTokensWaiting: 100,
              ...unknown,
              changed: { cause: 'operator', detail: null, ageMs: 1_500 },
              fleetRequestsInFlight: 7,
              fleetPromptTokensInFlight: 7_300,
              fleetRequestsWaiting: 1,
              fleetUncachedTokensWaiting: 100,
              headTokens: 90,
              headAgeMs: 1_000,
            },
            {
              address: '10.0.0.2:80',
              state: 'ready',
              weight: 2,
              labels: { gpu: 'h100' },
              requestsMax: 8,
              ...idle,
              readyForMs: 3_000,
              kvTokensMax: 1_000,
              engine: { ageMs: 400, requestsRunning: 3, requestsQueued: null, kvUsage: 0.5, kvTokensMax: 1_000, adapters: ['a', 'b'], adaptersMax: 2 },
            },
          ],
        },
        {
          name: 'unused',
          cluster: null,
          policy: null,
          promptTokensMean: 1,
          endpoints: [{ address: '[::1]:80', state: 'ready', weight: 1, labels: {}, requestsMax: null, ...idle }],
        },
      ],
      routes: [{ name: '* *', targets: [{ pool: 'chat', model: null, weight: 1, configuredWeight: 1 }], shift: null, fallback: [] }],
    };
    const report = createFleetReport({ routerId: 'router-1', state: 'serving', uptimeMs: 61_999, nowMs: 5_000, fleet, table, exchange: createMemoryExchange() });
    // Compared as JSON, since that is what goes out: nothing may be undefined.
    expect(JSON.parse(JSON.stringify(report))).toEqual(expected);
    expect(report).toEqual(expected);
  });

  it('says why an endpoint is left out, and until when', () => {
    const ejected = new FleetView([{ name: 'chat', endpoints: [{ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: undefined, standby: true }] }]);
    const endpoint = ejected.pool('chat')!.endpoint('10.0.0.1:80')!;
    endpoint.health.breaker.open('open', 5_000);
    endpoint.health.last = { cause: 'failures', detail: '3 in a row', atMs: 5_000 };
    endpoint.state = 'ejected';
    const { pools } = createFleetReport({ routerId: 'a', state: 'serving', uptimeMs: 0, nowMs: 5_300, fleet: ejected, table, exchange: createMemoryExchange() });
    expect(pools[0]?.endpoints[0]).toMatchObject({
      state: 'ejected',
      changed: { cause: 'failures', detail: '3 in a row', ageMs: 300 },
      retryInMs: 700,
      trialsFree: 0,
      standby: true,
    });
  });

  it('lists the routers with their age and their share of the load, and says what is wrong', () => {
    const { sharing, routers } = createFleetReport({
      routerId: 'a',
      state: 'serving',
      uptimeMs: 0,
      nowMs: 5_000,
      fleet,
      table,
      exchange: {
        kind: 'redis',
        status: () => ({
          connected: false,
          pushing: true,
          routersLastSeen: 2,
          routers: [
            { id: 'a', ageMs: 0, requestsInFlight: 3 },
            { id: 'b', ageMs: 41.6, requestsInFlight: 1 },
          ],
        }),
        snapshotAgeMs: () => 512.4,
        trouble: () => ({ code: 'timeout', message: 'no answer', permanent: false }),
      },
    });
    expect(sharing).toEqual({ kind: 'redis', connected: false, pushing: true, snapshotAgeMs: 512, trouble: { code: 'timeout', message: 'no answer' } });
    expect(routers).toEqual([
      { id: 'a', ageMs: 0, requestsInFlight: 3, loadShare: 0.75 },
      { id: 'b', ageMs: 42, requestsInFlight: 1, loadShare: 0.25 },
    ]);
  });
});
