/** Bytes of text that count as one token: the usual rule of thumb for English. */
export const tokenBytes = 4;

/** A hash of all bytes (32 bits), the same on every machine. */
export function textHash(bytes: Uint8Array): number {
  let hash = 0x2545f491;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * Hashes of the whole blocks of a text, each chained over everything before it: two texts have the hashes in common of the blocks
 * they begin with alike. 53 bits, so that they are exact numbers; good against accident, not against malice. `blockBytes` must be a
 * multiple of 4.
 */
export function chainedBlockHashes(bytes: Uint8Array, blockBytes: number): number[] {
  const hashes: number[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let a = 0x243f6a88;
  let b = 0x13198a2e;
  for (let end = blockBytes; end <= bytes.length; end += blockBytes) {
    for (let at = end - blockBytes; at < end; at += 4) {
      const word = view.getInt32(at, true);
      // Both steps are bijections of the state for a given word: once two texts differ their states stay apart, but for chance.
      a = Math.imul(a ^ word, 0x9e3779b1);
      a ^= a >>> 15;
      b = Math.imul((b << 13) | (b >>> 19), 0x85ebca77) + a;
      b ^= b >>> 13;
    }
    hashes.push((a >>> 0) * 2 ** 21 + (b >>> 11));
  }
  return hashes;
}
