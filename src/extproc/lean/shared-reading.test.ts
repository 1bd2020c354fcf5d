import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { SharedReading } from './shared-reading.ts';

const servers: Server[] = [];
const sockets: Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) await new Promise<void>((resolve) => server.close(() => resolve()));
});

interface Served {
  readonly port: number;
  readonly server: Server;
  /** Those that read, in the order in which they were accepted. */
  readonly readers: { socket: Socket; chunks: Buffer[]; text: () => string; isEnded: boolean; isClosed: boolean }[];
}

async function serve(): Promise<Served> {
  const reading = new SharedReading();
  const readers: Served['readers'] = [];
  const server = createServer({ pauseOnConnect: true, noDelay: true }, (accepted) => {
    const chunks: Buffer[] = [];
    const socket = reading.takeOver(accepted, (chunk) => {
      reader.chunks.push(chunk);
      copies.push(Buffer.from(chunk));
    });
    const copies: Buffer[] = [];
    const reader = { socket, chunks, text: () => Buffer.concat(copies).toString(), isEnded: false, isClosed: false };
    readers.push(reader);
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.on('end', () => (reader.isEnded = true));
    socket.on('close', () => (reader.isClosed = true));
    socket.resume();
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { port: (server.address() as { port: number }).port, server, readers };
}

function open(port: number): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  sockets.push(socket);
  return socket;
}

const soon = { timeout: 10_000 };

describe('SharedReading', () => {
  it('reads all sockets into the same memory, each its own bytes', async () => {
    const { port, readers } = await serve();
    const clients = [open(port), open(port), open(port)];
    for (let round = 0; round < 20; round += 1) {
      for (const [i, client] of clients.entries()) client.write(`${i}${round};`);
      await expect.poll(() => readers.map(({ text }) => text().split(';').length - 1), soon).toEqual([round + 1, round + 1, round + 1]);
    }
    const all = Array.from({ length: 20 }, (_, round) => round);
    const texts = readers.map(({ text }) => text()).sort();
    expect(texts).toEqual([0, 1, 2].map((i) => all.map((round) => `${i}${round};`).join('')));
    const [memory] = readers[0]?.chunks ?? [];
    // Otherwise this Node has lost what it is done by, and each read is allocated again.
    for (const { chunks } of readers) for (const chunk of chunks) expect(chunk.buffer).toBe(memory?.buffer);
  });

  it('gives no more while paused, and all of it after', async () => {
    const { port, readers } = await serve();
    const client = open(port);
    client.write('a');
    await expect.poll(() => readers[0]?.text(), soon).toBe('a');
    const [reader] = readers;
    reader?.socket.pause();
    expect(reader?.socket.isPaused()).toBe(true);
    client.write('b'.repeat(3_000_000));
    // As much as the system holds is gone from the client, and nothing arrives.
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(reader?.text()).toBe('a');
    reader?.socket.resume();
    await expect.poll(() => reader?.text().length, soon).toBe(3_000_001);
  });

  it('tells the end, and answers after it', async () => {
    const { port, readers, server } = await serve();
    const client = open(port);
    let heard = '';
    client.on('data', (chunk: Buffer) => (heard += chunk.toString()));
    client.write('x');
    await expect.poll(() => readers[0]?.text(), soon).toBe('x');
    readers[0]?.socket.write('y');
    await expect.poll(() => heard, soon).toBe('y');
    client.end();
    await expect.poll(() => readers[0]?.isEnded, soon).toBe(true);
    await expect.poll(() => readers[0]?.isClosed, soon).toBe(true);
    // The server does not wait for a connection that is over.
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });

  it('is closed by a reset, as the server knows then', async () => {
    const { port, readers, server } = await serve();
    const client = open(port);
    client.write('x');
    await expect.poll(() => readers[0]?.text(), soon).toBe('x');
    client.resetAndDestroy();
    await expect.poll(() => readers[0]?.isClosed, soon).toBe(true);
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });

  it('reads as Node does where that has no such thing', async () => {
    let text = '';
    const server = createServer({ pauseOnConnect: true }, (accepted) => {
      // As another version may have it.
      Object.defineProperty((accepted as unknown as { _handle: object })._handle, 'useUserBuffer', { value: undefined });
      const socket = new SharedReading().takeOver(accepted, (chunk) => (text += chunk.toString()));
      expect(socket).toBe(accepted);
      sockets.push(socket);
      socket.resume();
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    open((server.address() as { port: number }).port).write('x');
    await expect.poll(() => text, soon).toBe('x');
  });
});
