import type { Hash64 } from '../core/hash.ts';

/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per byte would cost time */

/**
 * Chained block hashes of a stream of bytes. A block is taken in pairs of words of 32 bits (little-endian, the last pair padded
 * with zeros). Each word is mixed, the words of a pair are mixed into each other, and each goes to one of two lanes, so that any
 * change reaches both lanes, yet neither lane waits for the other. A block starts from the lanes that the block before it ended with.
 * Mixing steps and constants are those of Austin Appleby's MurmurHash3 (public domain; x86_128, lanes 1 and 2); the mixing of a
 * pair is not.
 *
 * Routers share these hashes: another result for the same bytes is a breaking change.
 */
export class PrefixHasher {
  readonly hashes: number[] = [];
  readonly #blockBytes: number;
  readonly #blocksMax: number;
  #lane1 = 0;
  #lane2 = 0;
  /** Bytes of the block in progress, and those of them that do not fill a pair yet. */
  #filled = 0;
  #word1 = 0;
  #word2 = 0;

  /** `seed`: where the first block starts from; routers that share hashes share it, and others cannot tell prompts from them. */
  constructor(blockBytes: number, blocksMax: number, seed: Hash64 = { high: 0, low: 0 }) {
    this.#blockBytes = blockBytes;
    this.#blocksMax = blocksMax;
    this.#lane1 = seed.high | 0;
    this.#lane2 = seed.low | 0;
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
      while (pos < blockEnd && (this.#filled & 7) !== 0) this.#addByte(bytes[pos++]!);
      const pairsEnd = blockEnd - ((blockEnd - pos) & 7);
      if (pos < pairsEnd) this.#addPairs(view, pos, pairsEnd);
      pos = Math.max(pos, pairsEnd);
      while (pos < blockEnd) this.#addByte(bytes[pos++]!);
      if (this.#filled === this.#blockBytes) this.#endBlock();
    }
  }

  #addByte(byte: number): void {
    const bits = byte << ((this.#filled & 3) << 3);
    if ((this.#filled & 4) === 0) this.#word1 |= bits;
    else this.#word2 |= bits;
    this.#filled += 1;
    if ((this.#filled & 7) === 0) this.#addPair();
  }

  #addPair(): void {
    pair.setInt32(0, this.#word1, true);
    pair.setInt32(4, this.#word2, true);
    const filled = this.#filled;
    this.#addPairs(pair, 0, 8);
    this.#filled = filled;
    this.#word1 = 0;
    this.#word2 = 0;
  }

  #addPairs(view: DataView, from: number, to: number): void {
    let lane1 = this.#lane1;
    let lane2 = this.#lane2;
    for (let pos = from; pos < to; pos += 8) {
      let word1 = Math.imul(view.getInt32(pos, true), 0x239b961b);
      let word2 = Math.imul(view.getInt32(pos + 4, true), 0xab0e9789);
      word1 = Math.imul((word1 << 15) | (word1 >>> 17), 0xab0e9789);
      word2 = Math.imul((word2 << 16) | (word2 >>> 16), 0x38b34ae5);
      word2 = (word2 + ((word1 << 13) | (word1 >>> 19))) | 0;
      word1 = (word1 + ((word2 << 17) | (word2 >>> 15))) | 0;
      lane1 ^= word1;
      lane1 = (Math.imul((lane1 << 19) | (lane1 >>> 13), 5) + 0x561ccd1b) | 0;
      lane2 ^= word2;
      lane2 = (Math.imul((lane2 << 17) | (lane2 >>> 15), 5) + 0x0bcaa747) | 0;
    }
    this.#lane1 = lane1;
    this.#lane2 = lane2;
    this.#filled += to - from;
  }

  #endBlock(): void {
    // A pair that the block's end cut short.
    if ((this.#filled & 7) !== 0) this.#addPair();
    let lane1 = this.#lane1 ^ this.#blockBytes;
    let lane2 = this.#lane2 ^ this.#blockBytes;
    lane1 = (lane1 + lane2) | 0;
    lane2 = (lane2 + lane1) | 0;
    lane1 = avalanche(lane1);
    lane2 = avalanche(lane2);
    lane1 = (lane1 + lane2) | 0;
    lane2 = (lane2 + lane1) | 0;
    this.#lane1 = lane1;
    this.#lane2 = lane2;
    this.#filled = 0;
    // 53 bits: all that a double holds exactly.
    this.hashes.push((lane1 >>> 0) * 0x200000 + (lane2 >>> 11));
  }
}

/** Where a pair of words that came in parts is put together. */
const pair = new DataView(new ArrayBuffer(8));

/** MurmurHash3's finalizer of 32 bits. */
function avalanche(lane: number): number {
  let h = lane;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
