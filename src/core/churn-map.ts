/** One entry. What is removed points nowhere, so that nothing young hangs on something old and dead. */
interface Entry<K, V> {
  readonly key: K;
  value: V | undefined;
  /** The next of the same bucket. */
  chain: Entry<K, V> | undefined;
  before: Entry<K, V> | undefined;
  after: Entry<K, V> | undefined;
}

const bucketsFirst = 64;

/**
 * A map for what comes and goes with each request, in order of insertion.
 *
 * JavaScript's `Map` does not suit that: now and then it moves to a new table, and the old one points to the new one for the sake of iterators.
 * Once an old table has grown old in the collector's eyes, everything that was ever put into the tables after it is taken for alive, and
 * copied, until the next full collection. With a few thousand requests a second that was a third of all CPU time.
 */
export class ChurnMap<K extends string | number, V> {
  #buckets = new Array<Entry<K, V> | undefined>(bucketsFirst).fill(undefined);
  #first: Entry<K, V> | undefined;
  #last: Entry<K, V> | undefined;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The value that has been there for longest. */
  get oldest(): V | undefined {
    return this.#first?.value;
  }

  get(key: K): V | undefined {
    return this.#find(key)?.value;
  }

  has(key: K): boolean {
    return this.#find(key) !== undefined;
  }

  /** A key that is there already keeps its place in the order. */
  set(key: K, value: V): void {
    if (this.#size >= this.#buckets.length) this.#grow();
    const at = this.#bucketOf(key);
    const known = this.#findIn(at, key);
    if (known !== undefined) {
      known.value = value;
      return;
    }
    const entry: Entry<K, V> = { key, value, chain: this.#buckets[at], before: this.#last, after: undefined };
    this.#buckets[at] = entry;
    if (this.#last === undefined) this.#first = entry;
    else this.#last.after = entry;
    this.#last = entry;
    this.#size += 1;
  }

  /** Whether it was there. */
  delete(key: K): boolean {
    const { size } = this;
    this.take(key);
    return this.size < size;
  }

  /** Removes what is there and returns it. */
  take(key: K): V | undefined {
    if (this.#size === 0) return undefined;
    const at = this.#bucketOf(key);
    let previous: Entry<K, V> | undefined;
    let entry = this.#buckets[at];
    while (entry !== undefined && entry.key !== key) {
      previous = entry;
      entry = entry.chain;
    }
    if (entry === undefined) return undefined;
    const { value } = entry;
    if (previous === undefined) this.#buckets[at] = entry.chain;
    else previous.chain = entry.chain;
    if (entry.before === undefined) this.#first = entry.after;
    else entry.before.after = entry.after;
    if (entry.after === undefined) this.#last = entry.before;
    else entry.after.before = entry.before;
    entry.chain = undefined;
    entry.before = undefined;
    entry.after = undefined;
    entry.value = undefined;
    this.#size -= 1;
    return value;
  }

  /** Shows one after the other, oldest first, until `visit` returns false. Meanwhile none but the one that is shown may be deleted. */
  visit(visit: (value: V, key: K) => boolean): void {
    let entry = this.#first;
    while (entry !== undefined) {
      const { after, key, value } = entry;
      if (!visit(value as V, key)) return;
      entry = after;
    }
  }

  /** All values, oldest first. */
  values(): V[] {
    const values: V[] = [];
    this.visit((value) => {
      values.push(value);
      return true;
    });
    return values;
  }

  /** Many are asked for who are not there, of a map that holds nothing: no key has to be looked at for that. */
  #find(key: K): Entry<K, V> | undefined {
    return this.#size === 0 ? undefined : this.#findIn(this.#bucketOf(key), key);
  }

  #findIn(bucket: number, key: K): Entry<K, V> | undefined {
    let entry = this.#buckets[bucket];
    while (entry !== undefined && entry.key !== key) entry = entry.chain;
    return entry;
  }

  #grow(): void {
    this.#buckets = new Array<Entry<K, V> | undefined>(2 * this.#buckets.length).fill(undefined);
    for (let entry = this.#first; entry !== undefined; entry = entry.after) {
      const at = this.#bucketOf(entry.key);
      entry.chain = this.#buckets[at];
      this.#buckets[at] = entry;
    }
  }

  /** Leases and stream numbers count up, so their last digits tell them apart best. */
  #bucketOf(key: K): number {
    const mask = this.#buckets.length - 1;
    if (typeof key === 'number') return (key ^ (key >>> 1)) & mask;
    let hash = 0;
    for (let i = Math.max(0, key.length - charsHashed); i < key.length; i += 1) hash = (Math.imul(hash, 10) + charCodeAt.call(key, i)) | 0;
    return (hash ^ (hash >>> 15)) & mask;
  }
}

const charsHashed = 5;
/** Taken once: looked up on each key, where strings of many kinds come along, it is looked up anew for each character. */
// eslint-disable-next-line @typescript-eslint/unbound-method -- called with a key only
const { charCodeAt } = String.prototype;
