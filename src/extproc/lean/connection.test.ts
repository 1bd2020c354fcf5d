import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  begin,
  dataFrame,
  echoPath,
  frame,
  openFrame,
  requestBlock,
  requestFields,
  type SeenFrame,
  serveConnection,
  type ServedConnection,
  settingsFrame,
  toAnswers,
  toBlock,
  toMessage,
  uint32,
} from '../../../test/lean-connection-under-test.ts';
import { ErrorCode } from './protocol.ts';

const ackFrame = frame(4, 1, 0);
const pingFrame = frame(6, 0, 0, Buffer.from('12345678'));
const resetFrame = (streamId: number, code = 8): Buffer => frame(3, 0, streamId, uint32(code));
const windowFrame = (streamId: number, bytes: number): Buffer => frame(8, 0, streamId, uint32(bytes));

const goaways = (frames: readonly SeenFrame[]): { last: number; code: number }[] =>
  frames.filter(({ type }) => type === 7).map(({ payload }) => ({ last: payload.readUInt32BE(0), code: payload.readUInt32BE(4) }));
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A connection whose beginning was answered. */
async function begun(settings?: Parameters<typeof serveConnection>[0]): Promise<ServedConnection> {
  const served = serveConnection(settings);
  served.give(begin, ackFrame);
  await turn();
  served.socket.frames();
  return served;
}

/** The code with which a connection ended; undefined: it goes on. */
async function endOf({ socket }: ServedConnection): Promise<number | undefined> {
  await turn();
  const [goaway] = goaways(socket.frames());
  expect(socket.isEnded).toBe(goaway !== undefined);
  return goaway?.code;
}

describe('a connection', () => {
  it('begins with settings and a large window, and acknowledges those of its client', async () => {
    const served = serveConnection();
    served.give(begin);
    await turn();
    const frames = served.socket.frames();
    expect(frames.map(({ type, flags }) => [type, flags])).toEqual([
      [4, 0],
      [8, 0],
      [4, 1],
    ]);
    const settings = frames[0]!.payload;
    expect(Array.from({ length: settings.length / 6 }, (_, i) => [settings.readUInt16BE(6 * i), settings.readUInt32BE(6 * i + 2)])).toEqual([
      [3, 65_536],
      [4, 1_048_576],
      [6, 65_536],
    ]);
    expect(frames[1]!.payload.readUInt32BE(0)).toBe(16_777_216 - 65_535);
  });

  it('answers all that one chunk brought in one write', async () => {
    const served = await begun();
    const before = served.socket.writes;
    served.give(...[1, 3, 5].flatMap((id) => [openFrame(id), dataFrame(id, `message ${id}`, 1)]), pingFrame);
    expect(served.socket.writes).toBe(before + 1);
    const frames = served.socket.frames();
    expect(frames.map(({ type, streamId }) => `${type} ${streamId}`)).toEqual([...[1, 3, 5].flatMap((id) => [`1 ${id}`, `0 ${id}`, `1 ${id}`]), '6 0']);
    expect(toAnswers(frames).get(3)?.data).toEqual(toMessage('message 3'));
    // No windows are opened for short calls.
    expect(frames.some(({ type }) => type === 8)).toBe(false);
  });

  it('reads headers with padding, priority, and in pieces', async () => {
    const served = await begun();
    const padded = Buffer.concat([Buffer.from([3]), Buffer.alloc(5), requestBlock, Buffer.alloc(3)]);
    served.give(frame(1, 0x2c, 1, padded), frame(0, 9, 1, Buffer.concat([Buffer.from([2]), toMessage('padded'), Buffer.alloc(2)])));
    served.give(frame(1, 0, 3, requestBlock.subarray(0, 5)), frame(9, 0, 3), frame(9, 4, 3, requestBlock.subarray(5)), dataFrame(3, 'pieces', 1));
    const answers = toAnswers(served.socket.frames());
    expect(answers.get(1)).toEqual({ data: toMessage('padded'), ends: 1, resets: [] });
    expect(answers.get(3)).toEqual({ data: toMessage('pieces'), ends: 1, resets: [] });
  });

  it('takes trailers for the end of a call', async () => {
    const served = await begun();
    served.give(openFrame(1), dataFrame(1, 'a'), frame(1, 5, 1, toBlock({ 'x-trailer': '1' })));
    expect(served.calls[0]?.events).toEqual(['a', '(end)']);
    served.give(openFrame(3), frame(1, 4, 3, toBlock({ 'x-trailer': '1' })), openFrame(5), frame(1, 5, 5, requestBlock));
    expect(toAnswers(served.socket.frames()).get(3)?.resets).toEqual([ErrorCode.PROTOCOL_ERROR]);
    expect(served.calls.map(({ events }) => events.at(-1))).toEqual(['(end)', '(cancelled)', '(cancelled)']);
    expect(await endOf(served)).toBeUndefined();
  });

  it('says that it uses no header table where its client has made it smaller', async () => {
    const served = await begun();
    served.give(settingsFrame([1, 0]), openFrame(1), dataFrame(1, 'a', 1));
    const headers = served.socket.frames().filter(({ type }) => type === 1);
    expect(headers.map(({ payload }) => payload[0])).toEqual([0x20, 0x00]);
    expect(headers[0]?.payload[1]).toBe(0x88);
  });

  it('ignores what it does not know, and priorities', async () => {
    const served = await begun();
    served.give(frame(0x42, 0xff, 9, [1, 2, 3]), frame(2, 0, 7, Buffer.alloc(5)), settingsFrame([0x99, 7]), openFrame(1), dataFrame(1, 'a', 1));
    expect(served.calls[0]?.events).toEqual(['a', '(end)']);
    expect(await endOf(served)).toBeUndefined();
  });

  it.each([
    ['no GET', { ...requestFields, ':method': 'GET' }, '0f'],
    ['no other content', { ...requestFields, 'content-type': 'text/plain' }, '0f'],
  ])('takes %s', async (_, fields) => {
    const served = await begun();
    served.give(frame(1, 5, 1, toBlock(fields)));
    const [answer] = served.socket.frames();
    expect(answer).toMatchObject({ type: 1, flags: 5, streamId: 1 });
    expect(served.calls).toHaveLength(0);
  });
});

