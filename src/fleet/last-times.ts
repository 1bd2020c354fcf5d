/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds */

/** Measurements kept. */
export const keptMax = 256;
/** The exponential mean rests on about the last so many. */
const meanOver = 16;
/** Room made at first: of thousands of endpoints many get few requests. */
const roomFirst = 16;
const none = new Float64Array(0);

/**
 * The last times of one kind. Where somebody asks for their tail after every single request, as a policy may, they are kept sorted as they come;
 * where nobody does, as mostly, not.
 */
export class LastTimes {
  // A ring: the oldest is at `#first`, and `#count` of them are there.
  #ms: Float64Array = none;
  #atMs: Float64Array = none;
  #first = 0;
  #count = 0;
  /** Undefined: nobody asked lately. */
  #sorted: number[] | undefined;
  /** Times that came since somebody asked. */
  #unasked = 0;
  #mean = 0;
  /** Since the last time that there were none. */
  #taken = 0;

  get count(): number {
    return this.#count;
  }

  /** When the oldest came; Infinity: there is none. */
  get oldestMs(): number {
    return this.#count === 0 ? Infinity : this.#atMs[this.#first]!;
  }

  /** What is no time is left out. */
  add(ms: number, atMs: number): void {
    if (!(ms >= 0 && ms < Infinity)) return;
    if (this.#count === keptMax) this.#drop();
    if (this.#count === this.#ms.length) this.#grow();
    const at = (this.#first + this.#count) % this.#ms.length;
    this.#ms[at] = ms;
    this.#atMs[at] = atMs;
    this.#count += 1;
    this.#taken += 1;
    this.#mean += (ms - this.#mean) / Math.min(this.#taken, meanOver);
    this.#unasked += 1;
    if (this.#unasked > keptMax) this.#sorted = undefined;
    this.#sorted?.splice(rankOf(this.#sorted, ms), 0, ms);
  }

  /** Forgets what came then or earlier. */
  dropUntil(atMs: number): void {
    while (this.oldestMs <= atMs) this.#drop();
    if (this.#count > 0) return;
    this.#mean = 0;
    this.#taken = 0;
  }

  /** Exponential mean (the first few evenly weighted) and tail by nearest rank; undefined for nothing. */
  get tail(): { readonly mean: number; readonly p95: number; readonly p99: number } | undefined {
    const count = this.#count;
    if (count === 0) return undefined;
    this.#unasked = 0;
    const sorted = (this.#sorted ??= Array.from({ length: count }, (_, i) => this.#ms[(this.#first + i) % this.#ms.length]!).sort((a, b) => a - b));
    const rank = (percent: number): number => sorted[Math.ceil((percent * count) / 100) - 1] ?? this.#mean;
    return { mean: this.#mean, p95: rank(95), p99: rank(99) };
  }

  #grow(): void {
    this.#ms = this.#larger(this.#ms);
    this.#atMs = this.#larger(this.#atMs);
    this.#first = 0;
  }

  /** A full ring in twice the room, from its oldest on. */
  #larger(ring: Float64Array): Float64Array {
    const larger = new Float64Array(Math.min(keptMax, Math.max(roomFirst, 2 * ring.length)));
    larger.set(ring.subarray(this.#first));
    larger.set(ring.subarray(0, this.#first), ring.length - this.#first);
    return larger;
  }

  #drop(): void {
    const oldest = this.#ms[this.#first]!;
    this.#first = (this.#first + 1) % this.#ms.length;
    this.#count -= 1;
    this.#sorted?.splice(rankOf(this.#sorted, oldest), 1);
  }
}

/** Where a time stands, or would, among sorted ones. */
function rankOf(sorted: readonly number[], ms: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! < ms) low = middle + 1;
    else high = middle;
  }
  return low;
}
