// What a call that ended knows of whether its client read the answers.
import http2 from 'node:http2';
import { afterEach, describe, expect, it } from 'vitest';
import type { GrpcTransport } from '../../src/extproc/grpc-transport.ts';
import type { ProcessCall } from '../../src/extproc/stream.ts';
import { bodyFrame, headersFrame, processAlone, RawCall, RawConnection, startTransport, unlimited } from './grpc-transport-under-test.ts';

/** What a stream's call said of itself at its end. */
interface End {
  readonly unheard: boolean | undefined;
  readonly peer: ProcessCall['peer'];
}

// grpc-js cannot tell.
describe.each(['lean', 'http2'] as const)('a call that is over on %s', (name) => {
  let transport: GrpcTransport | undefined;
  afterEach(() => transport?.destroy());

  async function serve(answer: Buffer): Promise<{ port: number; ends: End[]; messages: () => number }> {
    const ends: End[] = [];
    let messages = 0;
    transport = await startTransport[name]({
      ...unlimited,
      services: processAlone((call) => ({
        onMessage: () => {
          messages += 1;
          call.send({ request_body: { response: { body_mutation: { body: answer } } } });
        },
        // Node's client half-closes a stream before it resets it, as Envoy does, and both are seen where they come apart.
        onEnd: () => {
          ends.push({ unheard: call.isUnheard, peer: call.peer });
          call.end();
        },
        onCancelled: () => void ends.push({ unheard: call.isUnheard, peer: call.peer }),
      })),
    });
    return { port: transport.port, ends, messages: () => messages };
  }

  it('was not heard where the reset came together with the request', async () => {
    const { port, ends, messages } = await serve(Buffer.from('x'));
    const connection = new RawConnection(port);
    connection.socket.cork();
    connection.open(1, headersFrame());
    connection.reset(1, 0);
    connection.socket.uncork();
    await expect.poll(() => ends.length, { timeout: 10_000 }).toBe(1);
    // Whether the request was still taken is the transport's business; if it was, its answer went nowhere.
    expect(messages() === 0 || ends[0]?.unheard === true).toBe(true);
    connection.socket.destroy();
  });

  it('was not heard where its answer waits for room in the window', async () => {
    const { port, ends } = await serve(Buffer.alloc(1_000_000));
    const session = http2.connect(`http://127.0.0.1:${port}`);
    const call = new RawCall(session);
    call.stream.pause();
    await call.write(bodyFrame(Buffer.from('x')));
    await expect.poll(() => call.status, { timeout: 10_000 }).toBe(200);
    call.stream.close(http2.constants.NGHTTP2_CANCEL);
    await expect.poll(() => ends.length, { timeout: 10_000 }).toBe(1);
    expect(ends[0]?.unheard).toBe(true);
    session.destroy();
  });

  it('was heard where its answer was read, and shares what is known of the client with the other calls of the connection', async () => {
    const { port, ends } = await serve(Buffer.from('x'));
    const session = http2.connect(`http://127.0.0.1:${port}`);
    for (let i = 0; i < 2; i += 1) {
      const call = new RawCall(session);
      await call.write(headersFrame());
      await call.answered(1);
      call.stream.close(http2.constants.NGHTTP2_CANCEL);
      await expect.poll(() => ends.length, { timeout: 10_000 }).toBe(i + 1);
    }
    expect(ends.map(({ unheard }) => unheard)).toEqual([false, false]);
    expect(ends[0]?.peer).toEqual({ honoursOverrides: false });
    expect(ends[0]?.peer).toBe(ends[1]?.peer);
    session.destroy();
  });
});

describe('the end of what came at once, on lean', () => {
  let transport: GrpcTransport | undefined;
  afterEach(() => transport?.destroy());

  /** Serves calls that end themselves once all was read that came along with their message; tells what happens. */
  async function serve(): Promise<{ port: number; happened: string[] }> {
    const happened: string[] = [];
    transport = await startTransport.lean({
      ...unlimited,
      services: processAlone((call) => ({
        onMessage: () => {
          happened.push('message');
          call.send({ request_body: {} });
          call.onceRead?.({
            onRead: () => {
              happened.push('read');
              call.end();
            },
          });
        },
        onEnd: () => void happened.push('end'),
        onCancelled: () => void happened.push('cancelled'),
      })),
    });
    return { port: transport.port, happened };
  }

  it('comes after all messages, and what is ended then leaves with its answer', async () => {
    const { port, happened } = await serve();
    const connection = new RawConnection(port);
    connection.socket.cork();
    connection.open(1, headersFrame());
    connection.open(3, headersFrame());
    connection.socket.uncork();
    await expect.poll(() => happened, { timeout: 10_000 }).toEqual(['message', 'message', 'read', 'read']);
    connection.socket.destroy();
    const session = http2.connect(`http://127.0.0.1:${port}`);
    const call = new RawCall(session);
    await call.write(headersFrame());
    await call.answered(1);
    expect(await call.ended()).toBe(0);
    session.destroy();
  });

  it('comes after a reset that came along, which the call has heard of by then', async () => {
    const { port, happened } = await serve();
    const connection = new RawConnection(port);
    connection.socket.cork();
    connection.open(1, headersFrame());
    connection.reset(1, 8);
    connection.socket.uncork();
    await expect.poll(() => happened, { timeout: 10_000 }).toEqual(['message', 'cancelled', 'read']);
    connection.socket.destroy();
  });
});