describe('a client that breaks the protocol', () => {
  it.each([
    ['opens an even stream', openFrame(2), ErrorCode.PROTOCOL_ERROR],
    ['opens stream 0', openFrame(0), ErrorCode.PROTOCOL_ERROR],
    ['opens a stream twice', Buffer.concat([openFrame(1), dataFrame(1, 'a', 1), openFrame(1)]), ErrorCode.STREAM_CLOSED],
    ['opens an older stream', Buffer.concat([openFrame(3), openFrame(1)]), ErrorCode.STREAM_CLOSED],
    ['sends DATA on stream 0', frame(0, 0, 0, [1]), ErrorCode.PROTOCOL_ERROR],
    ['sends DATA on an idle stream', frame(0, 0, 1, [1]), ErrorCode.PROTOCOL_ERROR],
    ['resets an idle stream', resetFrame(1), ErrorCode.PROTOCOL_ERROR],
    ['resets stream 0', resetFrame(0), ErrorCode.PROTOCOL_ERROR],
    ['opens the window of an idle stream', windowFrame(1, 9), ErrorCode.PROTOCOL_ERROR],
    ['opens the window by nothing', windowFrame(0, 0), ErrorCode.PROTOCOL_ERROR],
    ['opens the window too far', windowFrame(0, 0x7fffffff), ErrorCode.FLOW_CONTROL_ERROR],
    ['makes frames too large', frame(0, 0, 1, Buffer.alloc(16_385)), ErrorCode.FRAME_SIZE_ERROR],
    ['makes pings of a wrong size', frame(6, 0, 0, [1]), ErrorCode.FRAME_SIZE_ERROR],
    ['makes pings of a stream', frame(6, 0, 1, Buffer.alloc(8)), ErrorCode.PROTOCOL_ERROR],
    ['makes resets of a wrong size', Buffer.concat([openFrame(1), frame(3, 0, 1, [1])]), ErrorCode.FRAME_SIZE_ERROR],
    ['makes windows of a wrong size', frame(8, 0, 0, [1]), ErrorCode.FRAME_SIZE_ERROR],
    ['makes settings of a wrong size', frame(4, 0, 0, [1]), ErrorCode.FRAME_SIZE_ERROR],
    ['acknowledges settings by some', frame(4, 1, 0, Buffer.alloc(6)), ErrorCode.FRAME_SIZE_ERROR],
    ['makes settings of a stream', frame(4, 0, 1), ErrorCode.PROTOCOL_ERROR],
    ['pushes by a number', settingsFrame([2, 2]), ErrorCode.PROTOCOL_ERROR],
    ['makes windows too large', settingsFrame([4, 0x80000000]), ErrorCode.FLOW_CONTROL_ERROR],
    ['makes all windows too large', Buffer.concat([openFrame(1), windowFrame(1, 0x7fff0000), settingsFrame([4, 0x7fffffff])]), ErrorCode.FLOW_CONTROL_ERROR],
    ['asks for frames too small', settingsFrame([5, 16_383]), ErrorCode.PROTOCOL_ERROR],
    ['asks for frames too large', settingsFrame([5, 16_777_216]), ErrorCode.PROTOCOL_ERROR],
    ['pushes', frame(5, 4, 1, Buffer.alloc(8)), ErrorCode.PROTOCOL_ERROR],
    ['goes on with no headers', frame(9, 4, 1), ErrorCode.PROTOCOL_ERROR],
    ['breaks off headers', Buffer.concat([frame(1, 0, 1, requestBlock), pingFrame]), ErrorCode.PROTOCOL_ERROR],
    ['breaks off headers by DATA', Buffer.concat([frame(1, 0, 1, requestBlock), frame(0, 0, 1, [1])]), ErrorCode.PROTOCOL_ERROR],
    ['breaks off headers by those of another', Buffer.concat([frame(1, 0, 1, requestBlock), frame(9, 4, 3)]), ErrorCode.PROTOCOL_ERROR],
    ['pads more than there is', Buffer.concat([openFrame(1), frame(0, 8, 1, [5, 0, 0])]), ErrorCode.PROTOCOL_ERROR],
    ['pads DATA without saying how much', Buffer.concat([openFrame(1), frame(0, 8, 1)]), ErrorCode.FRAME_SIZE_ERROR],
    ['pads headers more than there is', frame(1, 12, 1, [9, 0]), ErrorCode.PROTOCOL_ERROR],
    ['leaves on a stream', frame(7, 0, 1, Buffer.alloc(8)), ErrorCode.PROTOCOL_ERROR],
    ['leaves without a word', frame(7, 0, 0), ErrorCode.FRAME_SIZE_ERROR],
    ['sends no header block', frame(1, 4, 1, [0xff, 0xff, 0xff, 0xff, 0xff]), ErrorCode.COMPRESSION_ERROR],
    ['wants an absurd table', frame(1, 4, 1, [0x3f, 0xff, 0xff, 0xff, 0x7f]), ErrorCode.COMPRESSION_ERROR],
  ])('and %s is told so, and left', async (_, bytes, code) => {
    const served = await begun();
    served.give(bytes);
    expect(await endOf(served)).toBe(code);
    for (const { events } of served.calls) expect(['(cancelled)', '(end)']).toContain(events.at(-1));
    // It is not listened to any more.
    const { length } = served.calls;
    served.give(openFrame(201));
    expect(served.calls).toHaveLength(length);
    served.socket.destroy();
  });

  it.each([
    ['no path', { ':method': 'POST', ':scheme': 'http' }],
    ['an empty path', { ...requestFields, ':path': '' }],
    ['a capital letter', { ...requestFields, 'X-Big': 'a' }],
    ['no name', { ...requestFields, '': 'a' }],
    ['a line break', { ...requestFields, 'x-a': 'a\nb' }],
    ['a blank before a value', { ...requestFields, 'x-a': ' b' }],
    ['a field of HTTP/1.1', { ...requestFields, connection: 'close' }],
    ['another te', { ...requestFields, te: 'gzip' }],
    ['a pseudo field of answers', { ':status': '200', ...requestFields }],
    ['a pseudo field after others', { te: 'trailers', ...{ ':method': 'POST', ':scheme': 'http', ':path': echoPath }, 'content-type': 'application/grpc' }],
  ])('in a request with %s loses that stream alone', async (_, fields) => {
    const served = await begun();
    served.give(frame(1, 4, 1, toBlock(fields)), dataFrame(1, 'late'), openFrame(3), dataFrame(3, 'a', 1));
    const answers = toAnswers(served.socket.frames());
    expect(answers.get(1)?.resets[0]).toBe(ErrorCode.PROTOCOL_ERROR);
    expect(answers.get(3)?.ends).toBe(1);
    expect(served.calls).toHaveLength(1);
  });

  it('in the windows of one stream loses that stream alone', async () => {
    const served = await begun();
    served.give(openFrame(1), openFrame(3), openFrame(5), openFrame(7));
    served.give(windowFrame(1, 0), windowFrame(3, 0x7fffffff), dataFrame(5, 'quiet', 1), frame(0, 0, 5, [1]));
    const answers = toAnswers(served.socket.frames());
    expect([1, 3].map((id) => answers.get(id)?.resets)).toEqual([[ErrorCode.PROTOCOL_ERROR], [ErrorCode.FLOW_CONTROL_ERROR]]);
    served.give(dataFrame(7, 'a', 1));
    expect(served.calls.map(({ events }) => events.at(-1))).toEqual(['(cancelled)', '(cancelled)', '(end)', '(end)']);
  });

  it('in the first bytes is left', async () => {
    for (const bytes of [Buffer.from('GET / HTTP/1.1\r\n\r\n'), Buffer.concat([begin.subarray(0, 24), pingFrame]), Buffer.concat([begin.subarray(0, 24), ackFrame])]) {
      const served = serveConnection();
      served.give(bytes);
      expect(await endOf(served)).toBe(ErrorCode.PROTOCOL_ERROR);
      served.socket.destroy();
    }
  });
});

