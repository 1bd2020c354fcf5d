import type { Hash64 } from '../core/hash.ts';
import { groupBytes } from './hash-kernel.ts';
import { addGroups, lanes, stage } from './stage.ts';

/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per byte would cost time */

const noSeed: Hash64 = { high: 0, low: 0 };

/**
 * Chained block hashes of a stream of bytes. A block is taken in groups of eight words of 32 bits (little-endian, the last group padded
 * with zeros), two for each of four lanes: one goes in before the lane is multiplied and rotated, one after. A lane can be followed back
 * step by step, so that a change of any one word always shows; no lane waits for another, and reading the words is most of the work. At a
 * block's end the lanes are mixed, and the next block starts from what they are then. How they are mixed, and the constants, are those of
 * Austin Appleby's MurmurHash3 (public domain; x86_128); the lanes' own step is not.
 *
 * Routers share these hashes: another result for the same bytes is a breaking change.
 */
export class PrefixHasher {
  readonly hashes: number[] = [];
  readonly #blockBytes: number;
  readonly #blocksMax: number;
  #lane1: number;
  #lane2: number;
  #lane3: number;
  #lane4: number;
  /** Bytes of the block in progress; those of them that do not fill a group yet are kept in `rest`. */
  #filled = 0;
  #rest: Uint8Array | undefined;

  /** `seed`: where the first block starts from; routers that share hashes share it, and others cannot tell prompts from them. */
  constructor(blockBytes: number, blocksMax: number, seed: Hash64 = noSeed) {
    this.#blockBytes = blockBytes;
    this.#blocksMax = blocksMax;
    this.#lane1 = seed.high | 0;
    this.#lane2 = seed.low | 0;
    this.#lane3 = ~seed.high;
    this.#lane4 = ~seed.low;
  }

  get isFull(): boolean {
    return this.hashes.length === this.#blocksMax;
  }

  /** Bytes that the last wanted block still needs. */
  get bytesLeft(): number {
    return (this.#blocksMax - this.hashes.length) * this.#blockBytes - this.#filled;
  }

  /**
   * Takes the bytes of [from, to) of the stage; those after the last wanted block are ignored. What stands on the stage just before `from`
   * is overwritten.
   */
  update(from: number, to: number): void {
    const end = Math.min(to, from + this.bytesLeft);
    if (from >= end) return;
    lanes[0] = this.#lane1;
    lanes[1] = this.#lane2;
    lanes[2] = this.#lane3;
    lanes[3] = this.#lane4;
    this.#addStaged(from - this.#stageRest(from), from, end);
    this.#lane1 = lanes[0];
    this.#lane2 = lanes[1];
    this.#lane3 = lanes[2];
    this.#lane4 = lanes[3];
  }

  /** Puts the rest on the stage just before `at`; gives how many bytes it has. */
  #stageRest(at: number): number {
    const bytes = this.#filled % groupBytes;
    const rest = this.#rest;
    if (rest !== undefined) for (let i = 0; i < bytes; i += 1) stage[at - bytes + i] = rest[i]!;
    return bytes;
  }

  /** Takes what is on the stage from `from`, where a group begins, up to `end`; what is before `counted` is counted already. */
  #addStaged(from: number, counted: number, end: number): void {
    let pos = from;
    let filled = this.#filled - (counted - from);
    for (let blockEnd = pos + this.#blockBytes - filled; blockEnd <= end; blockEnd = pos + this.#blockBytes) {
      this.#endBlock(pos, blockEnd);
      pos = blockEnd;
      filled = 0;
    }
    const groupsEnd = end - ((end - pos) % groupBytes);
    if (pos < groupsEnd) addGroups(pos, groupsEnd);
    this.#filled = filled + end - pos;
    if (groupsEnd === end) return;
    const rest = (this.#rest ??= new Uint8Array(groupBytes));
    for (let i = groupsEnd; i < end; i += 1) rest[i - groupsEnd] = stage[i]!;
  }

  /** Takes what is on the stage from `from` up to `to`, where a block ends. */
  #endBlock(from: number, to: number): void {
    const groupsEnd = to - ((to - from) % groupBytes);
    if (from < groupsEnd) addGroups(from, groupsEnd);
    if (groupsEnd < to) addCutGroup(groupsEnd, to);
    let lane1 = lanes[0]! ^ this.#blockBytes;
    let lane2 = lanes[1]! ^ this.#blockBytes;
    let lane3 = lanes[2]! ^ this.#blockBytes;
    let lane4 = lanes[3]! ^ this.#blockBytes;
    lane1 = (lane1 + lane2 + lane3 + lane4) | 0;
    lane2 = avalanche((lane2 + lane1) | 0);
    lane3 = avalanche((lane3 + lane1) | 0);
    lane4 = avalanche((lane4 + lane1) | 0);
    lane1 = (avalanche(lane1) + lane2 + lane3 + lane4) | 0;
    lane2 = (lane2 + lane1) | 0;
    lanes[0] = lane1;
    lanes[1] = lane2;
    lanes[2] = lane3 + lane1;
    lanes[3] = lane4 + lane1;
    // 53 bits: all that a double holds exactly.
    this.hashes.push((lane1 >>> 0) * 0x200000 + (lane2 >>> 11));
  }
}

/** A group that a block's end cut short is padded with zeros, and what the stage holds there comes after it. */
function addCutGroup(from: number, to: number): void {
  const after = new Uint8Array(stage.subarray(to, from + groupBytes));
  stage.fill(0, to, from + groupBytes);
  addGroups(from, from + groupBytes);
  stage.set(after, to);
}

/** MurmurHash3's finalizer of 32 bits. */
function avalanche(lane: number): number {
  let h = lane;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
