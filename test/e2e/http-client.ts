import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { type Dispatcher, Pool } from 'undici';

/** One HTTP/1.1 request. */
export interface Call {
  /** Default POST with a body, GET without. */
  readonly method?: Dispatcher.HttpMethod;
  readonly path: string;
  /** Pairs may repeat a name, and names keep their case. */
  readonly headers?: Readonly<Record<string, string>> | readonly (readonly [name: string, value: string])[];
  readonly body?: Buffer | string;
  /** Send the body in chunks of this many bytes, without a content-length. */
  readonly chunkBytes?: number;
}

/** A whole answer. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
  /** `ip:port` of the model server that answered; undefined where Envoy or Fairlead did. */
  readonly servedBy: string | undefined;
}

/** An answer whose body is still to come. */
export interface OpenAnswer extends Omit<Answer, 'body'> {
  readonly body: Readable;
}

/** How long an answer may take unless told otherwise, in ms: a request that hangs fails its test by name, not by the test's time limit. */
const answerMsMax = 30_000;

/** An HTTP/1.1 client of one origin, with full control over headers and framing. */
export class HttpClient {
  readonly #pool: Pool;

  constructor(origin: string, connections = 64, msMax = answerMsMax) {
    this.#pool = new Pool(origin, { connections, headersTimeout: msMax, bodyTimeout: msMax });
  }

  /** Sends a request and reads the whole answer. */
  async send(call: Call): Promise<Answer> {
    const answer = await this.open(call);
    const chunks: Buffer[] = [];
    for await (const chunk of answer.body) chunks.push(chunk as Buffer);
    return { ...answer, body: Buffer.concat(chunks) };
  }

  /** Sends a request and returns at the answer's headers. The body has to be read or destroyed; destroying it cuts the connection. */
  async open({ method, path, headers = {}, body, chunkBytes }: Call): Promise<OpenAnswer> {
    const pairs = Array.isArray(headers) ? (headers as (readonly [string, string])[]).flat() : Object.entries(headers as Record<string, string>).flat();
    const response = await this.#pool.request({
      method: method ?? (body === undefined ? 'GET' : 'POST'),
      path,
      headers: pairs,
      body: body !== undefined && chunkBytes !== undefined ? cut(Buffer.from(body), chunkBytes) : (body ?? null),
    });
    const servedBy = response.headers['x-served-by'];
    return { status: response.statusCode, headers: response.headers, body: response.body, servedBy: typeof servedBy === 'string' ? servedBy : undefined };
  }

  async stop(): Promise<void> {
    await this.#pool.destroy();
  }
}

function cut(body: Buffer, chunkBytes: number): Readable {
  return Readable.from(
    (function* pieces() {
      for (let at = 0; at < body.length; at += chunkBytes) yield body.subarray(at, at + chunkBytes);
    })(),
    { objectMode: false },
  );
}

/** Writes text as it is, or piece by piece, to a port of loopback and returns all that comes back until the other side closes. */
export function sendRaw(port: number, text: string | AsyncIterable<string>): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' });
    const chunks: Buffer[] = [];
    socket.setTimeout(answerMsMax, () => socket.destroy(new Error(`no end of the answer after ${answerMsMax} ms`)));
    socket.on('data', (chunk) => chunks.push(chunk));
    let error: Error | undefined;
    // An answer may come before all is written, and the connection then break under the rest.
    socket.once('error', (cause) => (error = cause));
    socket.once('close', () => {
      if (chunks.length === 0 && error !== undefined) reject(error);
      else resolve(Buffer.concat(chunks).toString('latin1'));
    });
    const write = async (): Promise<void> => {
      if (typeof text === 'string') socket.write(text);
      else for await (const piece of text) socket.write(piece);
    };
    write().catch((cause: unknown) => socket.destroy(cause as Error));
  });
}

/** Runs `count` tasks, at most `concurrency` at a time; the first rejection ends it. */
export async function inParallel(count: number, concurrency: number, task: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) await task(index);
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, count) }, worker));
}

/** SHA-256 in hex, as the simulated servers' /echo tells it of what they received. */
export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** How often each value occurs. */
export function tally(values: Iterable<string>): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}