describe('a client that does too much of', () => {
  const many = (one: Buffer, count = 12_000): Buffer => Buffer.concat(Array.from({ length: count }, () => one));

  it.each([
    ['pings', many(pingFrame)],
    ['settings', many(settingsFrame())],
    ['acknowledgements', many(ackFrame)],
    ['empty DATA', Buffer.concat([openFrame(1), many(frame(0, 0, 1))])],
    ['empty DATA with padding', Buffer.concat([openFrame(1), many(frame(0, 8, 1, [0]))])],
    ['priorities', many(frame(2, 0, 1, Buffer.alloc(5)))],
    ['unknown frames', many(frame(0x42, 0, 0))],
    ['farewells', many(frame(7, 0, 0, Buffer.alloc(8)))],
    ['windows of one byte', many(windowFrame(0, 1))],
    ['empty CONTINUATION', Buffer.concat([frame(1, 0, 1, requestBlock), many(frame(9, 0, 1), 20)])],
    ['large CONTINUATION', Buffer.concat([frame(1, 0, 1, requestBlock), many(frame(9, 0, 1, Buffer.alloc(16_384)), 5)])],
    ['streams that break the protocol', Buffer.concat(Array.from({ length: 1_200 }, (_, i) => Buffer.concat([openFrame(2 * i + 1), windowFrame(2 * i + 1, 0)])))],
  ])('%s is asked to be calm', async (_, bytes) => {
    const served = await begun();
    for (let at = 0; at < bytes.length; at += 65_536) served.give(bytes.subarray(at, at + 65_536));
    expect(await endOf(served)).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    served.socket.destroy();
  });

  it('resets is asked to be calm only where it is not trusted, and wants no answers', async () => {
    for (const [resetLimit, text, expected] of [
      ['guard', 'quiet', ErrorCode.ENHANCE_YOUR_CALM],
      ['guard', 'answered', undefined],
      ['none', 'quiet', undefined],
    ] as const) {
      const served = await begun({ resetLimit });
      for (let i = 0; i < 6_000; i += 1) served.give(openFrame(2 * i + 1), dataFrame(2 * i + 1, text), resetFrame(2 * i + 1));
      expect(await endOf(served), `${resetLimit} ${text}`).toBe(expected);
      expect(served.calls.slice(0, 1_000).every(({ events }) => events.at(-1) === '(cancelled)')).toBe(true);
    }
  });

  it('fields in one list is refused, and what the list said of the table is known all the same', async () => {
    const served = await begun();
    // One large field in the table, named again and again.
    const field = Buffer.concat([Buffer.from([0x40, 1, 0x61, 0x7f, 0x80 | ((3_900 - 127) & 0x7f), (3_900 - 127) >> 7]), Buffer.alloc(3_900, 'x')]);
    served.give(frame(1, 5, 1, Buffer.concat([requestBlock, field, Buffer.alloc(10_000, 0xbe)])));
    served.give(frame(1, 4, 3, Buffer.concat([requestBlock, Buffer.from([0xbe])])), dataFrame(3, 'a', 1));
    const frames = served.socket.frames();
    expect(frames[0]?.payload.toString('latin1')).toContain('431');
    expect(toAnswers(frames).get(3)?.ends).toBe(1);
    expect(served.calls).toHaveLength(1);
  });
});

