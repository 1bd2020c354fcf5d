/** Names the content of a whole block and of everything before it (a chained hash). A safe integer. */
export type BlockHash = number;

const NONE = -1;

/**
 * The KV memory of one engine: a fixed number of blocks, shared between sequences by reference count. A block that holds a known
 * prefix keeps its name when the last sequence lets go of it, and can be taken up again until its memory is needed; the one
 * released longest ago is evicted first. Every operation is O(1); `match` is linear in the length of its answer.
 */
export class BlockCache {
  readonly blocks: number;
  readonly #references: Int32Array;
  /** Hash per block; undefined for a block without a name. */
  readonly #hashOf: (BlockHash | undefined)[];
  readonly #blockOf = new Map<BlockHash, number>();
  /** Blocks without content, used as a stack. */
  readonly #empty: number[];
  // Named blocks that nobody holds, oldest release first: an intrusive list over block numbers.
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  #oldest = NONE;
  #newest = NONE;
  #evictableCount = 0;
  #evictions = 0;

  constructor(blocks: number) {
    this.blocks = blocks;
    this.#references = new Int32Array(blocks);
    this.#hashOf = new Array<BlockHash | undefined>(blocks).fill(undefined);
    this.#older = new Int32Array(blocks).fill(NONE);
    this.#newer = new Int32Array(blocks).fill(NONE);
    // Filled backwards so that the stack hands out block 0 first.
    this.#empty = Array.from({ length: blocks }, (_, index) => blocks - 1 - index);
  }

  /** Blocks held by at least one sequence. */
  get held(): number {
    return this.blocks - this.available;
  }

  /** Blocks that `allocate` could hand out: empty ones, and cached ones that nobody holds. */
  get available(): number {
    return this.#empty.length + this.#evictableCount;
  }

  /** Blocks whose content can be found by its hash. */
  get cached(): number {
    return this.#blockOf.size;
  }

  /** Cached blocks given up so far to make room. */
  get evictions(): number {
    return this.#evictions;
  }

  /** The block cached under a hash, or undefined. */
  find(hash: BlockHash): number | undefined {
    return this.#blockOf.get(hash);
  }

  /** Whether nobody holds the block, so that taking it up makes one block fewer available. */
  isIdle(block: number): boolean {
    return this.#references[block] === 0;
  }

  /** Takes a reference to a cached block. */
  hold(block: number): void {
    if (this.#references[block] === 0) this.#unlink(block);
    this.#references[block] = (this.#references[block] ?? 0) + 1;
  }

  /** Hands out a block with one reference and no name: an empty one, else the evictable one released longest ago; undefined if all are held. */
  allocate(): number | undefined {
    const block = this.#empty.pop() ?? this.#evict();
    if (block !== undefined) this.#references[block] = 1;
    return block;
  }

  /** Names a held block's content. Where another block already has that name this one stays unnamed: one copy is enough. */
  name(block: number, hash: BlockHash): void {
    if (this.#hashOf[block] !== undefined || this.#blockOf.has(hash)) return;
    this.#hashOf[block] = hash;
    this.#blockOf.set(hash, block);
  }

  /** Gives up one reference. The last one makes a named block evictable, as the newest, and an unnamed one empty. */
  release(block: number): void {
    const references = (this.#references[block] ?? 0) - 1;
    if (references < 0) throw new Error(`block ${block} released more often than held`);
    this.#references[block] = references;
    if (references > 0) return;
    if (this.#hashOf[block] === undefined) {
      this.#empty.push(block);
      return;
    }
    this.#older[block] = this.#newest;
    this.#newer[block] = NONE;
    if (this.#newest === NONE) this.#oldest = block;
    else this.#newer[this.#newest] = block;
    this.#newest = block;
    this.#evictableCount += 1;
  }

  #evict(): number | undefined {
    const block = this.#oldest;
    if (block === NONE) return undefined;
    this.#unlink(block);
    const hash = this.#hashOf[block];
    if (hash !== undefined) this.#blockOf.delete(hash);
    this.#hashOf[block] = undefined;
    this.#evictions += 1;
    return block;
  }

  #unlink(block: number): void {
    const older = this.#older[block] ?? NONE;
    const newer = this.#newer[block] ?? NONE;
    if (older === NONE) this.#oldest = newer;
    else this.#newer[older] = newer;
    if (newer === NONE) this.#newest = older;
    else this.#older[newer] = older;
    this.#evictableCount -= 1;
  }
}
