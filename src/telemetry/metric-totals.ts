import { AggregatorRegistry } from 'prom-client';

/** One metric with its values, as a registry gives it in plain data. */
export interface MetricJson {
  readonly name: string;
  readonly type: string;
  readonly values: readonly Value[];
}

interface Value {
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

/**
 * The metrics of several workers as one. What is counted is summed, and goes on from where it was when a worker ended and another took its
 * place: whoever reads the totals sees them fall only with an endpoint that is gone. Gauges go by what each says of its own aggregation.
 */
export class MetricTotals {
  /** As each worker told them last. */
  readonly #last = new Map<number, readonly MetricJson[]>();
  /** What workers that ended had counted when they were last read, by metric and series. */
  readonly #retired = new Map<string, { readonly metric: MetricJson; readonly series: Map<string, Value> }>();

  /** What a worker tells now. */
  read(worker: number, metrics: readonly MetricJson[]): void {
    this.#last.set(worker, metrics);
  }

  /** What a worker told last. */
  latest(worker: number): readonly MetricJson[] {
    return this.#last.get(worker) ?? [];
  }

  /** The worker ended: what it counted since it was last read is lost. */
  ended(worker: number): void {
    for (const metric of this.#last.get(worker) ?? []) {
      if (!isCounted(metric.type)) continue;
      const kept = this.#retired.get(metric.name) ?? { metric, series: new Map<string, Value>() };
      this.#retired.set(metric.name, kept);
      for (const value of metric.values) {
        const key = keyOf(value);
        kept.series.set(key, { ...value, value: (kept.series.get(key)?.value ?? 0) + value.value });
      }
    }
    this.#last.delete(worker);
  }

  /** All together, in Prometheus' text form; `own`: the supervisor's, beside them. */
  async toText(own: readonly MetricJson[]): Promise<string> {
    const workers = [...this.#last].sort(([a], [b]) => a - b).map(([, metrics]) => metrics);
    const whole = [...workers, this.#retiredOf(workers), own];
    return AggregatorRegistry.aggregate(whole).metrics();
  }

  /** The retired counts, but for those of endpoints that are gone: they come and go all day, and must not pile up. */
  #retiredOf(workers: readonly (readonly MetricJson[])[]): MetricJson[] {
    if (this.#retired.size === 0) return [];
    const there = new Set(workers.flat().flatMap(({ name, values }) => (name === endpointsMetric ? values.map(endpointOf) : [])));
    return [...this.#retired.values()].map(({ metric, series }) => ({
      ...metric,
      values: [...series.values()].filter((value) => there.size === 0 || value.labels['endpoint'] === undefined || value.labels['endpoint'] === 'other' || there.has(endpointOf(value))),
    }));
  }
}

/** Has a series for each endpoint that there is. */
const endpointsMetric = 'fairlead_requests_in_flight';

function endpointOf({ labels }: Value): string {
  return `${labels['pool'] ?? ''} ${labels['endpoint'] ?? ''}`;
}

function isCounted(type: string): boolean {
  return type === 'counter' || type === 'histogram';
}

function keyOf({ metricName = '', labels }: Value): string {
  return JSON.stringify([metricName, Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))]);
}
