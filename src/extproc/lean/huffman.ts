// The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).

/** Symbols by the length of their code, in bits. The code is canonical, so this is all of it: codes count up by length, then by symbol. */
const symbolsByLength: Readonly<Record<number, readonly number[]>> = {
  5: fromText('012aceiost'),
  6: fromText(' %-./3456789=A_bdfghlmnpru'),
  7: fromText(':BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz'),
  8: fromText('&*,;XZ'),
  10: fromText('!"()?'),
  11: fromText("'+|"),
  12: fromText('#>'),
  13: fromText('\0$@[]~'),
  14: fromText('^}'),
  15: fromText('<`{'),
  19: [92, 195, 208],
  20: [128, 130, 131, 162, 184, 194, 224, 226],
  21: [153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230],
  22: [129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233],
  23: [1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239],
  24: [9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237],
  25: [199, 207, 234, 235],
  26: [192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255],
  27: [203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254],
  28: [2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249],
  30: [10, 13, 22, 256],
};

const endOfString = 256;

/** Code and length in bits of each symbol. */
export const huffmanCodes: readonly { readonly code: number; readonly bits: number }[] = toCodes();

function toCodes(): { code: number; bits: number }[] {
  const codes: { code: number; bits: number }[] = [];
  let code = 0;
  for (let bits = 1; bits <= 30; bits += 1) {
    code *= 2;
    for (const symbol of symbolsByLength[bits] ?? []) {
      codes[symbol] = { code, bits };
      code += 1;
    }
  }
  return codes;
}

// Decoding goes by steps of four bits. A state is an inner node of the code's tree; no code is shorter than a step, so one gives a symbol at most.
/** Set in a step: it completes a symbol, which is in the lowest eight bits. */
const GIVES = 0x100;
/** Set in a step: it is part of no string. */
const FAILS = 0x200;
/** The next state is above this many bits. */
const STATE_SHIFT = 10;

const steps = new Int32Array(256 * 16);
/** States in which a string may end: after a whole symbol, or within less than eight ones, which are its padding. */
const isEnd = new Uint8Array(256);
fillTables();

function fillTables(): void {
  /** Children of inner nodes: another node, or -1 - symbol. */
  const children: [number, number][] = [[0, 0]];
  for (const [symbol, { code, bits }] of huffmanCodes.entries()) {
    let node = 0;
    for (let bit = bits - 1; bit >= 0; bit -= 1) {
      const side = (code / 2 ** bit) & 1;
      const pair = children[node] as [number, number];
      if (bit === 0) {
        pair[side] = -1 - symbol;
      } else {
        if (pair[side] === 0) pair[side] = children.push([0, 0]) - 1;
        node = pair[side] as number;
      }
    }
  }
  for (let state = 0; state < children.length; state += 1) {
    for (let step = 0; step < 16; step += 1) {
      let node = state;
      let found = 0;
      for (let bit = 3; bit >= 0; bit -= 1) {
        const next = children[node]?.[((step >> bit) & 1) as 0 | 1] as number;
        node = Math.max(next, 0);
        if (next < 0) found = -1 - next === endOfString ? FAILS : GIVES | (-1 - next);
      }
      steps[state * 16 + step] = found | (node << STATE_SHIFT);
    }
  }
  let node = 0;
  for (let ones = 0; ones < 8; ones += 1) {
    isEnd[node] = 1;
    node = children[node]?.[1] as number;
  }
}

let scratch = Buffer.allocUnsafeSlow(4_096);

/** The text, in Latin-1, of the bytes from `start` to `end`; undefined: they are no code, or end with more padding than allowed. */
export function decodeHuffman(bytes: Buffer, start: number, end: number): string | undefined {
  // No code is shorter than five bits.
  const lengthMax = Math.ceil(((end - start) * 8) / 5);
  if (scratch.length < lengthMax) scratch = Buffer.allocUnsafeSlow(2 * lengthMax);
  const text = scratch;
  let length = 0;
  let state = 0;
  for (let at = start; at < end; at += 1) {
    const byte = bytes[at] as number;
    let step = steps[state * 16 + (byte >> 4)] as number;
    if ((step & GIVES) !== 0) text[length++] = step & 0xff;
    if ((step & FAILS) !== 0) return undefined;
    step = steps[(step >> STATE_SHIFT) * 16 + (byte & 15)] as number;
    if ((step & GIVES) !== 0) text[length++] = step & 0xff;
    if ((step & FAILS) !== 0) return undefined;
    state = step >> STATE_SHIFT;
  }
  return isEnd[state] === 1 ? text.toString('latin1', 0, length) : undefined;
}

function fromText(text: string): number[] {
  return [...Buffer.from(text, 'latin1')];
}