describe('windows', () => {
  it('are opened again in large steps', async () => {
    const served = await begun();
    served.give(openFrame(1));
    const piece = frame(0, 0, 1, Buffer.concat([toMessage('quiet'), ...Array.from({ length: 1_600 }, () => toMessage('quiet'))]));
    const bytes = piece.length - 9;
    let sent = 0;
    for (; sent < 17_000_000; sent += bytes) served.give(piece);
    const frames = served.socket.frames();
    const updates = frames.filter(({ type }) => type === 8);
    expect(frames).toHaveLength(updates.length);
    const opened = (id: number): number => updates.filter(({ streamId }) => streamId === id).reduce((sum, { payload }) => sum + payload.readUInt32BE(0), 0);
    expect(updates.length).toBeLessThan(40);
    expect(opened(1)).toBeGreaterThan(sent - 524_288 - bytes);
    expect(opened(0)).toBeGreaterThan(sent - 8_388_608 - bytes);
    expect(await endOf(served)).toBeUndefined();
  });

  it('must not be sent beyond, of a stream', async () => {
    const served = await begun();
    served.give(openFrame(1), dataFrame(1, 'times 100000'));
    // It is not read on, since its answer waits: this fills the window.
    for (let sent = 17; sent < 1_048_576; sent += 16_384) served.give(frame(0, 0, 1, Buffer.alloc(Math.min(16_384, 1_048_576 - sent))));
    expect(toAnswers(served.socket.frames()).get(1)?.resets).toEqual([]);
    served.give(frame(0, 0, 1, [1]));
    expect(toAnswers(served.socket.frames()).get(1)?.resets).toEqual([ErrorCode.FLOW_CONTROL_ERROR]);
    expect(await endOf(served)).toBeUndefined();
  });

  it('must not be sent beyond, of the connection', async () => {
    const served = await begun();
    for (let id = 1; id <= 33; id += 2) {
      served.give(openFrame(id), dataFrame(id, 'times 100000'));
      for (let sent = 17; sent < 1_048_576; sent += 16_384) served.give(frame(0, 0, id, Buffer.alloc(Math.min(16_384, 1_048_576 - sent))));
    }
    expect(await endOf(served)).toBe(ErrorCode.FLOW_CONTROL_ERROR);
    served.socket.destroy();
  });

  it('of a client are kept to, of the connection in turns', async () => {
    const served = await begun();
    served.give(settingsFrame([4, 1_000_000]), openFrame(1), dataFrame(1, 'times 100000'), openFrame(3), dataFrame(3, 'times 100000'));
    const first = toAnswers(served.socket.frames());
    const bytes = (id: number): number => first.get(id)?.data.length ?? 0;
    expect(bytes(1) + bytes(3)).toBe(65_535);
    expect(Math.abs(bytes(1) - bytes(3))).toBeLessThanOrEqual(16_384);
    expect(served.calls.map(({ call }) => call.isUnheard)).toEqual([true, true]);
    served.give(windowFrame(0, 1_000_000), frame(0, 1, 1), frame(0, 1, 3));
    const rest = toAnswers(served.socket.frames());
    for (const id of [1, 3]) {
      expect(bytes(id) + (rest.get(id)?.data.length ?? 0)).toBe(100_005);
      expect(rest.get(id)?.ends).toBe(1);
    }
    expect(served.calls.map(({ call }) => call.isUnheard)).toEqual([false, false]);
  });

  it('of a client may become smaller, and be below 0', async () => {
    const served = await begun();
    served.give(openFrame(1), dataFrame(1, 'times 60000'));
    served.give(settingsFrame([4, 1_000]), dataFrame(1, 'more'));
    expect(toAnswers(served.socket.frames()).get(1)?.data.length).toBe(60_005);
    served.give(windowFrame(1, 59_000));
    expect(toAnswers(served.socket.frames()).size).toBe(0);
    served.give(windowFrame(1, 6));
    expect(toAnswers(served.socket.frames()).get(1)?.data.length).toBe(1);
    served.give(settingsFrame([4, 10_000]));
    expect(toAnswers(served.socket.frames()).get(1)?.data.length).toBe(8);
  });

  it('of a client that takes larger frames are used', async () => {
    const served = await begun();
    served.give(settingsFrame([5, 40_000]), openFrame(1), dataFrame(1, 'times 60000'));
    const sizes = served.socket.frames().flatMap(({ type, payload }) => (type === 0 ? [payload.length] : []));
    expect(sizes).toEqual([40_000, 20_005]);
  });
});

