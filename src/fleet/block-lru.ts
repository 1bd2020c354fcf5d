/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per probe would cost time */

const none = -1;

/** Hears what a set of blocks takes in and forgets. */
export interface BlockChanges {
  added(block: number): void;
  removed(block: number): void;
}

/**
 * A set of block hashes that forgets the least recently touched: what an endpoint's prefix cache is believed to hold. Kept in typed
 * arrays, some 24 bytes a block, that grow with use: there is one for each endpoint, and none may eat the memory.
 */
export class BlockLru {
  readonly #blocksMax: number;
  readonly #changes: BlockChanges | undefined;
  #size = 0;
  /** By slot: the block, and its neighbours in order of use. */
  #blocks: Float64Array;
  #newer: Int32Array;
  #older: Int32Array;
  #newest = none;
  #oldest = none;
  /** Open addressing with linear probing: slot + 1, or 0 for nothing. Twice the slots, so that probes stay short. */
  #table: Int32Array;

  /** `changes` is told of each block that comes and goes. */
  constructor(blocksMax: number, changes?: BlockChanges) {
    this.#blocksMax = Math.max(1, blocksMax);
    this.#changes = changes;
    const slots = Math.min(64, this.#blocksMax);
    this.#blocks = new Float64Array(slots);
    this.#newer = new Int32Array(slots);
    this.#older = new Int32Array(slots);
    this.#table = new Int32Array(tableSize(slots));
  }

  get blocksMax(): number {
    return this.#blocksMax;
  }

  /** The same with another bound: of too many, the latest used stay. This one is not to be used any more. */
  resized(blocksMax: number): BlockLru {
    const resized = new BlockLru(blocksMax, this.#changes);
    this.drop();
    for (let slot = this.#oldest; slot !== none; slot = this.#newer[slot]!) resized.touch(this.#blocks[slot]!);
    return resized;
  }

  /** Tells that all blocks are gone. Not to be used any more. */
  drop(): void {
    for (let slot = this.#oldest; slot !== none; slot = this.#newer[slot]!) this.#changes?.removed(this.#blocks[slot]!);
  }

  get size(): number {
    return this.#size;
  }

  has(block: number): boolean {
    return this.#table[this.#find(block)] !== 0;
  }

  /** How many of the leading blocks of a prompt are held. */
  countLeading(blocks: readonly number[]): number {
    let count = 0;
    while (count < blocks.length && this.has(blocks[count]!)) count += 1;
    return count;
  }

  /** Takes in a prompt's blocks as used now. Its tail counts as older than its head, as engines forget tails first. */
  touchAll(blocks: readonly number[]): void {
    for (let i = Math.min(blocks.length, this.#blocksMax) - 1; i >= 0; i -= 1) this.touch(blocks[i]!);
  }

  touch(block: number): void {
    const at = this.#find(block);
    const held = this.#table[at]! - 1;
    if (held !== none) {
      if (held === this.#newest) return;
      this.#unlink(held);
      this.#link(held);
      return;
    }
    if (this.#size === this.#blocks.length && this.#size < this.#blocksMax) {
      this.#grow();
      this.#add(this.#find(block), this.#size, block);
    } else if (this.#size === this.#blocks.length) {
      const slot = this.#oldest;
      this.#unlink(slot);
      this.#removeFromTable(this.#find(this.#blocks[slot]!));
      this.#changes?.removed(this.#blocks[slot]!);
      this.#size -= 1;
      this.#add(this.#find(block), slot, block);
    } else {
      this.#add(at, this.#size, block);
    }
  }

  #add(at: number, slot: number, block: number): void {
    this.#blocks[slot] = block;
    this.#table[at] = slot + 1;
    this.#size += 1;
    this.#link(slot);
    this.#changes?.added(block);
  }

  /** Where a block is in the table, or the free place where it would go. */
  #find(block: number): number {
    const mask = this.#table.length - 1;
    let at = spread(block) & mask;
    for (;;) {
      const slot = this.#table[at]! - 1;
      if (slot === none || this.#blocks[slot] === block) return at;
      at = (at + 1) & mask;
    }
  }

  /** Leaves no gap in anybody's chain of probes: what came after the gap and may move into it does. */
  #removeFromTable(at: number): void {
    const mask = this.#table.length - 1;
    let gap = at;
    for (let next = (gap + 1) & mask; this.#table[next] !== 0; next = (next + 1) & mask) {
      const wanted = spread(this.#blocks[this.#table[next]! - 1]!) & mask;
      // Whether the entry's probing passes the gap before it comes to where it is.
      if (((next - wanted) & mask) < ((next - gap) & mask)) continue;
      this.#table[gap] = this.#table[next]!;
      gap = next;
    }
    this.#table[gap] = 0;
  }

  #link(slot: number): void {
    this.#older[slot] = this.#newest;
    this.#newer[slot] = none;
    if (this.#newest === none) this.#oldest = slot;
    else this.#newer[this.#newest] = slot;
    this.#newest = slot;
  }

  #unlink(slot: number): void {
    const newer = this.#newer[slot]!;
    const older = this.#older[slot]!;
    if (newer === none) this.#newest = older;
    else this.#older[newer] = older;
    if (older === none) this.#oldest = newer;
    else this.#newer[older] = newer;
  }

  #grow(): void {
    const slots = Math.min(this.#blocks.length * 2, this.#blocksMax);
    const blocks = new Float64Array(slots);
    blocks.set(this.#blocks);
    this.#blocks = blocks;
    this.#newer = grown(this.#newer, slots);
    this.#older = grown(this.#older, slots);
    this.#table = new Int32Array(tableSize(slots));
    for (let slot = 0; slot < this.#size; slot += 1) this.#table[this.#find(blocks[slot]!)] = slot + 1;
  }
}

function tableSize(slots: number): number {
  return 2 ** Math.ceil(Math.log2(slots * 2));
}

function grown(array: Int32Array, length: number): Int32Array {
  const larger = new Int32Array(length);
  larger.set(array);
  return larger;
}

/** Spreads a block's hash over 32 bits; hashes from traces are small numbers in a row. */
export function spread(block: number): number {
  const low = block | 0;
  const high = Math.floor(block / 0x100000000) | 0;
  const mixed = Math.imul(low ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}
