import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chainedBlockHashes, textHash } from './block-hashes.ts';

describe('chainedBlockHashes', () => {
  it('has one safe integer per whole block', () => {
    const hashes = chainedBlockHashes(Buffer.alloc(64 * 3 + 63, 'x'), 64);
    expect(hashes).toHaveLength(3);
    expect(hashes.every(Number.isSafeInteger)).toBe(true);
    expect(new Set(hashes).size).toBe(3);
  });

  it('agrees exactly on the blocks two texts begin with alike', () => {
    const bytes = fc.uint8Array({ maxLength: 400 });
    fc.assert(
      fc.property(bytes, bytes, bytes, (prefix, a, b) => {
        const one = Buffer.concat([prefix, a]);
        const other = Buffer.concat([prefix, b]);
        let alike = 0;
        while (alike < Math.min(one.length, other.length) && one[alike] === other[alike]) alike += 1;
        const hashesOfOne = chainedBlockHashes(one, 16);
        const hashesOfOther = chainedBlockHashes(other, 16);
        for (let index = 0; index < Math.min(hashesOfOne.length, hashesOfOther.length); index += 1) {
          expect(hashesOfOne[index] === hashesOfOther[index]).toBe((index + 1) * 16 <= alike);
        }
      }),
    );
  });

  it('does not depend on where the bytes lie in memory', () => {
    const memory = Buffer.from(`_${'abcdefgh'.repeat(8)}`);
    expect(chainedBlockHashes(memory.subarray(1), 16)).toEqual(chainedBlockHashes(Buffer.from('abcdefgh'.repeat(8)), 16));
  });
});

describe('textHash', () => {
  it('is the same for the same text only', () => {
    expect(textHash(Buffer.from('one'))).toBe(textHash(Buffer.from('one')));
    expect(textHash(Buffer.from('one'))).not.toBe(textHash(Buffer.from('two')));
    expect(textHash(Buffer.from('one'))).toBeGreaterThanOrEqual(0);
  });
});
