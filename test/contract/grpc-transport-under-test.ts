// A transport with services that do as the client says, and two clients: node:http2 where bytes matter, frames by hand where HTTP/2 does.
import type http2 from 'node:http2';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { startGrpcJsTransport } from '../../src/extproc/grpc-js/server.ts';
import type { CallListener, GrpcServices, GrpcTransport, StartTransport, TransportOptions } from '../../src/extproc/grpc-transport.ts';
import { startHttp2Transport } from '../../src/extproc/http2/server.ts';
import { startLeanTransport } from '../../src/extproc/lean/server.ts';
import type { ProcessingRequest, ProcessingResponse, StreamAccessLogsMessage } from '../../src/extproc/messages.ts';
import { decodeProcessingResponse, encodeProcessingRequest, externalProcessorService, reflectionPackage } from '../../src/extproc/proto.ts';
import type { ProcessCall } from '../../src/extproc/stream.ts';

export const startTransport: Readonly<Record<'lean' | 'http2' | 'grpc-js', StartTransport>> = { lean: startLeanTransport, http2: startHttp2Transport, 'grpc-js': startGrpcJsTransport };
export const messageBytesMax = 2 << 20;

/** A transport, and what its services saw. */
export interface ServedTransport {
  readonly transport: GrpcTransport;
  /** `message PHASE`, `end`, `cancelled` of each call, in the order of calls. */
  readonly calls: string[][];
  readonly health: HealthImplementation;
  /** Ends the access-log streams that are open. */
  readonly endAccessLogs: () => void;
}

/** A free port in plain text, without limits. */
export const unlimited: Omit<TransportOptions, 'services'> = {
  address: '127.0.0.1:0',
  socketMode: 0o660,
  tls: undefined,
  messageBytesMax,
  connections: { keepaliveIntervalMs: 0, keepaliveTimeoutMs: 20_000, ageMsMax: 0, ageGraceMs: 0 },
  resetLimit: 'none',
  onError: (error) => {
    throw error;
  },
};

/** Services of which external processing alone is there. */
export function processAlone(openProcess: GrpcServices['openProcess']): GrpcServices {
  return {
    openProcess,
    openAccessLog: () => ({ onMessage: () => undefined, onEnd: () => undefined, onCancelled: () => undefined }),
    wantsAttributes: () => true,
    addTo: () => undefined,
  };
}

/**
 * Starts a transport. A body is echoed; headers are answered, but one with the key `do` says what is done: `nothing`, `end`, `fail` (INTERNAL),
 * `refuse` (INVALID_ARGUMENT), `answer and fail`, `answer and end`.
 */
export async function serveTransport(start: StartTransport, options: Partial<TransportOptions> = {}): Promise<ServedTransport> {
  const calls: string[][] = [];
  const health = new HealthImplementation({ '': 'SERVING', readiness: 'NOT_SERVING' });
  const reflection = new ReflectionService(reflectionPackage());
  const accessLogEnds = new Set<() => void>();
  const openProcess = (call: ProcessCall): CallListener<ProcessingRequest> => {
    const seen: string[] = [];
    calls.push(seen);
    return {
      onMessage: (request) => {
        seen.push(`message ${request.request ?? 'unknown'}`);
        if (request.request_body !== undefined) {
          const { body = Buffer.alloc(0) } = request.request_body;
          call.send({ request_body: { response: { body_mutation: { streamed_response: { body } } } } });
          return;
        }
        const header = request.request_headers?.headers?.headers?.find(({ key }) => key === 'do');
        const todo = header?.raw_value?.toString() ?? 'answer';
        if (todo.startsWith('answer')) call.send({ request_headers: { response: { clear_route_cache: true } } });
        if (todo.endsWith('end')) call.end();
        if (todo.endsWith('fail')) call.fail('internal', failureMessage);
        if (todo === 'refuse') call.fail('invalid-argument', failureMessage);
      },
      onEnd: () => {
        seen.push('end');
        call.end();
      },
      onCancelled: () => void seen.push('cancelled'),
    };
  };
  const openAccessLog = (end: () => void): CallListener<StreamAccessLogsMessage> => {
    const seen: string[] = [];
    calls.push(seen);
    accessLogEnds.add(end);
    return {
      onMessage: (message) => void seen.push(`message ${message.http_logs?.log_entry?.length ?? 0}`),
      onEnd: () => {
        seen.push('end');
        end();
      },
      onCancelled: () => void seen.push('cancelled'),
    };
  };
  const transport = await start({
    ...unlimited,
    ...options,
    services: {
      openProcess,
      openAccessLog,
      wantsAttributes: () => true,
      addTo: (server) => {
        health.addToServer(server);
        reflection.addToServer(server);
      },
    },
  });
  return {
    transport,
    calls,
    health,
    endAccessLogs: () => {
      for (const end of accessLogEnds) end();
    },
  };
}

/** Of all kinds of characters: printable, percent, line break, beyond ASCII. */
export const failureMessage = '50 % schlägt fehl\nnichts geht';

export const processPath = externalProcessorService.Process.path;
export const grpcHeaders: http2.OutgoingHttpHeaders = { ':method': 'POST', ':path': processPath, 'content-type': 'application/grpc', te: 'trailers' };

