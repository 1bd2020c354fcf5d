/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per probe would cost time */
import { spread } from './block-lru.ts';

const none = -1;

/**
 * Who holds which block: the other way round to a `BlockLru` for each endpoint, so that the endpoints that hold a prompt's blocks are found
 * without asking every one. Endpoints are known by slots, small numbers. Kept in typed arrays: 16 bytes for each place of the table, which
 * is at least two for each block, and 8 for each pair of block and endpoint.
 */
export class BlockHolders {
  /** Open addressing with linear probing; a place is free where nobody holds its block. */
  #blocks = new Float64Array(64);
  #counts = new Int32Array(64);
  /** First link of the chain of holders. */
  #heads = new Int32Array(64);
  #size = 0;
  /** By link: who holds the block, and the next link. */
  #slots = new Int32Array(64);
  #next = new Int32Array(64);
  #links = 0;
  #freeLink = none;

  /** Blocks that anybody holds. */
  get size(): number {
    return this.#size;
  }

  /** How many hold a block. */
  count(block: number): number {
    return this.#counts[this.#find(block)]!;
  }

  /** An endpoint holds a block from now on; it must not have held it before. */
  add(block: number, slot: number): void {
    let at = this.#find(block);
    if (this.#counts[at] === 0) {
      if ((this.#size + 1) * 2 > this.#blocks.length) {
        this.#grow();
        at = this.#find(block);
      }
      this.#blocks[at] = block;
      this.#heads[at] = none;
      this.#size += 1;
    }
    const link = this.#takeLink();
    this.#slots[link] = slot;
    this.#next[link] = this.#heads[at]!;
    this.#heads[at] = link;
    this.#counts[at] = this.#counts[at]! + 1;
  }

  /** An endpoint holds a block no longer. */
  remove(block: number, slot: number): void {
    const at = this.#find(block);
    let before = none;
    let link = this.#counts[at] === 0 ? none : this.#heads[at]!;
    while (link !== none && this.#slots[link] !== slot) {
      before = link;
      link = this.#next[link]!;
    }
    if (link === none) return;
    if (before === none) this.#heads[at] = this.#next[link]!;
    else this.#next[before] = this.#next[link]!;
    this.#next[link] = this.#freeLink;
    this.#freeLink = link;
    this.#counts[at] = this.#counts[at]! - 1;
    if (this.#counts[at] === 0) this.#removeFromTable(at);
  }

  /**
   * For each slot, how many of the leading blocks of a prompt it holds, written into `leading`, which has a 0 for every slot. `holders`: how
   * many endpoints there are, so that of what all of them hold, as they do a system prompt, none need be looked at; slots of none get any number.
   */
  countLeading(blocks: readonly number[], leading: Float64Array, holders: number): void {
    let i = 0;
    while (holders > 0 && i < blocks.length && this.#counts[this.#find(blocks[i]!)] === holders) i += 1;
    if (i > 0) leading.fill(i);
    for (; i < blocks.length; i += 1) {
      const at = this.#find(blocks[i]!);
      if (this.#counts[at] === 0) return;
      let goesOn = false;
      for (let link = this.#heads[at]!; link !== none; link = this.#next[link]!) {
        const slot = this.#slots[link]!;
        if (leading[slot] !== i) continue;
        leading[slot] = i + 1;
        goesOn = true;
      }
      if (!goesOn) return;
    }
  }

  /** Calls for every slot that holds a block. */
  forEach(block: number, call: (slot: number) => void): void {
    const at = this.#find(block);
    if (this.#counts[at] === 0) return;
    for (let link = this.#heads[at]!; link !== none; link = this.#next[link]!) call(this.#slots[link]!);
  }

  /** Where a block is in the table, or the free place where it would go. */
  #find(block: number): number {
    const mask = this.#blocks.length - 1;
    let at = spread(block) & mask;
    while (this.#counts[at] !== 0 && this.#blocks[at] !== block) at = (at + 1) & mask;
    return at;
  }

  /** Leaves no gap in anybody's chain of probes: what came after the gap and may move into it does. */
  #removeFromTable(at: number): void {
    const mask = this.#blocks.length - 1;
    let gap = at;
    for (let next = (gap + 1) & mask; this.#counts[next] !== 0; next = (next + 1) & mask) {
      const wanted = spread(this.#blocks[next]!) & mask;
      // Whether the entry's probing passes the gap before it comes to where it is.
      if (((next - wanted) & mask) < ((next - gap) & mask)) continue;
      this.#move(next, gap);
      gap = next;
    }
    this.#counts[gap] = 0;
    this.#size -= 1;
  }

  #move(from: number, to: number): void {
    this.#blocks[to] = this.#blocks[from]!;
    this.#counts[to] = this.#counts[from]!;
    this.#heads[to] = this.#heads[from]!;
  }

  #takeLink(): number {
    const free = this.#freeLink;
    if (free !== none) {
      this.#freeLink = this.#next[free]!;
      return free;
    }
    if (this.#links === this.#slots.length) {
      this.#slots = doubled(this.#slots);
      this.#next = doubled(this.#next);
    }
    this.#links += 1;
    return this.#links - 1;
  }

  #grow(): void {
    const blocks = this.#blocks;
    const counts = this.#counts;
    const heads = this.#heads;
    this.#blocks = new Float64Array(blocks.length * 2);
    this.#counts = new Int32Array(blocks.length * 2);
    this.#heads = new Int32Array(blocks.length * 2);
    for (let from = 0; from < blocks.length; from += 1) {
      if (counts[from] === 0) continue;
      const to = this.#find(blocks[from]!);
      this.#blocks[to] = blocks[from]!;
      this.#counts[to] = counts[from]!;
      this.#heads[to] = heads[from]!;
    }
  }
}

function doubled(array: Int32Array): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(array.length * 2);
  larger.set(array);
  return larger;
}
