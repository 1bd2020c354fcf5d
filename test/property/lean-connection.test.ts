// HTTP/2 of our own: the same calls however bytes are cut and sockets take them, and nothing but an end for what is no HTTP/2.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { begin, dataFrame, frame, requestBlock, serveConnection, type ServedConnection, settingsFrame, toAnswers, toMessage, uint32 } from '../lean-connection-under-test.ts';

/** What one client does, as frames of one stream. */
interface Conversation {
  readonly frames: readonly Buffer[];
  readonly messages: readonly string[];
  readonly end: 'half-close' | 'reset' | 'none';
}

const text = fc.oneof(
  { weight: 6, arbitrary: fc.stringMatching(/^[a-z ]{0,40}$/) },
  { weight: 2, arbitrary: fc.constantFrom(0, 900, 5_000, 30_000).map((length) => 'y'.repeat(length)) },
  { weight: 1, arbitrary: fc.constantFrom('times 70000', 'times 200000', 'times 0', 'quiet') },
);

function conversation(streamId: number): fc.Arbitrary<Conversation> {
  return fc
    .record({ messages: fc.array(text, { maxLength: 4 }), end: fc.constantFrom('half-close', 'half-close', 'reset', 'none'), frameBytes: fc.integer({ min: 1, max: 16_000 }), pad: fc.boolean(), cut: fc.boolean() })
    .map(({ messages, end, frameBytes, pad, cut }) => {
      const frames = cut ? [frame(1, 0, streamId, requestBlock.subarray(0, 9)), frame(9, 4, streamId, requestBlock.subarray(9))] : [frame(1, 4, streamId, requestBlock)];
      const head = frames.length;
      const bytes = Buffer.concat(messages.map((one) => toMessage(one)));
      for (let at = 0; at < bytes.length; at += Math.max(frameBytes, bytes.length / 20)) {
        const piece = bytes.subarray(at, at + Math.max(frameBytes, bytes.length / 20));
        for (let from = 0; from < piece.length; from += 16_000) {
          const part = piece.subarray(from, from + 16_000);
          frames.push(pad ? frame(0, 8, streamId, Buffer.concat([Buffer.from([7]), part, Buffer.alloc(7)])) : frame(0, 0, streamId, part));
        }
      }
      if (end === 'half-close') frames.push(frame(0, 1, streamId));
      if (end === 'reset') frames.push(frame(3, 0, streamId, uint32(8)));
      // Its headers are not interrupted.
      return { frames: [Buffer.concat(frames.slice(0, head)), ...frames.slice(head)], messages, end };
    });
}

/** Several calls whose frames are mixed, each in its order; streams are opened in theirs. */
const session = fc
  .tuple(conversation(1), conversation(3), conversation(5))
  .chain((conversations) => fc.record({ conversations: fc.constant(conversations), order: fc.infiniteStream(fc.nat({ max: 2 })) }))
  .map(({ conversations, order }) => {
    const left = conversations.map(({ frames }) => [...frames]);
    const mixed = left.map((frames) => frames.shift()!);
    while (left.some(({ length }) => length > 0)) {
      const next = left[(order.next().value as number | undefined) ?? 0]!.shift();
      if (next !== undefined) mixed.push(next);
    }
    return { conversations, bytes: Buffer.concat([begin, settingsFrame([4, 100_000]), ...mixed]) };
  });

function play(bytes: Buffer, cuts: readonly number[], onStep: (served: ServedConnection) => void): ServedConnection {
  const served = serveConnection();
  const ends = [...new Set(cuts.map((cut) => cut % bytes.length))].sort((a, b) => a - b);
  let at = 0;
  for (const end of [...ends, bytes.length]) {
    // Chunks of their own, as a socket gives them.
    served.give(Buffer.from(bytes.subarray(at, end)));
    onStep(served);
    at = end;
  }
  return served;
}

