import type { IncomingMessage, ServerResponse } from 'node:http';
import { type ApiError, openAiError } from './dialect.ts';

/** The whole request body; `too-large` beyond `bytesMax` (the rest is thrown away), `aborted` where the client left before its end. */
export function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer | 'too-large' | 'aborted'> {
  // By events: leaving an async iteration early would destroy the connection, and with it the answer that says "too large".
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= bytesMax) chunks.push(chunk);
      else {
        chunks.length = 0;
        resolve('too-large');
      }
    });
    request.once('end', () => resolve(Buffer.concat(chunks)));
    request.once('error', () => resolve('aborted'));
    request.once('close', () => resolve('aborted'));
  });
}

/** `ip:port` of the side of the connection that serves it, IPv6 in brackets. */
export function servedBy({ socket }: IncomingMessage): string {
  // A listener on :: sees IPv4 addresses mapped into IPv6.
  const address = (socket.localAddress ?? '').replace(/^::ffff:(?=\d+\.)/, '');
  return `${address.includes(':') ? `[${address}]` : address}:${socket.localPort ?? 0}`;
}

/** Every header received, in lower case; those that came several times joined by a comma, none dropped. */
export function receivedHeaders({ rawHeaders }: IncomingMessage): Record<string, string> {
  const headers = new Map<string, string>();
  // Names and values take turns.
  for (const [at, value] of rawHeaders.entries()) {
    if (at % 2 === 0) continue;
    const name = rawHeaders[at - 1]?.toLowerCase() ?? '';
    const earlier = headers.get(name);
    headers.set(name, earlier === undefined ? value : `${earlier}, ${value}`);
  }
  return Object.fromEntries(headers);
}

export function sendJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): void {
  const bytes = Buffer.from(JSON.stringify(body));
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes.length, ...headers });
  response.end(bytes);
}

/** Answers with an error, in the words of OpenAI's APIs unless told otherwise. */
export function sendError(response: ServerResponse, error: ApiError, toJson: (error: ApiError) => object = openAiError): void {
  sendJson(response, error.status, toJson(error), error.headers);
}

export function methodNotAllowed(allow: string): ApiError {
  return { status: 405, code: 'method_not_allowed', message: `use ${allow}`, headers: { allow } };
}

/** For a body beyond the limit. The connection stays: closing it with bytes still coming in would reset it, and lose this answer. */
export const bodyTooLarge: ApiError = { status: 413, code: 'body_too_large', message: 'the body is too large' };

/** The longest body taken by the model API and /echo. */
export const bodyBytesMax = 64 * 1024 * 1024;

/** The value a JSON text stands for; undefined if it is none. */
export function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}

export function sendText(response: ServerResponse, status: number, text: string, contentType = 'text/plain; charset=utf-8'): void {
  const bytes = Buffer.from(text);
  response.writeHead(status, { 'content-type': contentType, 'content-length': bytes.length });
  response.end(bytes);
}

/** Breaks the connection with a TCP reset, after what was written in this turn of the event loop has gone out. */
export function resetConnection({ socket }: ServerResponse): void {
  setImmediate(() => socket?.resetAndDestroy());
}
