import { Counter, Gauge, Registry } from 'prom-client';
import type { MetricJson } from './metric-totals.ts';
import { registerProcessMetrics } from './metrics.ts';
import { TalliedCounter, type Tally } from './tallies.ts';

export interface WorkerMetricsOptions {
  readonly workers: number;
  /** How many of them serve. */
  readonly serving: () => number;
  /** What a worker told last of its metrics. */
  readonly latest: (worker: number) => readonly MetricJson[];
}

/** What the supervisor of several workers counts itself. */
export interface WorkerMetrics {
  /** These, and what is told of the process; to be read after the workers' own. */
  read(): Promise<readonly MetricJson[]>;
  readonly contentType: string;
  /** A worker ended and is replaced. */
  restarted(): void;
}

/** Makes the supervisor's metrics, in a registry of their own. */
export function createWorkerMetrics({ workers, serving, latest }: WorkerMetricsOptions): WorkerMetrics {
  const registry = new Registry();
  const registers = [registry];
  const numbers = Array.from({ length: workers }, (_, worker) => worker);
  registerProcessMetrics(registry);
  new Gauge({ name: 'fairlead_workers', help: 'Workers of this process, where it has several.', registers }).set(workers);
  new Gauge({
    name: 'fairlead_workers_serving',
    help: 'Workers of this process that serve.',
    registers,
    collect() {
      this.set(serving());
    },
  });
  const restarts = new Counter({ name: 'fairlead_worker_restarts_total', help: 'Workers that ended unasked and were replaced, or are about to be.', registers });
  const streams = new TalliedCounter<'worker'>(registry, { name: 'fairlead_worker_streams_opened_total', help: 'ext_proc streams opened by Envoy, by worker.' });
  const opened: readonly Tally[] = numbers.map((worker) => streams.child({ worker: String(worker) }));
  new Gauge({
    name: 'fairlead_worker_eventloop_utilization_ratio',
    help: "Share of time since the last scrape that a worker's event loop was busy.",
    labelNames: ['worker'],
    registers,
    collect() {
      this.reset();
      for (const worker of numbers) {
        const busy = valueOf(latest(worker), 'nodejs_eventloop_utilization_ratio');
        if (busy !== undefined) this.set({ worker: String(worker) }, busy);
      }
    },
  });
  return {
    contentType: registry.contentType,
    restarted: () => restarts.inc(),
    read: async () => {
      for (const [worker, tally] of opened.entries()) tally.value = valueOf(latest(worker), 'fairlead_streams_opened_total') ?? 0;
      return (await registry.getMetricsAsJSON()) as unknown as MetricJson[];
    },
  };
}

/** Of a metric with one series. */
function valueOf(metrics: readonly MetricJson[], name: string): number | undefined {
  return metrics.find((metric) => metric.name === name)?.values[0]?.value;
}
