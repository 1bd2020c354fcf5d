import { Agent } from 'node:http';
import type { Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { type Handler, type LoopbackServer, startHttpServer, startTcpServer } from '../../test/loopback-server.ts';
import { httpGet, type Question } from './http-get.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

const kept = async (server: Promise<LoopbackServer>): Promise<LoopbackServer> => {
  const started = await server;
  cleanups.push(() => started.stop());
  return started;
};
const serve = (handler: Handler): Promise<LoopbackServer> => kept(startHttpServer(handler));
const serveTcp = (accept: (socket: Socket) => void): Promise<LoopbackServer> => kept(startTcpServer(accept));
/** Sends text as soon as anything is asked. */
const say =
  (text: string, then: (socket: Socket) => void = () => undefined) =>
  (socket: Socket): void => {
    socket.on('data', () => {
      socket.write(text, () => {
        then(socket);
      });
    });
  };

const agent = new Agent({ keepAlive: true });
cleanups.push(() => agent.destroy());
const get = (port: number, question: Partial<Question> = {}): ReturnType<typeof httpGet> =>
  httpGet({
    host: '127.0.0.1',
    port,
    path: '/health',
    headers: {},
    timeoutMs: 20_000,
    bodyBytesMax: 1_000,
    wantsBody: (status) => status === 200,
    agent,
    clock: { nowMs: () => performance.now() },
    signal: new AbortController().signal,
    ...question,
  });

describe('httpGet', () => {
  it('brings the status and the whole body', async () => {
    const { port } = await serve((request, response) => void response.write(`${request.method ?? ''} `, () => response.end(request.url)));
    expect(await get(port)).toEqual({ ok: true, status: 200, body: Buffer.from('GET /health') });
  });

  it.each([204, 302, 404, 503])('brings a status of %d without the body', async (status) => {
    const { port } = await serve((_, response) => {
      response.writeHead(status, { location: '/' }).flushHeaders();
    });
    expect(await get(port)).toEqual({ ok: true, status, body: Buffer.alloc(0) });
  });

  it('asks again on the same connection', async () => {
    const server = await serve((_, response) => void response.end('x'));
    for (let i = 0; i < 3; i += 1) expect(await get(server.port)).toMatchObject({ ok: true });
    expect(server.connections()).toBe(1);
  });

  it('asks on a new one where the last question was broken off, and where it was told to', async () => {
    let hangs = true;
    const server = await serve((_, response) => {
      if (!hangs) response.end('x');
    });
    expect(await get(server.port, { timeoutMs: 50 })).toMatchObject({ cause: 'timeout' });
    hangs = false;
    expect(await get(server.port, { headers: { connection: 'close' } })).toMatchObject({ ok: true });
    expect(await get(server.port)).toMatchObject({ ok: true });
    expect(server.connections()).toBe(3);
  });

  it.each<[string, (socket: Socket) => void, string, RegExp]>([
    ['says nothing', () => undefined, 'timeout', /^\/health took longer than 50 ms$/],
    ['stops among the headers', say('HTTP/1.1 200 OK\r\ncontent-le'), 'timeout', /longer than 50 ms/],
    ['stops in the body', say('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf'), 'timeout', /longer than 50 ms/],
    ['never ends, a little at a time', (socket) => void setInterval(() => socket.write('x'), 5).unref(), 'malformed', /Parse Error/],
    ['resets the connection', (socket) => void socket.resetAndDestroy(), 'unreachable', /ECONNRESET|hang up/],
    ['hangs up', say('', (socket) => socket.end()), 'unreachable', /hang up|closed/],
    ['hangs up in the body', say('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf', (socket) => socket.end()), 'unreachable', /aborted|closed|hang up/],
    ['resets in the body', say('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf', (socket) => void socket.resetAndDestroy()), 'unreachable', /aborted|ECONNRESET/],
    ['speaks something else', say('SSH-2.0-OpenSSH_9.9\r\n'), 'malformed', /Parse Error/],
    ['has headers without end', say(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}`), 'malformed', /Header overflow/],
    ['answers too much', say(`HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n${'x'.repeat(1_001)}`), 'too-large', /larger than 1000 bytes/],
    ['wants to speak another protocol', say('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n'), 'unreachable', /closed|hang up/],
  ])('says why there is no answer of a server that %s', async (_, accept, cause, detail) => {
    const { port } = await serveTcp(accept);
    const answer = await get(port, cause === 'timeout' ? { timeoutMs: 50 } : {});
    expect(answer).toMatchObject({ ok: false, cause });
    expect(answer).toHaveProperty('detail', expect.stringMatching(detail));
  });

  it('ends a body that drips for ever when the time is up', async () => {
    let closed = false;
    const { port } = await serve((request, response) => {
      const drip = setInterval(() => response.write('x'), 5);
      request.socket.once('close', () => {
        closed = true;
        clearInterval(drip);
      });
    });
    expect(await get(port, { timeoutMs: 100, bodyBytesMax: 1_000_000 })).toMatchObject({ cause: 'timeout' });
    await expect.poll(() => closed, { timeout: 15_000 }).toBe(true);
  });

  it('stops reading a body that is too large', async () => {
    let closed = false;
    const { port } = await serve((request, response) => {
      request.socket.once('close', () => (closed = true));
      const more = (): void => {
        if (response.writable) response.write(Buffer.alloc(65_536, 'x'), () => more());
      };
      more();
    });
    expect(await get(port)).toMatchObject({ cause: 'too-large' });
    await expect.poll(() => closed, { timeout: 15_000 }).toBe(true);
  });

  it('takes a body of just the size that is allowed', async () => {
    const { port } = await serve((_, response) => void response.end('x'.repeat(1_000)));
    expect(await get(port)).toMatchObject({ ok: true, status: 200 });
  });

  it('tells of a server that is not there', async () => {
    const server = await serve(() => undefined);
    await server.stop();
    expect(await get(server.port)).toMatchObject({ ok: false, cause: 'unreachable', detail: expect.stringContaining('ECONNREFUSED') as string });
  });

  it('asks once more where a used connection is closed in that moment, and only once', async () => {
    let answered = 0;
    let closesAll = false;
    const server = await serveTcp((socket) => {
      let questions = 0;
      socket.on('data', () => {
        questions += 1;
        if (questions > 1 || closesAll) socket.destroy();
        else socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n', () => (answered += 1));
      });
    });
    expect(await get(server.port)).toMatchObject({ ok: true });
    expect(await get(server.port)).toMatchObject({ ok: true });
    expect([answered, server.connections()]).toEqual([2, 2]);
    closesAll = true;
    expect(await get(server.port)).toMatchObject({ cause: 'unreachable' });
    expect(server.connections()).toBe(3);
  });

  it('is broken off at once', async () => {
    let closed = false;
    const { port } = await serve((request) => void request.socket.once('close', () => (closed = true)));
    const gone = new AbortController();
    const answer = get(port, { signal: gone.signal });
    setTimeout(() => gone.abort(), 50);
    expect(await answer).toMatchObject({ ok: false, cause: 'unreachable' });
    await expect.poll(() => closed, { timeout: 15_000 }).toBe(true);
  });

  it('does not lay it at the door of the server when this process was busy', async () => {
    // Served by a thread of its own, which answers while this one is busy.
    const source = `require('node:http').createServer((_, response) => response.end('x')).listen(0, '127.0.0.1', function () {
      require('node:worker_threads').parentPort.postMessage(this.address().port);
    });`;
    const worker = new Worker(source, { eval: true });
    cleanups.push(() => worker.terminate());
    const port = await new Promise<number>((resolve) => void worker.once('message', resolve));
    const answer = get(port, { timeoutMs: 1_000 });
    const untilMs = performance.now() + 2_500;
    while (performance.now() < untilMs);
    expect(await answer).toMatchObject({ ok: true });
  });
});