describe('a client that does not read', () => {
  it('is not read from once the socket is full, until it drains', async () => {
    const served = await begun();
    served.socket.takesAll = false;
    served.give(settingsFrame([4, 10_000_000]), windowFrame(0, 10_000_000));
    for (let id = 1; id < 41; id += 2) served.give(openFrame(id), dataFrame(id, 'times 100000', 1));
    // Answers wait in their calls; pings need no window.
    expect(served.socket.writableLength).toBeLessThan(400_000);
    for (let i = 0; i < 8 && !served.socket.isPaused(); i += 1) served.give(Buffer.concat(Array.from({ length: 900 }, () => dataFrame(1, 'late'))));
    while (served.socket.writableLength > 0) served.socket.drain();
    const answers = toAnswers(served.socket.frames());
    for (let id = 1; id < 41; id += 2) expect(answers.get(id)).toMatchObject({ data: { length: 100_005 }, ends: 1 });
  });

  it('with pings is paused, and read on when it took the answers', async () => {
    const served = await begun();
    served.socket.takesAll = false;
    let pings = 0;
    for (; !served.socket.isPaused() && pings < 100_000; pings += 1_000) served.give(Buffer.concat(Array.from({ length: 900 }, () => pingFrame)), openFrame(pings + 1), dataFrame(pings + 1, 'times 60000'), windowFrame(0, 70_000));
    expect(served.socket.isPaused() || goaways(served.socket.frames()).length === 0).toBe(true);
    served.socket.drain();
    expect(served.socket.isPaused()).toBe(false);
  });
});

