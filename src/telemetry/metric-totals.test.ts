import { Counter, Gauge, Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import { type MetricJson, MetricTotals } from './metric-totals.ts';
import { TalliedHistogram } from './tallies.ts';

/** What a worker tells that counted so much on endpoints, and has one request in flight on each of those there are. */
async function told(counts: Readonly<Record<string, number>>, endpoints: readonly string[] = Object.keys(counts)): Promise<readonly MetricJson[]> {
  const registry = new Registry();
  const registers = [registry];
  const labelNames = ['pool', 'endpoint'];
  const counter = new Counter({ name: 'requests_total', help: 'Requests.', labelNames, registers });
  const durations = new TalliedHistogram<'pool' | 'endpoint'>(registry, { name: 'seconds', help: 'Durations.' }, [1]);
  const inFlight = new Gauge({ name: 'fairlead_requests_in_flight', help: 'In flight.', labelNames, registers });
  const known = new Gauge({ name: 'known', help: 'Known to each.', aggregator: 'max', registers });
  for (const [endpoint, count] of Object.entries(counts)) {
    counter.inc({ pool: 'chat', endpoint }, count);
    const child = durations.child({ pool: 'chat', endpoint });
    for (let i = 0; i < count; i += 1) child.observe(0.5);
  }
  for (const endpoint of endpoints) inFlight.set({ pool: 'chat', endpoint }, 1);
  known.set(Math.max(...Object.values(counts)));
  return (await registry.getMetricsAsJSON()) as unknown as MetricJson[];
}

/** The lines that are values. */
async function linesOf(totals: MetricTotals, own: readonly MetricJson[] = []): Promise<string[]> {
  return (await totals.toText(own)).split('\n').filter((line) => line !== '' && !line.startsWith('#')).sort();
}

describe('the metrics of several workers', () => {
  it('are summed, unless a gauge says otherwise, and stand beside the supervisor\'s own', async () => {
    const totals = new MetricTotals();
    totals.read(0, await told({ a: 1, b: 2 }));
    totals.read(1, await told({ b: 3 }));
    const registry = new Registry();
    new Gauge({ name: 'own', help: 'Own.', registers: [registry] }).set(7);
    expect(await linesOf(totals, (await registry.getMetricsAsJSON()) as unknown as MetricJson[])).toEqual(
      [
        'requests_total{pool="chat",endpoint="a"} 1',
        'requests_total{pool="chat",endpoint="b"} 5',
        'seconds_bucket{pool="chat",endpoint="a",le="1"} 1',
        'seconds_bucket{pool="chat",endpoint="a",le="+Inf"} 1',
        'seconds_sum{pool="chat",endpoint="a"} 0.5',
        'seconds_count{pool="chat",endpoint="a"} 1',
        'seconds_bucket{pool="chat",endpoint="b",le="1"} 5',
        'seconds_bucket{pool="chat",endpoint="b",le="+Inf"} 5',
        'seconds_sum{pool="chat",endpoint="b"} 2.5',
        'seconds_count{pool="chat",endpoint="b"} 5',
        'fairlead_requests_in_flight{pool="chat",endpoint="a"} 1',
        'fairlead_requests_in_flight{pool="chat",endpoint="b"} 2',
        'known 3',
        'own 7',
      ].sort(),
    );
  });

  it('keep what a worker counted that ended, also where its successor has no such series yet; not what it had in flight', async () => {
    const totals = new MetricTotals();
    totals.read(0, await told({ a: 4 }));
    totals.read(1, await told({ b: 1 }, ['a', 'b']));
    totals.ended(0);
    const counted = async (): Promise<string[]> => (await linesOf(totals)).filter((line) => !line.startsWith('seconds_bucket') && !line.startsWith('known'));
    expect(await counted()).toEqual([
      'fairlead_requests_in_flight{pool="chat",endpoint="a"} 1',
      'fairlead_requests_in_flight{pool="chat",endpoint="b"} 1',
      'requests_total{pool="chat",endpoint="a"} 4',
      'requests_total{pool="chat",endpoint="b"} 1',
      'seconds_count{pool="chat",endpoint="a"} 4',
      'seconds_count{pool="chat",endpoint="b"} 1',
      'seconds_sum{pool="chat",endpoint="a"} 2',
      'seconds_sum{pool="chat",endpoint="b"} 0.5',
    ]);
    totals.read(0, await told({ a: 1 }, ['a', 'b']));
    totals.ended(0);
    totals.read(0, await told({ a: 2 }, ['a', 'b']));
    expect(await counted()).toContain('requests_total{pool="chat",endpoint="a"} 7');
  });

  it('forget what was counted of an endpoint that is gone', async () => {
    const totals = new MetricTotals();
    totals.read(0, await told({ a: 4, b: 1 }));
    totals.ended(0);
    totals.read(0, await told({ b: 1 }));
    expect((await linesOf(totals)).filter((line) => line.startsWith('requests_total'))).toEqual(['requests_total{pool="chat",endpoint="b"} 2']);
  });
});
