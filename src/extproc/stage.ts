/**
 * Where bodies are looked at: piece by piece they are put into the memory of a WebAssembly kernel, whose functions search and hash what
 * stands there. Wherever a chunk comes from, what is read is always the same memory, which also spares the code in JavaScript from
 * handling many kinds of buffers. Each thread has one, and nothing stays in it from one call of the scanner to the next.
 */
import { addGroupsTo, groupBytes, laneCount } from './hash-kernel.ts';
import { findClosingQuote, findQuoteOrBackslash, measureString, stepBytes } from './string-kernel.ts';
import { createKernel } from './wasm-code.ts';

const lanesAt = 0;
const savedAt = lanesAt + laneCount * 4;
const tableBytes = 256;
const escapesAt = 256;
const hexAt = escapesAt + tableBytes;

/** Where a piece begins; there is room before it for what a hash has left over from the piece before. */
export const stageStart = hexAt + tableBytes + groupBytes;
/** The largest piece: two of the chunks that Envoy sends, and little enough to stay in the nearest cache. */
export const pieceBytesMax = 16_384;
/** After a piece, searches look at bytes that do not count, and a group is padded. */
const marginBytes = Math.max(stepBytes, groupBytes);

const { functions, memory } = createKernel(
  {
    addGroups: addGroupsTo(lanesAt),
    findClosingQuote: findClosingQuote(),
    findQuoteOrBackslash: findQuoteOrBackslash(),
    measureString: measureString({ escapesAt, hexAt }, savedAt),
  },
  1,
);

/** The four lanes of the hash at work. */
export const lanes = new Int32Array(memory, lanesAt, laneCount);
/** How much shorter the decoded text is than what `measureString` last went through. */
export const savedBytes = new Int32Array(memory, savedAt, 1);
/** All the memory there is up to a piece's end: positions within a piece are indices here, from {@link stageStart} on. */
export const stage = Buffer.from(memory, 0, stageStart + pieceBytesMax + marginBytes);

/** By an escape's letter, the byte it stands for; 0: no such escape. `u` is not among them. */
export const escapedByte = new Uint8Array(memory, escapesAt, tableBytes);
for (const [letter, byte] of ['""', '\\\\', '//', 'b\b', 'f\f', 'n\n', 'r\r', 't\t'].map((pair) => Buffer.from(pair))) {
  if (letter !== undefined && byte !== undefined) escapedByte[letter] = byte;
}

/** The value of a hex digit, -1 for any other byte. */
export const hexValue = new Int8Array(memory, hexAt, tableBytes).fill(-1);
for (const digit of Buffer.from('0123456789abcdefABCDEF')) hexValue[digit] = Number.parseInt(String.fromCharCode(digit), 16);

export const { addGroups, findClosingQuote: closingQuoteIn, findQuoteOrBackslash: quoteOrBackslashIn, measureString: measureStringIn } = functions;
