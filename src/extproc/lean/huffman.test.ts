import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeHuffman, huffmanCodes } from './huffman.ts';

/** Encodes bit by bit, padding with ones (RFC 7541, section 5.2). */
function encode(bytes: Uint8Array): Buffer {
  let bits = '';
  for (const byte of bytes) {
    const { code, bits: length } = huffmanCodes[byte]!;
    bits += code.toString(2).padStart(length, '0');
  }
  return toBytes(bits.padEnd(Math.ceil(bits.length / 8) * 8, '1'));
}

function toBytes(bits: string): Buffer {
  return Buffer.from((bits.match(/.{8}/g) ?? []).map((byte) => parseInt(byte, 2)));
}

describe('the Huffman code', () => {
  it('is complete: each of 257 symbols has its code, and no bits are left over', () => {
    expect(huffmanCodes).toHaveLength(257);
    expect(huffmanCodes.reduce((sum, { bits }) => sum + 2 ** (30 - bits), 0)).toBe(2 ** 30);
    // Codes that appendix B names, from all lengths.
    for (const [symbol, code, bits] of [
      [0x30, 0x0, 5],
      [0x20, 0x14, 6],
      [0x7a, 0x7b, 7],
      [0x5a, 0xfd, 8],
      [0x7c, 0x7fc, 11],
      [0x7e, 0x1ffd, 13],
      [0x7b, 0x7ffe, 15],
      [0x5c, 0x7fff0, 19],
      [0, 0x1ff8, 13],
      [255, 0x3ffffee, 26],
      [249, 0xffffffe, 28],
      [256, 0x3fffffff, 30],
    ] as const) {
      expect(huffmanCodes[symbol], String(symbol)).toEqual({ code, bits });
    }
  });

  it('gives back what was encoded', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        const encoded = encode(bytes);
        expect(decodeHuffman(Buffer.concat([Buffer.from('ab'), encoded, Buffer.from('c')]), 2, 2 + encoded.length)).toBe(Buffer.from(bytes).toString('latin1'));
      }),
    );
  });

  it.each([
    ['the end of strings within one', '1'.repeat(32)],
    ['eight bits of padding', `00000${'1'.repeat(11)}`],
    ['padding of zeros', '00000000'],
    ['half of a code', '11111110'],
  ])('does not take %s', (what, bits) => {
    expect(decodeHuffman(toBytes(bits), 0, bits.length / 8), what).toBeUndefined();
  });

  it('takes less than eight bits of padding', () => {
    expect(decodeHuffman(toBytes('00000111'), 0, 1)).toBe('0');
    expect(decodeHuffman(Buffer.alloc(0), 0, 0)).toBe('');
  });
});
