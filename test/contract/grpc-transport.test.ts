// What every transport of src/extproc has to do, whatever it is made of.
import http2 from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import { afterEach, describe, expect, it } from 'vitest';
import type { TransportOptions } from '../../src/extproc/grpc-transport.ts';
import { accessLogService, encodeStreamAccessLogsMessage } from '../../src/extproc/proto.ts';
import {
  bodyFrame,
  failureMessage,
  headersFrame,
  messageBytesMax,
  RawCall,
  RawConnection,
  type ServedTransport,
  serveTransport,
  startTransport,
  toFrame,
  until,
} from './grpc-transport-under-test.ts';

/** What a test opened; closed after it in reverse. */
const opened: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

describe.each(['lean', 'http2', 'grpc-js'] as const)('the transport on %s', { timeout: 60_000 }, (name) => {
  const isOurs = name !== 'grpc-js';

  async function serve(options?: Partial<TransportOptions>): Promise<ServedTransport> {
    const served = await serveTransport(startTransport[name], options);
    opened.push(() => served.transport.destroy());
    return served;
  }

  function connect({ transport }: ServedTransport): http2.ClientHttp2Session {
    const session = http2.connect(`http://127.0.0.1:${transport.port}`);
    session.on('error', () => undefined);
    opened.push(() => session.destroy());
    return session;
  }

  function connectGrpc({ transport }: ServedTransport): Client {
    const client = new Client(`127.0.0.1:${transport.port}`, credentials.createInsecure());
    opened.push(() => client.close());
    return client;
  }

  /** grpc-js tells a call that is gone from a half-closed one only where it has not read to its end. */
  const gone = expect.stringMatching(isOurs ? /^cancelled$/ : /^(cancelled|end)$/) as string;

  const bodies = ({ answers }: RawCall): string[] =>
    answers.map(({ request_body: answer }) => answer?.response?.body_mutation?.streamed_response?.body?.toString('latin1') ?? '(none)');

  describe('framing', () => {
    it('reads messages wherever their bytes are cut', async () => {
      const served = await serve();
      const session = connect(served);
      const bytes = Buffer.concat([bodyFrame(Buffer.from('ab')), bodyFrame(Buffer.alloc(0)), bodyFrame(Buffer.from('c'))]);
      for (let at = 1; at < bytes.length; at += 1) {
        const call = new RawCall(session);
        await call.write(bytes.subarray(0, at));
        // The rest in pieces of one byte as well: a prefix can be cut several times.
        await call.write(bytes.subarray(at, at + 1));
        call.stream.end(bytes.subarray(at + 1));
        expect(await call.ended()).toBe(status.OK);
        expect(bodies(call), `cut at ${at}`).toEqual(['ab', '', 'c']);
      }
    });

    it('answers several messages of one piece, in order', async () => {
      const served = await serve();
      const call = new RawCall(connect(served));
      const texts = Array.from({ length: 50 }, (_, i) => `message ${i}`);
      call.stream.end(Buffer.concat(texts.map((text) => bodyFrame(Buffer.from(text)))));
      expect(await call.ended()).toBe(status.OK);
      expect(bodies(call)).toEqual(texts);
      expect(served.calls[0]).toEqual([...texts.map(() => 'message request_body'), 'end']);
    });

    it('takes large messages whole, and gives them back', async () => {
      const served = await serve();
      const session = connect(served);
      for (const length of [65_000, 220_000, 1_500_000]) {
        const call = new RawCall(session);
        const body = Buffer.alloc(length, 'The quick brown fox jumps over the lazy dog. ');
        call.stream.end(bodyFrame(body));
        expect(await call.ended()).toBe(status.OK);
        expect(bodies(call)[0] === body.toString('latin1'), `${length} bytes`).toBe(true);
      }
    });

    it('ends a call above the message limit with RESOURCE_EXHAUSTED, and no other', async () => {
      const served = await serve();
      const session = connect(served);
      const other = new RawCall(session);
      await other.write(headersFrame());
      const call = new RawCall(session);
      const prefix = Buffer.from([0, 0, 0, 0, 0]);
      prefix.writeUInt32BE(messageBytesMax + 1, 1);
      await call.write(Buffer.concat([headersFrame(), prefix]));
      if (!isOurs) await call.write(Buffer.alloc(64));
      expect(await call.ended()).toBe(status.RESOURCE_EXHAUSTED);
      await until(() => served.calls[1]?.at(-1) === 'cancelled');
      // grpc-js gives up what came together with it.
      if (isOurs) expect(served.calls[1]).toEqual(['message request_headers', 'cancelled']);
      other.stream.end(bodyFrame(Buffer.from('still here')));
      expect(await other.ended()).toBe(status.OK);
      expect(bodies(other)).toEqual(['(none)', 'still here']);
    });

    it('takes no more from a client that goes on after its call was ended', async () => {
      const served = await serve();
      const call = new RawCall(connect(served));
      await call.write(headersFrame('answer and fail'));
      expect(await call.ended()).toBe(status.INTERNAL);
      for (let i = 0; i < 100 && !call.isClosed; i += 1) {
        void call.write(bodyFrame(Buffer.alloc(1_000)));
        await sleep(5);
      }
      expect(served.calls[0]).toEqual(['message request_headers']);
      // A reset without an error: what was answered counts.
      if (isOurs) await until(() => call.isClosed);
      if (isOurs) expect(call.rstCode).toBe(http2.constants.NGHTTP2_NO_ERROR);
    });

    it.each([
      ['what is no message', toFrame(Buffer.from([0x12, 0x7f, 0x01])), {}, status.INTERNAL],
      ['a compressed message without a compression', toFrame(Buffer.from('x'), 1), {}, status.INTERNAL],
      ['a compressed message with compression identity', toFrame(Buffer.from('x'), 1), { 'grpc-encoding': 'identity' }, status.INTERNAL],
      ['a compression that nobody knows', toFrame(Buffer.from('x'), 1), { 'grpc-encoding': 'lzma' }, status.UNIMPLEMENTED],
    ])('ends a call for %s', async (_, bytes, headers, expected) => {
      const served = await serve();
      const call = new RawCall(connect(served), headers);
      await call.write(bytes);
      expect(await call.ended()).toBe(expected);
    });

    // grpc-js takes any flag but 1 for "not compressed", and drops the half of a message without a word.
    it.runIf(isOurs)('ends a call for an unknown flag, and for one that ends within a message', async () => {
      const served = await serve();
      const session = connect(served);
      const flagged = new RawCall(session);
      await flagged.write(toFrame(Buffer.from('x'), 2));
      expect(await flagged.ended()).toBe(status.INTERNAL);
      for (const bytes of [Buffer.from([0, 0]), Buffer.from([0, 0, 0, 0, 9, 1])]) {
        const cut = new RawCall(session);
        cut.stream.end(bytes);
        expect(await cut.ended()).toBe(status.INTERNAL);
      }
      await until(() => served.calls.length === 3 && served.calls.every((seen) => seen.length > 0));
      expect(served.calls).toEqual([['cancelled'], ['cancelled'], ['cancelled']]);
    });
  });

  describe('calls', () => {
    it('are refused where the method is unknown, in headers alone', async () => {
      const served = await serve();
      const session = connect(served);
      for (const path of ['/envoy.service.ext_proc.v3.ExternalProcessor/Nothing', '/nothing', '/__proto__', '/constructor']) {
        const call = new RawCall(session, { ':path': path });
        expect(await call.ended(), path).toBe(status.UNIMPLEMENTED);
        expect(call.isTrailersOnly).toBe(true);
        expect(call.status).toBe(200);
      }
    });

    it('are refused in terms of HTTP where they are no gRPC', async () => {
      const served = await serve();
      const session = connect(served);
      // grpc-js looks at the beginning of a type alone.
      for (const type of ['application/json', 'text/plain', ...(isOurs ? ['application/grpcx'] : [])]) {
        const call = new RawCall(session, { 'content-type': type });
        await until(() => call.status !== undefined);
        expect(call.status, type).toBe(415);
      }
      for (const type of ['application/grpc+proto', 'application/grpc;charset=utf-8']) {
        const call = new RawCall(session, { 'content-type': type });
        call.stream.end(headersFrame());
        expect(await call.ended(), type).toBe(status.OK);
      }
    });

    it('that fail at once are answered by headers alone, with their message', async () => {
      const served = await serve();
      const session = connect(served);
      for (const [todo, expected] of [
        ['fail', status.INTERNAL],
        ['refuse', status.INVALID_ARGUMENT],
      ] as const) {
        const call = new RawCall(session);
        await call.write(headersFrame(todo));
        expect(await call.ended()).toBe(expected);
        expect(call.grpcMessage).toBe(failureMessage);
        expect(call.answers).toEqual([]);
        if (isOurs) expect(call.isTrailersOnly).toBe(true);
      }
    });

    it('that fail later are answered by what was said before, then trailers', async () => {
      const served = await serve();
      const call = new RawCall(connect(served));
      await call.write(headersFrame('answer and fail'));
      expect(await call.ended()).toBe(status.INTERNAL);
      expect(call.isTrailersOnly).toBe(false);
      expect(call.grpcMessage).toBe(failureMessage);
      expect(call.answers).toHaveLength(1);
    });

    it('end with OK when the client half-closes, and when the service does', async () => {
      const served = await serve();
      const session = connect(served);
      const half = new RawCall(session);
      half.stream.end(headersFrame());
      expect(await half.ended()).toBe(status.OK);
      expect(half.answers).toHaveLength(1);
      const ended = new RawCall(session);
      await ended.write(headersFrame('answer and end'));
      expect(await ended.ended()).toBe(status.OK);
      expect(ended.answers).toHaveLength(1);
      expect(served.calls[0]).toEqual(['message request_headers', 'end']);
    });

    it('end without a message where none was sent', async () => {
      const served = await serve();
      const call = new RawCall(connect(served));
      call.stream.end();
      expect(await call.ended()).toBe(status.OK);
      expect(served.calls[0]).toEqual(['end']);
    });

    it.each([http2.constants.NGHTTP2_NO_ERROR, http2.constants.NGHTTP2_CANCEL, http2.constants.NGHTTP2_INTERNAL_ERROR])('are cancelled once by a reset with code %d', async (code) => {
      const served = await serve();
      const connection = new RawConnection(served.transport.port);
      opened.push(() => connection.socket.destroy());
      for (const [id, todo] of [
        [1, 'answer'],
        [3, 'nothing'],
      ] as const) {
        connection.open(id, headersFrame(todo));
        await until(() => served.calls.at(-1)?.length === 1);
        connection.reset(id, code);
        await until(() => served.calls.at(-1)?.length === 2);
      }
      // One whose answer the client has no window for: reading from it had stopped.
      connection.open(5, bodyFrame(Buffer.alloc(200_000)));
      await until(() => served.calls.length === 3 && served.calls[2]?.length === 1);
      connection.reset(5, code);
      await until(() => served.calls[2]?.length === 2);
      await sleep(20);
      expect(served.calls).toEqual([...[1, 3].map(() => ['message request_headers', gone]), ['message request_body', gone]]);
      // No stream is left that would keep the connection. After code 0, grpc-js waits with Node for the answer to be sent, which never happens.
      if (isOurs || code !== http2.constants.NGHTTP2_NO_ERROR) await served.transport.drain();
    });

    it('are cancelled once by a connection that breaks', async () => {
      const served = await serve();
      const session = connect(served);
      const call = new RawCall(session);
      await call.write(headersFrame());
      await call.answered(1);
      session.destroy();
      await until(() => served.calls.at(-1)?.length === 2);
      expect(served.calls.at(-1)).toEqual(['message request_headers', gone]);
    });

    it('of a grpc-js client are understood, and its cancellation', async () => {
      const served = await serve();
      const client = connectGrpc(served);
      const raw = (bytes: Buffer): Buffer => bytes;
      const call = client.makeBidiStreamRequest('/envoy.service.ext_proc.v3.ExternalProcessor/Process', raw, raw);
      const answers: Buffer[] = [];
      call.on('data', (answer: Buffer) => answers.push(answer));
      let code: number | undefined;
      call.on('error', (error: ServiceError) => (code = error.code));
      call.write(headersFrame().subarray(5));
      call.write(bodyFrame(Buffer.from('b')).subarray(5));
      await until(() => answers.length === 2);
      call.cancel();
      await until(() => code === status.CANCELLED && served.calls[0]?.length === 3);
      // Node's client half-closes a stream before it resets it, and both are seen where they come apart.
      expect(served.calls[0]?.[2]).toMatch(/^(cancelled|end)$/);
    });

    it('of the access log get their one answer when the client ends them, and when the server does', async () => {
      const served = await serve();
      const session = connect(served);
      const { path } = accessLogService.StreamAccessLogs;
      const records = toFrame(encodeStreamAccessLogsMessage({ http_logs: { log_entry: [{}, {}] } }));
      const first = new RawCall(session, { ':path': path });
      first.stream.end(records);
      expect(await first.ended()).toBe(status.OK);
      expect(first.answers).toEqual([{}]);
      expect(served.calls[0]).toEqual(['message 2', 'end']);
      const second = new RawCall(session, { ':path': path });
      await second.write(records);
      await until(() => served.calls[1]?.length === 1);
      served.endAccessLogs();
      expect(await second.ended()).toBe(status.OK);
      expect(second.answers).toEqual([{}]);
    });
  });

  describe('a client that does not read', () => {
    it('is read from no further than what it can be answered', async () => {
      const served = await serve();
      const call = new RawCall(connect(served));
      call.stream.pause();
      const piece = bodyFrame(Buffer.alloc(32_768, 'x'));
      const pieces = 800;
      let taken = 0;
      const write = (): void => {
        call.stream.write(piece, (error) => {
          if (error) return;
          taken += 1;
          if (taken < pieces) write();
        });
      };
      write();
      for (let before = -1; taken !== before; ) {
        before = taken;
        await sleep(400);
      }
      // The stream's window, the client's buffers, and what was read and not sent: 4 MB of the 26.
      expect(taken).toBeLessThan(130);
      call.stream.resume();
      await until(() => call.answers.length === pieces, 40_000);
      expect(taken).toBe(pieces);
    });
  });

  describe('resets', () => {
    // By default Node's server takes 1000 and 33 a second. Envoy ends every call by one.
    it('do not end a connection whose client is trusted: 70 000 of calls without an answer', async () => {
      const served = await serve();
      const connection = new RawConnection(served.transport.port);
      opened.push(() => connection.socket.destroy());
      const total = 70_000;
      const batch = 2_000;
      for (let done = 0; done < total && connection.goaways.length === 0; done += batch) {
        connection.resetCalls(1 + 2 * done, batch);
        connection.ping();
        // All of it is worked off before the next.
        await until(() => connection.pingAcks === done / batch + 1 || connection.isClosed || connection.goaways.length > 0, 30_000);
      }
      expect(connection.goaways).toEqual([]);
      expect(connection.pingAcks).toBe(total / batch);
      const call = new RawCall(connect(served));
      call.stream.end(headersFrame());
      expect(await call.ended()).toBe(status.OK);
    });

    it.runIf(isOurs)('end the connection of an untrusted client that wants no answers, and no other', async () => {
      const served = await serve({ resetLimit: 'guard' });
      const other = new RawCall(connect(served));
      await other.write(headersFrame());
      const connection = new RawConnection(served.transport.port);
      opened.push(() => connection.socket.destroy());
      for (let done = 0; done < 100_000 && !connection.isClosed; done += 2_000) {
        connection.resetCalls(1 + 2 * done, 2_000);
        await sleep(10);
      }
      await until(() => connection.isClosed);
      other.stream.end();
      expect(await other.ended()).toBe(status.OK);
    });

    it.runIf(isOurs)('of answered calls count for nothing, even of an untrusted client', async () => {
      const served = await serve({ resetLimit: 'guard' });
      const session = connect(served);
      const troubles: string[] = [];
      session.on('goaway', () => troubles.push('GOAWAY'));
      session.on('close', () => troubles.push('closed'));
      let left = 7_000;
      const worker = async (): Promise<void> => {
        for (; left > 0 && troubles.length === 0; left -= 1) {
          const call = new RawCall(session);
          await call.write(headersFrame());
          await call.answered(1);
          call.stream.close(http2.constants.NGHTTP2_CANCEL);
        }
      };
      await Promise.all(Array.from({ length: 50 }, worker));
      expect(troubles).toEqual([]);
    });
  });

  describe('health', () => {
    const { Check, Watch } = healthService as unknown as Record<'Check' | 'Watch', MethodDefinition<{ service: string }, { status: string }>>;

    it('is told to who asks, and to who watches', async () => {
      const served = await serve();
      const client = connectGrpc(served);
      const check = (service: string): Promise<string> =>
        new Promise((resolve) => {
          client.makeUnaryRequest(Check.path, Check.requestSerialize, Check.responseDeserialize, { service }, (error, answer) => resolve(error === null ? (answer?.status ?? '') : String(error.code)));
        });
      expect(await check('')).toBe('SERVING');
      expect(await check('readiness')).toBe('NOT_SERVING');
      expect(await check('nothing')).toBe(String(status.NOT_FOUND));
      const seen: string[] = [];
      const call = client.makeServerStreamRequest(Watch.path, Watch.requestSerialize, Watch.responseDeserialize, { service: 'readiness' });
      call.on('data', ({ status: told }: { status: string }) => seen.push(told));
      call.on('error', () => undefined);
      await until(() => seen.length === 1);
      served.health.setStatus('readiness', 'SERVING');
      await until(() => seen.length === 2);
      expect(seen).toEqual(['NOT_SERVING', 'SERVING']);
      call.cancel();
      const watchers = (served.health as unknown as { watchers: Map<string, Set<unknown>> }).watchers.get('readiness');
      await until(() => watchers?.size === 0);
    });

    it('is refused without a question, and with two', async () => {
      const served = await serve();
      const session = connect(served);
      const question = toFrame(Buffer.alloc(0));
      const none = new RawCall(session, { ':path': Check.path });
      none.stream.end();
      expect(await none.ended()).toBe(status.UNIMPLEMENTED);
      const two = new RawCall(session, { ':path': Check.path });
      two.stream.end(Buffer.concat([question, question]));
      expect([status.UNIMPLEMENTED, status.INTERNAL]).toContain(await two.ended());
    });
  });

  describe('draining', () => {
    it('asks clients to leave, lets open calls finish, takes no connections, and then is closed', async () => {
      const served = await serve();
      const session = connect(served);
      let wasAsked = false;
      session.on('goaway', () => (wasAsked = true));
      const call = new RawCall(session);
      await call.write(headersFrame());
      await call.answered(1);
      let isDrained = false;
      const drained = served.transport.drain().then(() => (isDrained = true));
      await until(() => wasAsked);
      const late = http2.connect(`http://127.0.0.1:${served.transport.port}`);
      opened.push(() => late.destroy());
      let refused = false;
      late.on('error', () => (refused = true));
      await until(() => refused);
      await call.write(bodyFrame(Buffer.from('last')));
      expect(await call.answered(2)).toHaveLength(2);
      expect(isDrained).toBe(false);
      call.stream.end();
      expect(await call.ended()).toBe(status.OK);
      await drained;
    });

    it.runIf(isOurs)('tells which call is the last that it took', async () => {
      const served = await serve();
      const connection = new RawConnection(served.transport.port);
      opened.push(() => connection.socket.destroy());
      for (const id of [1, 3]) connection.open(id, headersFrame());
      await until(() => served.calls.length === 2);
      const drained = served.transport.drain();
      await until(() => connection.goaways.length === 1);
      expect(connection.goaways).toEqual([{ lastStreamId: 3, code: 0 }]);
      connection.reset(1, 8);
      connection.reset(3, 8);
      await drained;
      expect(served.calls).toHaveLength(2);
    });

    it('closes what is left when it has to', async () => {
      const served = await serve();
      const session = connect(served);
      const call = new RawCall(session);
      await call.write(headersFrame('nothing'));
      await until(() => served.calls[0]?.length === 1);
      const drained = served.transport.drain();
      served.transport.destroy();
      await drained;
      await until(() => call.isClosed && session.destroyed && served.calls[0]?.length === 2);
      expect(call.grpcStatus).toBeUndefined();
      expect(served.calls[0]).toEqual(['message request_headers', gone]);
    });
  });

  describe('connections', () => {
    const limits = { keepaliveIntervalMs: 0, keepaliveTimeoutMs: 20_000, ageMsMax: 0, ageGraceMs: 0 };

    it('are closed when nobody answers pings, and only then', async () => {
      const served = await serve({ connections: { ...limits, keepaliveIntervalMs: 100, keepaliveTimeoutMs: 3_000 } });
      const session = connect(served);
      const call = new RawCall(session);
      await call.write(headersFrame());
      const mute = new RawConnection(served.transport.port);
      opened.push(() => mute.socket.destroy());
      await until(() => mute.isClosed, 30_000);
      call.stream.end();
      expect(await call.ended()).toBe(status.OK);
    });

    it('are asked to leave at their age, and made to after the grace', async () => {
      const served = await serve({ connections: { ...limits, ageMsMax: 3_000, ageGraceMs: 2_000 } });
      const session = connect(served);
      let wasAsked = false;
      session.on('goaway', () => (wasAsked = true));
      const done = new RawCall(session);
      await done.write(headersFrame());
      const stuck = new RawCall(session);
      await stuck.write(headersFrame('nothing'));
      await until(() => served.calls.length === 2 && served.calls.every((seen) => seen.length === 1));
      await until(() => wasAsked);
      done.stream.end();
      expect(await done.ended()).toBe(status.OK);
      expect(stuck.isClosed).toBe(false);
      await until(() => stuck.isClosed && session.destroyed);
      await until(() => served.calls[1]?.length === 2);
      expect(served.calls[1]?.[1]).toEqual(gone);
    });
  });
});
