import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A request as an upstream received it, to the byte. */
export interface ReceivedRequest {
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** All of it came; false: the connection broke under the body. */
  readonly whole: boolean;
}

/** An upstream that keeps what it receives and answers 200 with nothing; requests with a header `x-hang` it never answers. */
export interface RecordingServer {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  /** What was received since the last look, in order of arrival. */
  take(): ReceivedRequest[];
  stop(): Promise<void>;
}

/** Starts one on a free port of loopback. */
export async function startRecordingServer(): Promise<RecordingServer> {
  let received: ReceivedRequest[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('error', () => undefined);
    request.on('close', () => {
      received.push({ headers: request.headers, body: Buffer.concat(chunks), whole: request.complete });
    });
    request.on('end', () => {
      if (request.headers['x-hang'] === undefined) response.writeHead(200, { 'content-length': '0', 'x-served-by': address }).end();
    });
  });
  await new Promise<void>((resolve) => server.listen({ host: '127.0.0.1', port: 0 }, resolve));
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    address,
    take: () => {
      const taken = received;
      received = [];
      return taken;
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
