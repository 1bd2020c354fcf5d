import { TimedRing } from './timed-ring.ts';

/** Measurements kept. */
export const keptMax = 256;
/** The exponential mean rests on about the last so many. */
const meanOver = 16;

/**
 * The last times of one kind. Where somebody asks for their tail after every single request, as a policy may, they are kept sorted as they come;
 * where nobody does, as mostly, not.
 */
export class LastTimes {
  readonly #times = new TimedRing(keptMax);
  /** Undefined: nobody asked lately. */
  #sorted: number[] | undefined;
  /** Times that came since somebody asked. */
  #unasked = 0;
  #mean = 0;
  /** Since the last time that there were none. */
  #taken = 0;

  get count(): number {
    return this.#times.count;
  }

  /** When the oldest came; Infinity: there is none. */
  get oldestMs(): number {
    return this.#times.oldestMs;
  }

  /** What is no time is left out. */
  add(ms: number, atMs: number): void {
    if (!(ms >= 0 && ms < Infinity)) return;
    if (this.#times.isFull) this.#drop();
    this.#times.add(ms, atMs);
    this.#taken += 1;
    this.#mean += (ms - this.#mean) / Math.min(this.#taken, meanOver);
    this.#unasked += 1;
    if (this.#unasked > keptMax) this.#sorted = undefined;
    this.#sorted?.splice(rankOf(this.#sorted, ms), 0, ms);
  }

  /** Forgets what came then or earlier. */
  dropUntil(atMs: number): void {
    while (this.oldestMs <= atMs) this.#drop();
    if (this.#times.count > 0) return;
    this.#mean = 0;
    this.#taken = 0;
  }

  /** Exponential mean (the first few evenly weighted) and tail by nearest rank; undefined for nothing. */
  get tail(): { readonly mean: number; readonly p95: number; readonly p99: number } | undefined {
    const { count } = this.#times;
    if (count === 0) return undefined;
    this.#unasked = 0;
    const sorted = (this.#sorted ??= Array.from({ length: count }, (_, i) => this.#times.at(i)).sort((a, b) => a - b));
    const rank = (percent: number): number => sorted[Math.ceil((percent * count) / 100) - 1] ?? this.#mean;
    return { mean: this.#mean, p95: rank(95), p99: rank(99) };
  }

  #drop(): void {
    const oldest = this.#times.dropOldest();
    this.#sorted?.splice(rankOf(this.#sorted, oldest), 1);
  }
}

/** Where a time stands, or would, among sorted ones. */
function rankOf(sorted: readonly number[], ms: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- between low and high, and a look at what is missing costs (docs/performance.md)
    if (sorted[middle]! < ms) low = middle + 1;
    else high = middle;
  }
  return low;
}