/** A message in gRPC's framing: flag, length, bytes. */
export function toFrame(message: Buffer, flag = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

export function headersFrame(todo?: string): Buffer {
  const headers = todo === undefined ? [] : [{ key: 'do', raw_value: Buffer.from(todo) }];
  return toFrame(encodeProcessingRequest({ request_headers: { headers: { headers: [{ key: ':path', raw_value: Buffer.from('/') }, ...headers] } } }));
}

export function bodyFrame(body: Buffer): Buffer {
  return toFrame(encodeProcessingRequest({ request_body: { body } }));
}

/** One call as it looks in HTTP/2. */
export class RawCall {
  readonly stream: http2.ClientHttp2Stream;
  status: number | undefined;
  /** `grpc-status`, wherever it came. */
  grpcStatus: number | undefined;
  grpcMessage: string | undefined;
  /** The status came with the first headers, without any message. */
  isTrailersOnly = false;
  isClosed = false;
  rstCode: number | undefined;
  readonly answers: ProcessingResponse[] = [];
  #rest: Buffer = Buffer.alloc(0);

  constructor(session: http2.ClientHttp2Session, headers: http2.OutgoingHttpHeaders = {}) {
    this.stream = session.request({ ...grpcHeaders, ...headers });
    this.stream.on('response', (received) => {
      this.status = received[':status'];
      this.isTrailersOnly = received['grpc-status'] !== undefined;
      this.#readStatus(received);
    });
    this.stream.on('trailers', (received: http2.IncomingHttpHeaders) => this.#readStatus(received));
    this.stream.on('data', (chunk: Buffer) => this.#read(chunk));
    this.stream.on('error', () => undefined);
    this.stream.on('close', () => {
      this.isClosed = true;
      this.rstCode = this.stream.rstCode;
    });
  }

  /** Resolves when the bytes went out. */
  write(bytes: Buffer): Promise<void> {
    return new Promise((resolve) => this.stream.write(bytes, () => resolve()));
  }

  async answered(count: number): Promise<ProcessingResponse[]> {
    await until(() => this.answers.length >= count || this.isClosed);
    return this.answers;
  }

  /** The status, once the call has ended. */
  async ended(): Promise<number | undefined> {
    await until(() => this.isClosed || this.grpcStatus !== undefined);
    return this.grpcStatus;
  }

  #readStatus(headers: http2.IncomingHttpHeaders): void {
    if (headers['grpc-status'] === undefined) return;
    this.grpcStatus = Number(headers['grpc-status']);
    const message = headers['grpc-message'];
    this.grpcMessage = typeof message === 'string' ? decodeURIComponent(message) : undefined;
  }

  #read(chunk: Buffer): void {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= 5 && this.#rest.length >= 5 + this.#rest.readUInt32BE(1)) {
      const end = 5 + this.#rest.readUInt32BE(1);
      this.answers.push(decodeProcessingResponse(this.#rest.subarray(5, end)));
      this.#rest = this.#rest.subarray(end);
    }
  }
}

/** An HTTP/2 connection of frames made by hand. It answers nothing by itself. */
export class RawConnection {
  readonly socket: net.Socket;
  /** Types of the frames that came, with code and last stream of GOAWAY. */
  readonly goaways: { lastStreamId: number; code: number }[] = [];
  pingAcks = 0;
  isClosed = false;
  #rest: Buffer = Buffer.alloc(0);

  constructor(port: number) {
    this.socket = net.connect(port, '127.0.0.1');
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => (this.isClosed = true));
    this.socket.on('data', (chunk: Buffer) => this.#read(chunk));
    this.socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    this.socket.write(frame(4, 0, 0, Buffer.alloc(0)));
  }

  ping(): void {
    this.socket.write(frame(6, 0, 0, Buffer.alloc(8)));
  }

  /** Opens a call, with these bytes in pieces as they fit into frames. */
  open(id: number, data: Buffer): void {
    const frames = [frame(1, 4, id, headerBlock())];
    for (let at = 0; at < data.length; at += 16_384) frames.push(frame(0, 0, id, data.subarray(at, at + 16_384)));
    this.socket.write(Buffer.concat(frames));
  }

  reset(id: number, code: number): void {
    this.socket.write(frame(3, 0, id, Buffer.from([0, 0, 0, code])));
  }

  /** Opens calls on the next streams and resets each at once. */
  resetCalls(first: number, count: number): void {
    const block = headerBlock();
    const cancel = Buffer.from([0, 0, 0, 8]);
    const frames: Buffer[] = [];
    for (let i = 0; i < count; i += 1) {
      const id = first + 2 * i;
      frames.push(frame(1, 4, id, block), frame(3, 0, id, cancel));
    }
    this.socket.write(Buffer.concat(frames));
  }

  #read(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= 9) {
      const length = this.#rest.readUIntBE(0, 3);
      if (this.#rest.length < 9 + length) return;
      const [type, flags] = [this.#rest[3], this.#rest[4]];
      const payload = this.#rest.subarray(9, 9 + length);
      if (type === 6 && flags === 1) this.pingAcks += 1;
      if (type === 7) this.goaways.push({ lastStreamId: payload.readUInt32BE(0), code: payload.readUInt32BE(4) });
      this.#rest = this.#rest.subarray(9 + length);
    }
  }
}

/** An HTTP/2 frame (RFC 9113, 4.1). */
function frame(type: number, flags: number, streamId: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, payload]);
}

/** The headers of a call, each a literal that is not indexed (RFC 7541, 6.2.2). */
function headerBlock(): Buffer {
  const text = (value: string): Buffer => {
    // 127 and more take further bytes; none here is as long as 255.
    const length = value.length < 127 ? [value.length] : [127, value.length - 127];
    return Buffer.concat([Buffer.from(length), Buffer.from(value)]);
  };
  const headers = { ':method': 'POST', ':scheme': 'http', ':path': processPath, ':authority': 'a', 'content-type': 'application/grpc', te: 'trailers' };
  return Buffer.concat(Object.entries(headers).flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]));
}

export async function until(condition: () => boolean, msMax = 15_000): Promise<void> {
  for (let waited = 0; !condition(); waited += 5) {
    if (waited > msMax) throw new Error(`waited in vain for ${condition.toString()}`);
    await sleep(5);
  }
}
