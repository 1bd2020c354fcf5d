import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Hash64 } from '../core/hash.ts';
import { PrefixHasher } from './prefix-hasher.ts';
import { pieceBytesMax, stage, stageStart } from './stage.ts';

const factors = [0x239b961b, 0xab0e9789, 0x38b34ae5, 0xa1e38b93];
const rotations = [15, 16, 17, 18];

const rotate = (word: number, bits: number): number => (word << bits) | (word >>> (32 - bits));
const avalanche = (word: number): number => {
  let h = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
};

/** Has a hasher take bytes as the scanner does. `offset`: how far into the stage. */
function take(hasher: PrefixHasher, bytes: Buffer, offset = 0): void {
  stage.fill(0xa5, stageStart);
  stage.set(bytes, stageStart + offset);
  hasher.update(stageStart + offset, stageStart + offset + bytes.length);
}

/** The hash as its description has it, a block at a time and without haste. */
function hashBlocks(bytes: Buffer, blockBytes: number, blocksMax: number, { high, low }: Hash64): number[] {
  const hashes: number[] = [];
  let lanes = [high, low, ~high, ~low];
  for (let from = 0; from + blockBytes <= bytes.length && hashes.length < blocksMax; from += blockBytes) {
    const padded = Buffer.alloc(Math.ceil(blockBytes / 32) * 32);
    bytes.copy(padded, 0, from, from + blockBytes);
    for (let at = 0; at < padded.length; at += 32) {
      lanes = lanes.map((lane, i) => {
        const mixed = Math.imul(lane ^ padded.readInt32LE(at + 8 * i), factors[i] ?? 0);
        return (rotate(mixed, rotations[i] ?? 0) + padded.readInt32LE(at + 8 * i + 4)) | 0;
      });
    }
    const [a = 0, b = 0, c = 0, d = 0] = lanes.map((lane) => lane ^ blockBytes);
    const sum = (a + b + c + d) | 0;
    const rest = [b, c, d].map((lane) => avalanche((lane + sum) | 0));
    const first = rest.reduce((total, lane) => (total + lane) | 0, avalanche(sum));
    lanes = [first, ...rest.map((lane) => (lane + first) | 0)];
    hashes.push((first >>> 0) * 0x200000 + ((lanes[1] ?? 0) >>> 11));
  }
  return hashes;
}

describe('PrefixHasher', () => {
  it('gives what routers of other versions give', () => {
    const hasher = new PrefixHasher(100, 3, { high: 0xdeadbeef, low: 0x12345678 });
    const bytes = Buffer.from(Array.from({ length: 300 }, (_, i) => (i * 7) & 0xff));
    take(hasher, bytes);
    expect(hasher.hashes).toEqual([8031684466887692, 1817363545823660, 4083730385666358]);
  });

  it('hashes as described, however the bytes are cut and wherever they stand on the stage', () => {
    const bytes = fc.oneof({ weight: 4, arbitrary: fc.uint8Array({ maxLength: 400 }) }, { weight: 1, arbitrary: fc.uint8Array({ minLength: 30_000, maxLength: 70_000, size: 'max' }) });
    const word = fc.integer({ min: 0, max: 0xffffffff });
    fc.assert(
      fc.property(
        fc.record({
          bytes,
          blockBytes: fc.oneof(fc.constantFrom(1, 31, 32, 33, 64, 2_048, 20_000), fc.integer({ min: 1, max: 300 })),
          blocksMax: fc.integer({ min: 1, max: 400 }),
          seed: fc.record({ high: word, low: word }),
          offset: fc.integer({ min: 0, max: pieceBytesMax }),
          steps: fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: pieceBytesMax })), { minLength: 1, maxLength: 5 }),
        }),
        ({ bytes: drawn, blockBytes, blocksMax, seed, offset, steps }) => {
          const body = Buffer.from(drawn);
          const hasher = new PrefixHasher(blockBytes, blocksMax, seed);
          // Another one is at work in between, as another request's body may be.
          const other = new PrefixHasher(7, 1_000);
          for (let from = 0, i = 0; from < body.length; i += 1) {
            const step = Math.min(body.length - from, steps[i % steps.length] ?? 1);
            const to = from + step;
            take(hasher, body.subarray(from, to), Math.min(offset, pieceBytesMax - step));
            take(other, body.subarray(0, 10));
            from = to;
          }
          const expected = hashBlocks(body, blockBytes, blocksMax, seed);
          expect(hasher.hashes).toEqual(expected);
          expect(hasher.isFull).toBe(expected.length === blocksMax);
          expect(hasher.bytesLeft).toBe(Math.max(0, blocksMax * blockBytes - body.length));
        },
      ),
    );
  });
});