describe('a connection', () => {
  it('hears and says the same, however its bytes are cut and its socket takes them', async () => {
    await fc.assert(
      fc.asyncProperty(session, fc.array(fc.nat(), { maxLength: 30 }), fc.infiniteStream(fc.boolean()), async ({ conversations, bytes }, cuts, drains) => {
        const served = play(bytes, cuts, ({ socket }) => {
          if (drains.next().value === true) {
            socket.takesAll = true;
            socket.drain();
            socket.emit('drain');
          } else {
            socket.takesAll = false;
          }
        });
        const { socket, calls } = served;
        // The client takes all that is left; a stream's window has room for some of it at a time.
        for (let i = 0; i < 40; i += 1) {
          served.give(frame(8, 0, 0, uint32(200_000)), ...[1, 3, 5].map((id) => frame(8, 0, id, uint32(50_000))));
          socket.drain();
          socket.emit('drain');
        }
        await new Promise((resolve) => setImmediate(resolve));
        socket.drain();
        const answers = toAnswers(socket.frames());
        expect(socket.isEnded).toBe(false);
        expect(calls).toHaveLength(3);
        for (const [i, { messages, end }] of conversations.entries()) {
          const { events } = calls[i]!;
          const answer = answers.get(2 * i + 1);
          const all = [...messages, ...(end === 'none' ? [] : [end === 'reset' ? '(cancelled)' : '(end)'])];
          if (end === 'reset') {
            // It may come before what had to wait; nothing comes after it, nor twice.
            expect(events.at(-1)).toBe('(cancelled)');
            expect(events.slice(0, -1)).toEqual(messages.slice(0, events.length - 1));
            continue;
          }
          expect(events).toEqual(all);
          const expected = Buffer.concat(messages.filter((one) => one !== 'quiet').map((one) => toMessage(one.startsWith('times ') ? 'x'.repeat(Number(one.slice(6))) : one)));
          expect((answer?.data ?? Buffer.alloc(0)).equals(expected)).toBe(true);
          expect(answer?.ends ?? 0).toBe(end === 'half-close' ? 1 : 0);
          expect(answer?.resets ?? []).toEqual([]);
          expect(calls[i]!.call.isUnheard).toBe(false);
        }
        socket.destroy();
        for (const { events } of calls) expect(events.filter((event) => event === '(end)' || event === '(cancelled)')).toHaveLength(1);
      }),
      { numRuns: 300 },
    );
  }, 120_000);

  const garbage = fc.oneof(
    fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes)),
    // Frames that look right from the outside.
    fc
      .array(
        fc.oneof(
          fc.record({ type: fc.nat({ max: 10 }), flags: fc.nat({ max: 255 }), id: fc.nat({ max: 9 }), payload: fc.uint8Array({ maxLength: 20 }) }).map(({ type, flags, id, payload }) => frame(type, flags, id, Buffer.from(payload))),
          fc.constantFrom(frame(1, 4, 1, requestBlock), frame(1, 5, 3, requestBlock), dataFrame(1, 'a'), dataFrame(1, 'times 90000'), frame(3, 0, 1, uint32(8)), settingsFrame([4, 0])),
        ),
        { maxLength: 40 },
      )
      .map((frames) => Buffer.concat(frames)),
  );

  it('that sends anything never throws, and ends each call once', async () => {
    await fc.assert(
      fc.asyncProperty(garbage, fc.array(fc.nat(), { maxLength: 10 }), async (bytes, cuts) => {
        const served = play(Buffer.concat([begin, bytes]), cuts, () => undefined);
        await new Promise((resolve) => setImmediate(resolve));
        const { socket, calls } = served;
        const frames = socket.frames();
        const goaways = frames.filter(({ type }) => type === 7);
        expect(goaways).toHaveLength(socket.isEnded ? 1 : 0);
        // A bug of ours would be told as this.
        for (const { payload } of goaways) expect(payload.readUInt32BE(4)).not.toBe(2);
        socket.destroy();
        for (const { events } of calls) expect(events.filter((event) => event === '(end)' || event === '(cancelled)')).toHaveLength(1);
      }),
      { numRuns: 2_000 },
    );
  }, 120_000);

  it('that begins with anything but HTTP/2 is ended', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 24, maxLength: 100 }), async (bytes) => {
        const served = serveConnection();
        served.give(Buffer.from(bytes));
        await new Promise((resolve) => setImmediate(resolve));
        expect(served.socket.isEnded).toBe(true);
        served.socket.destroy();
      }),
    );
  });
});
