import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { closingQuoteIn, measureStringIn, quoteOrBackslashIn, savedBytes, stage, stageStart } from './stage.ts';

/** Content of a string in JSON, sound or not: plain stretches around the lengths of the kernel's steps, between what it stops at or counts. */
const plain = fc.integer({ min: 0, max: 150 }).map((length) => 'a'.repeat(length));
const special = fc.constantFrom('"', '\\"', '\\\\', '\\n', '\\u0041', '\\u00e9', '\\u4e2d', '\\ud83d\\ude00', '\\ud83d', '\\u12g4', '\\x', '\\', '中', '"\\');
const content = fc.array(fc.oneof({ weight: 2, arbitrary: special }, plain), { maxLength: 12 }).map((parts) => Buffer.from(parts.join('')));
/** Where the content stands, and what comes after its end, which must not matter. */
const place = fc.record({ offset: fc.integer({ min: 0, max: 40 }), after: fc.constantFrom('"', '\\', 'a') });

function put(bytes: Buffer, { offset, after }: { offset: number; after: string }): { from: number; to: number } {
  const from = stageStart + offset;
  const to = from + bytes.length;
  stage.fill(after, stageStart, to + 64);
  bytes.copy(stage, from);
  return { from, to };
}

const indexOrEnd = (text: string, found: RegExp): number => {
  const at = text.search(found);
  return at === -1 ? text.length : at;
};

describe('searches on the stage', () => {
  it('find the next quote or backslash', () => {
    fc.assert(
      fc.property(content, place, (bytes, where) => {
        const { from, to } = put(bytes, where);
        expect(quoteOrBackslashIn(from, to) - from).toBe(indexOrEnd(bytes.toString('latin1'), /["\\]/));
      }),
    );
  });

  it('find the closing quote', () => {
    fc.assert(
      fc.property(content, place, (bytes, where) => {
        const { from, to } = put(bytes, where);
        const escapedOrNot = /^(?:[^"\\]|\\[^])*/.exec(bytes.toString('latin1'))?.[0].length ?? 0;
        // A backslash at the end escapes what has not come yet.
        const expected = bytes[escapedOrNot] === 0x22 ? escapedOrNot : bytes.length;
        expect(closingQuoteIn(from, to) - from).toBe(expected);
      }),
    );
  });

  it('measure text up to what they leave to the scanner', () => {
    const counted = /^(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*/;
    fc.assert(
      fc.property(content, place, (bytes, where) => {
        const { from, to } = put(bytes, where);
        const written = counted.exec(bytes.toString('latin1'))?.[0] ?? '';
        expect(measureStringIn(from, to) - from).toBe(written.length);
        const text = JSON.parse(`"${bytes.toString('utf8', 0, written.length)}"`) as string;
        expect(written.length - (savedBytes[0] ?? NaN)).toBe(Buffer.byteLength(text));
      }),
    );
  });
});
