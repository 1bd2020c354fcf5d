import type { Metric, Registry } from 'prom-client';

/** A number that only grows. The request path adds to it; a scrape reads it. */
export interface Tally {
  value: number;
}

/** Labels of one series: only what the configuration or the code names. */
type Labels<L extends string> = Readonly<Record<L, string>>;

interface MetricDefinition {
  readonly name: string;
  readonly help: string;
}

/** One line of a metric. `metricName` where it differs from the metric's. */
interface Sample {
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

/**
 * A metric that is counted in plain numbers and hands them to prom-client's registry on a scrape. prom-client's own counters
 * and histograms build a string out of the labels on every call, even through `labels()`, and the request path has better
 * things to do.
 */
abstract class TalliedMetric {
  readonly name: string;
  readonly help: string;
  readonly #type: 'counter' | 'histogram';

  constructor(registry: Registry, type: 'counter' | 'histogram', { name, help }: MetricDefinition) {
    this.name = name;
    this.help = help;
    this.#type = type;
    // The registry asks nothing of a metric but its name and `get`, whatever its type says.
    registry.registerMetric(this as unknown as Metric);
  }

  protected abstract samples(): Sample[];

  /** Takes away all series that have these labels, among others. */
  abstract drop(labels: Readonly<Record<string, string>>): void;

  /** What the registry writes out. */
  get(): Promise<MetricDefinition & { type: string; aggregator: 'sum'; values: readonly Sample[] }> {
    const { name, help } = this;
    return Promise.resolve({ name, help, type: this.#type, aggregator: 'sum', values: this.samples() });
  }
}

function hasAll(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>>): boolean {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value);
}

/** A counter: its series only grow. */
export class TalliedCounter<L extends string = never> extends TalliedMetric {
  #children: { readonly labels: Labels<L>; readonly tally: Tally }[] = [];

  constructor(registry: Registry, definition: MetricDefinition) {
    super(registry, 'counter', definition);
  }

  /** A new series. To be made once and kept by the caller. */
  child(labels: Labels<L>): Tally {
    const tally = { value: 0 };
    this.#children.push({ labels, tally });
    return tally;
  }

  override drop(labels: Readonly<Record<string, string>>): void {
    this.#children = this.#children.filter((child) => !hasAll(child.labels, labels));
  }

  protected override samples(): Sample[] {
    return this.#children.map(({ labels, tally }) => ({ labels, value: tally.value }));
  }
}

/** What was observed of one series of a histogram. */
export class Observations {
  readonly #bounds: readonly number[];
  /** One per bound, and a last one for what exceeds them all. Not yet summed up. */
  readonly counts: number[];
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.counts = new Array<number>(bounds.length + 1).fill(0);
  }

  /** Takes one value in; what is not a finite number of at least 0 is left out. */
  observe(value: number): void {
    if (!(value >= 0 && value < Infinity)) return;
    let at = 0;
    for (const bound of this.#bounds) {
      if (value <= bound) break;
      at += 1;
    }
    this.counts[at] = (this.counts[at] ?? 0) + 1;
    this.sum += value;
  }
}

/** A histogram with the given upper bounds of its buckets, rising. */
export class TalliedHistogram<L extends string> extends TalliedMetric {
  readonly #bounds: readonly number[];
  #children: { readonly labels: Labels<L>; readonly observations: Observations }[] = [];

  constructor(registry: Registry, definition: MetricDefinition, bounds: readonly number[]) {
    super(registry, 'histogram', definition);
    this.#bounds = bounds;
  }

  /** A new series. To be made once and kept by the caller. */
  child(labels: Labels<L>): Observations {
    const observations = new Observations(this.#bounds);
    this.#children.push({ labels, observations });
    return observations;
  }

  override drop(labels: Readonly<Record<string, string>>): void {
    this.#children = this.#children.filter((child) => !hasAll(child.labels, labels));
  }

  protected override samples(): Sample[] {
    return this.#children.flatMap(({ labels, observations }) => {
      let count = 0;
      const buckets = observations.counts.map((inBucket, i) => {
        count += inBucket;
        return { metricName: `${this.name}_bucket`, labels: { ...labels, le: this.#bounds[i] ?? '+Inf' }, value: count };
      });
      return [
        ...buckets,
        { metricName: `${this.name}_sum`, labels, value: observations.sum },
        { metricName: `${this.name}_count`, labels, value: count },
      ];
    });
  }
}

/**
 * Series by the value of one label. The names given first get one each when first used; of all other values only
 * `othersMax` do, and of all together `max`; the rest share one named `other`, so that no input can make the number of series grow.
 */
export class Series<T> {
  readonly #make: (value: string) => T;
  #known: ReadonlySet<string>;
  readonly #byValue = new Map<string, T>();
  #othersLeft: number;
  readonly #max: number;

  constructor(make: (value: string) => T, known: Iterable<string>, othersMax = 0, max = Infinity) {
    this.#make = make;
    this.#known = new Set(known);
    this.#othersLeft = othersMax;
    this.#max = max;
  }

  of(value: string): T {
    return this.#byValue.get(value) ?? this.#admit(value);
  }

  /** Those there are, by value. */
  entries(): IterableIterator<[string, T]> {
    return this.#byValue.entries();
  }

  /** Makes the series of all known values, so that they are there at 0 before anything happened. */
  makeKnown(): this {
    for (const value of this.#known) this.of(value);
    return this;
  }

  /** These are the known values from now on. Returns those that had a series and have none any more; theirs are to be dropped. */
  renew(known: Iterable<string>): string[] {
    const before = this.#known;
    this.#known = new Set(known);
    const gone = [...before].filter((value) => !this.#known.has(value) && this.#byValue.has(value));
    for (const value of gone) this.#byValue.delete(value);
    return gone;
  }

  #admit(value: string): T {
    if (value !== 'other') {
      if (this.#byValue.size >= this.#max) return this.of('other');
      if (!this.#known.has(value)) {
        if (this.#othersLeft === 0) return this.of('other');
        this.#othersLeft -= 1;
      }
    }
    const made = this.#make(value);
    this.#byValue.set(value, made);
    return made;
  }
}