describe('a call that is over', () => {
  it('is told of late DATA by one reset without an error', async () => {
    const served = await begun();
    served.give(openFrame(1), dataFrame(1, 'end'));
    expect(toAnswers(served.socket.frames()).get(1)).toMatchObject({ ends: 1, resets: [] });
    served.give(dataFrame(1, 'late'), dataFrame(1, 'later'), frame(0, 1, 1), windowFrame(1, 9), resetFrame(1, 0), frame(1, 5, 1, toBlock({ a: 'b' })));
    expect(toAnswers(served.socket.frames()).get(1)?.resets).toEqual([ErrorCode.NO_ERROR]);
    expect(served.calls[0]?.events).toEqual(['end']);
    expect(await endOf(served)).toBeUndefined();
  });

  it('costs nothing where the client just ends it', async () => {
    const served = await begun();
    served.give(openFrame(1), dataFrame(1, 'end'), openFrame(3), dataFrame(3, 'end'));
    served.socket.frames();
    const before = served.socket.writes;
    served.give(resetFrame(1), frame(0, 1, 3));
    await turn();
    expect(served.socket.writes).toBe(before);
  });
});

describe('leaving', () => {
  const noticeOf = (frames: readonly SeenFrame[]): Buffer => frames.find(({ type, flags }) => type === 6 && flags === 0)!.payload;

  it('is asked for first, and told when the client must have heard: no call is lost', async () => {
    const served = await begun();
    served.give(openFrame(1), dataFrame(1, 'a'));
    served.socket.frames();
    served.connection.leave();
    await turn();
    const frames = served.socket.frames();
    expect(goaways(frames)).toEqual([{ last: 0x7fffffff, code: 0 }]);
    // On its way when the client heard.
    served.give(openFrame(3), dataFrame(3, 'b'), frame(6, 1, 0, noticeOf(frames)));
    await turn();
    expect(goaways(served.socket.frames())).toEqual([{ last: 3, code: 0 }]);
    served.give(openFrame(5), dataFrame(5, 'c'));
    expect(served.socket.frames()).toEqual([]);
    expect(served.calls).toHaveLength(2);
    served.give(frame(0, 1, 1), frame(0, 1, 3));
    await turn();
    expect(served.socket.isEnded).toBe(true);
    expect(served.calls.map(({ events }) => events)).toEqual([
      ['a', '(end)'],
      ['b', '(end)'],
    ]);
    served.socket.destroy();
  });

  describe('in time', () => {
    beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] }));
    afterEach(() => void vi.useRealTimers());

    it('is told after a second to a client that does not answer', async () => {
      const served = await begun();
      served.connection.leave();
      await turn();
      vi.advanceTimersByTime(1_001);
      await turn();
      expect(goaways(served.socket.frames())).toEqual([
        { last: 0x7fffffff, code: 0 },
        { last: 0, code: 0 },
      ]);
      expect(served.socket.isEnded).toBe(true);
      vi.advanceTimersByTime(3_000);
      expect(served.socket.destroyed).toBe(true);
    });

    it('is forced upon a client that does not begin', async () => {
      for (const bytes of [Buffer.alloc(0), begin.subarray(0, 10), begin.subarray(0, 24), begin.subarray(0, begin.length - 1)]) {
        const served = serveConnection();
        served.give(bytes);
        vi.advanceTimersByTime(9_000);
        expect(served.socket.isEnded).toBe(false);
        vi.advanceTimersByTime(1_500);
        await turn();
        expect(served.socket.isEnded).toBe(true);
        vi.advanceTimersByTime(3_000);
        expect(served.socket.destroyed).toBe(true);
      }
    });

    it('has no timers left', async () => {
      const served = await begun({ limits: { keepaliveIntervalMs: 1_000, keepaliveTimeoutMs: 500, ageMsMax: 60_000, ageGraceMs: 1_000 } });
      vi.advanceTimersByTime(1_100);
      served.socket.destroy();
      expect(vi.getTimerCount()).toBe(0);
    });
  });
});

describe('a bug of ours', () => {
  it('ends its connection, and is told', async () => {
    const bug = new Error('bug');
    const told: unknown[] = [];
    const fails = (): never => {
      throw bug;
    };
    const served = await begun({ methods: new Map([[echoPath, { decode: fails, encode: fails, open: fails }]]), onError: (error) => told.push(error) });
    served.give(openFrame(1));
    expect(await endOf(served)).toBe(ErrorCode.INTERNAL_ERROR);
    expect(told).toEqual([bug]);
  });
});
