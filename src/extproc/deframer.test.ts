import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Deframer } from './deframer.ts';

function toFrame(message: Buffer, flag = 0, length = message.length): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = flag;
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, message]);
}

function readAll(deframer: Deframer, chunks: readonly Buffer[]): Buffer[] {
  const messages: Buffer[] = [];
  for (const chunk of chunks) {
    deframer.push(chunk);
    for (let message = deframer.next(); message !== undefined; message = deframer.next()) messages.push(Buffer.from(message));
  }
  return messages;
}

describe('messages', () => {
  it('come out as they went in, however the bytes are cut', () => {
    const message = fc.oneof({ weight: 5, arbitrary: fc.uint8Array({ maxLength: 30 }) }, { weight: 1, arbitrary: fc.constantFrom(300_000, 1_000_000).map((length) => new Uint8Array(length).fill(7)) });
    fc.assert(
      fc.property(fc.array(message, { maxLength: 5 }), fc.array(fc.nat(), { maxLength: 12 }), (written, cuts) => {
        const messages = written.map((array) => Buffer.from(array));
        const bytes = Buffer.concat(messages.map((one) => toFrame(one)));
        const ends = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
        const chunks = [...ends, bytes.length].map((end, i) => bytes.subarray(ends[i - 1] ?? 0, end));
        const deframer = new Deframer(1_000_000);
        const read = readAll(deframer, chunks);
        expect(read.length).toBe(messages.length);
        expect(read.every((one, i) => one.equals(messages[i]!))).toBe(true);
        expect(deframer.isMidMessage).toBe(false);
        expect(deframer.error).toBeUndefined();
      }),
      { numRuns: 300 },
    );
  });

  it('within one piece are views, not copies', () => {
    const chunk = toFrame(Buffer.from('abc'));
    const deframer = new Deframer(10);
    deframer.push(chunk);
    const message = deframer.next();
    chunk[5] = 0x78;
    expect(message?.toString()).toBe('xbc');
  });

  it('are not awaited once the framing is broken', () => {
    for (const [frame, error] of [
      [toFrame(Buffer.alloc(0), 0, 11), 'too-large'],
      [toFrame(Buffer.from('a'), 1), 'compressed'],
      [toFrame(Buffer.from('a'), 0x80), 'bad-flag'],
    ] as const) {
      const deframer = new Deframer(10);
      expect(readAll(deframer, [Buffer.concat([toFrame(Buffer.from('ok')), frame]), toFrame(Buffer.from('late'))])).toEqual([Buffer.from('ok')]);
      expect(deframer.error).toBe(error);
    }
  });

  it('that are announced take no memory before they come', () => {
    const before = process.memoryUsage().arrayBuffers;
    const deframers = Array.from({ length: 100 }, () => new Deframer(64 << 20));
    for (const deframer of deframers) deframer.push(toFrame(Buffer.from('a'), 0, 64 << 20));
    for (const deframer of deframers) expect(deframer.next()).toBeUndefined();
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(100 << 20);
    expect(deframers.every((deframer) => deframer.isMidMessage)).toBe(true);
  });
});
