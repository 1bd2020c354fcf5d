import type { Hash64 } from '../core/hash.ts';

/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per byte would cost time */

/** Bytes taken in one step: two words of 32 bits for each lane. */
const groupBytes = 32;

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
  #rest: DataView | undefined;

  /** `seed`: where the first block starts from; routers that share hashes share it, and others cannot tell prompts from them. */
  constructor(blockBytes: number, blocksMax: number, seed: Hash64 = { high: 0, low: 0 }) {
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

  /** Takes the bytes of [from, to); those after the last wanted block are ignored. `view` shows the same bytes. */
  update(bytes: Buffer, view: DataView, from: number, to: number): void {
    const end = Math.min(to, from + this.bytesLeft);
    let pos = from;
    while (pos < end) {
      const blockEnd = Math.min(end, pos + this.#blockBytes - this.#filled);
      while (pos < blockEnd && this.#filled % groupBytes !== 0) this.#addByte(bytes[pos++]!);
      const groupsEnd = blockEnd - ((blockEnd - pos) % groupBytes);
      if (pos < groupsEnd) {
        this.#addGroups(view, pos, groupsEnd);
        this.#filled += groupsEnd - pos;
        pos = groupsEnd;
      }
      while (pos < blockEnd) this.#addByte(bytes[pos++]!);
      if (this.#filled === this.#blockBytes) this.#endBlock();
    }
  }

  #addByte(byte: number): void {
    const rest = (this.#rest ??= new DataView(new ArrayBuffer(groupBytes)));
    rest.setUint8(this.#filled % groupBytes, byte);
    this.#filled += 1;
    if (this.#filled % groupBytes === 0) this.#addGroups(rest, 0, groupBytes);
  }

  #addGroups(view: DataView, from: number, to: number): void {
    let lane1 = this.#lane1;
    let lane2 = this.#lane2;
    let lane3 = this.#lane3;
    let lane4 = this.#lane4;
    for (let pos = from; pos < to; pos += groupBytes) {
      lane1 = Math.imul(lane1 ^ view.getInt32(pos, true), 0x239b961b);
      lane1 = (((lane1 << 15) | (lane1 >>> 17)) + view.getInt32(pos + 4, true)) | 0;
      lane2 = Math.imul(lane2 ^ view.getInt32(pos + 8, true), 0xab0e9789);
      lane2 = (((lane2 << 16) | (lane2 >>> 16)) + view.getInt32(pos + 12, true)) | 0;
      lane3 = Math.imul(lane3 ^ view.getInt32(pos + 16, true), 0x38b34ae5);
      lane3 = (((lane3 << 17) | (lane3 >>> 15)) + view.getInt32(pos + 20, true)) | 0;
      lane4 = Math.imul(lane4 ^ view.getInt32(pos + 24, true), 0xa1e38b93);
      lane4 = (((lane4 << 18) | (lane4 >>> 14)) + view.getInt32(pos + 28, true)) | 0;
    }
    this.#lane1 = lane1;
    this.#lane2 = lane2;
    this.#lane3 = lane3;
    this.#lane4 = lane4;
  }

  #endBlock(): void {
    // A group that the block's end cut short.
    const cut = this.#filled % groupBytes;
    const rest = this.#rest;
    if (cut !== 0 && rest !== undefined) {
      for (let at = cut; at < groupBytes; at += 1) rest.setUint8(at, 0);
      this.#addGroups(rest, 0, groupBytes);
    }
    let lane1 = this.#lane1 ^ this.#blockBytes;
    let lane2 = this.#lane2 ^ this.#blockBytes;
    let lane3 = this.#lane3 ^ this.#blockBytes;
    let lane4 = this.#lane4 ^ this.#blockBytes;
    lane1 = (lane1 + lane2 + lane3 + lane4) | 0;
    lane2 = avalanche((lane2 + lane1) | 0);
    lane3 = avalanche((lane3 + lane1) | 0);
    lane4 = avalanche((lane4 + lane1) | 0);
    lane1 = (avalanche(lane1) + lane2 + lane3 + lane4) | 0;
    lane2 = (lane2 + lane1) | 0;
    lane3 = (lane3 + lane1) | 0;
    lane4 = (lane4 + lane1) | 0;
    this.#lane1 = lane1;
    this.#lane2 = lane2;
    this.#lane3 = lane3;
    this.#lane4 = lane4;
    this.#filled = 0;
    // 53 bits: all that a double holds exactly.
    this.hashes.push((lane1 >>> 0) * 0x200000 + (lane2 >>> 11));
  }
}

/** MurmurHash3's finalizer of 32 bits. */
function avalanche(lane: number): number {
  let h = lane;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
