/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds */

/** Room made at first: of thousands of endpoints many get few requests. */
const roomFirst = 16;
const none = new Float64Array(0);

/**
 * The last numbers of one kind and when each came, oldest first. They lie in columns that are written over: a list of objects would leave one
 * behind for every request, and by the time it goes it has grown old, where collecting it is dear.
 */
export class TimedRing {
  readonly #max: number;
  // The oldest is at `#first`, and `#count` of them are there.
  #values: Float64Array = none;
  #atMs: Float64Array = none;
  #first = 0;
  #count = 0;

  /** `max`: kept at most, at least 1. */
  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#count;
  }

  /** Whether the next one takes the oldest's place. */
  get isFull(): boolean {
    return this.#count === this.#max;
  }

  /** When the oldest came; Infinity: there is none. */
  get oldestMs(): number {
    return this.#count === 0 ? Infinity : this.#atMs[this.#first]!;
  }

  /** The oldest is at 0, the newest at `count - 1`. */
  at(index: number): number {
    return this.#values[(this.#first + index) % this.#values.length]!;
  }

  /** There has to be room: `dropOldest` makes some. */
  add(value: number, atMs: number): void {
    if (this.isFull) throw new RangeError(`${this.#max} are kept at most`);
    if (this.#count === this.#values.length) this.#grow();
    const at = (this.#first + this.#count) % this.#values.length;
    this.#values[at] = value;
    this.#atMs[at] = atMs;
    this.#count += 1;
  }

  /** Takes the oldest out and returns it; there has to be one. */
  dropOldest(): number {
    if (this.#count === 0) throw new RangeError('there is none');
    const oldest = this.#values[this.#first]!;
    this.#first = (this.#first + 1) % this.#values.length;
    this.#count -= 1;
    return oldest;
  }

  #grow(): void {
    this.#values = this.#larger(this.#values);
    this.#atMs = this.#larger(this.#atMs);
    this.#first = 0;
  }

  /** A full column in twice the room, from its oldest on. */
  #larger(column: Float64Array): Float64Array {
    const larger = new Float64Array(Math.min(this.#max, Math.max(roomFirst, 2 * column.length)));
    larger.set(column.subarray(this.#first));
    larger.set(column.subarray(0, this.#first), column.length - this.#first);
    return larger;
  }
}
