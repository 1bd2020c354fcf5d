import { Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import { FleetView } from '../fleet/fleet-view.ts';
import type { PoolScaling } from '../router/scaling-watch.ts';
import { registerScalingReadings } from './scaling-metrics.ts';

const scaling: PoolScaling = {
  load: {
    weight: 4,
    servers: 2,
    waitMs: 1_500,
    inFlightShare: 0.25,
    waitingTokens: 900,
    requests: 7,
    requestsPerS: 3,
    promptTokensPerS: 3_000,
    prefillTokensPerS: 1_000,
    capacityTokensPerS: 500,
  },
  advice: { desiredReplicas: 5, reason: 'prefill' },
  standby: { waiting: 1, active: 2, exhausted: false },
};

async function lines(known: ReadonlyMap<string, PoolScaling>, fleet: FleetView, registry = new Registry()): Promise<string[]> {
  registerScalingReadings(registry, { fleet, scaling: (pool) => known.get(pool) });
  return (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
}

const createFleet = (): FleetView =>
  new FleetView(['chat', 'batch'].map((name) => ({ name, endpoints: [{ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: undefined }] })));

describe('the readings of a pool', () => {
  it('are what the watch says, in base units', async () => {
    expect(await lines(new Map([['chat', scaling]]), createFleet())).toEqual(
      expect.arrayContaining([
        'fairlead_pool_desired_replicas{pool="chat"} 5',
        'fairlead_pool_serving_replicas{pool="chat"} 2',
        'fairlead_pool_pressure_seconds{pool="chat"} 1.5',
        'fairlead_pool_limit_utilization_ratio{pool="chat"} 0.25',
        'fairlead_pool_waiting_tokens{pool="chat"} 900',
        'fairlead_pool_prefill_tokens_per_second{pool="chat"} 1000',
        'fairlead_pool_decode_tokens_per_second{pool="chat"} 0',
        'fairlead_pool_prefill_capacity_tokens_per_second{pool="chat"} 2000',
        'fairlead_pool_standby_exhausted{pool="chat"} 0',
        'fairlead_pool_standby_servers{pool="chat",state="waiting"} 1',
        'fairlead_pool_standby_servers{pool="chat",state="active"} 2',
        'fairlead_pool_endpoints{pool="chat",state="ready"} 1',
        'fairlead_pool_endpoints{pool="chat",state="ejected"} 0',
      ]),
    );
  });

  it('are absent where there is nothing to say', async () => {
    const bare: PoolScaling = { ...scaling, load: { ...scaling.load, inFlightShare: undefined }, standby: { waiting: 0, active: 0, exhausted: false } };
    const text = (await lines(new Map([['chat', bare]]), createFleet())).join('\n');
    expect(text).not.toMatch(/limit_utilization|standby_exhausted|standby_servers/);
    expect(text).not.toMatch(/replicas\{pool="batch"\}/);
  });

  it('go with the pool', async () => {
    const [registry, fleet] = [new Registry(), createFleet()];
    const before = await lines(new Map([['batch', scaling]]), fleet, registry);
    expect(before).toContain('fairlead_pool_desired_replicas{pool="batch"} 5');
    fleet.pools = new Map([...fleet.pools].filter(([name]) => name === 'chat'));
    expect(await registry.metrics()).not.toContain('batch');
  });
});
