interface Entry<E> {
  readonly atMs: number;
  readonly order: number;
  readonly event: E;
}

/** Events by time; those of one time in the order in which they were added, so that a run depends on nothing but its inputs. A binary heap. */
export class EventQueue<E> {
  readonly #heap: Entry<E>[] = [];
  #added = 0;

  get size(): number {
    return this.#heap.length;
  }

  /** Time of the next event; undefined: there is none. */
  get nextMs(): number | undefined {
    return this.#heap[0]?.atMs;
  }

  add(atMs: number, event: E): void {
    if (Number.isNaN(atMs)) throw new RangeError('an event needs a time');
    const heap = this.#heap;
    const entry = { atMs, order: this.#added, event };
    this.#added += 1;
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above];
      if (parent === undefined || !isBefore(entry, parent)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = entry;
  }

  /** Takes the next event out; undefined: there is none. */
  take(): { readonly atMs: number; readonly event: E } | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || first === last) return first;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      let child = heap[below];
      if (child === undefined) break;
      const other = heap[below + 1];
      if (other !== undefined && isBefore(other, child)) {
        below += 1;
        child = other;
      }
      if (!isBefore(child, last)) break;
      heap[at] = child;
      at = below;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore<E>(a: Entry<E>, b: Entry<E>): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
