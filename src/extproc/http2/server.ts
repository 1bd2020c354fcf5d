import {
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  type Http2Session,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { Server as NetServer, type Socket } from 'node:net';
import { status as grpcStatus } from '@grpc/grpc-js';
import { isGrpc } from '../grpc-status.ts';
import { type GrpcTransport, resetLimitsOff, type TransportOptions } from '../grpc-transport.ts';
import { listenOn, parseListenAddress } from '../listen-address.ts';
import { toMethods } from '../served-methods.ts';
import { toContextOptions } from '../tls-files.ts';
import { type CallSettings, closeQuietly, Http2Call, respondTrailersOnly, toTrailers } from './call.ts';
import { Connection } from './connection.ts';

/** Bodies come whole or in large pieces: with the 64 KiB that HTTP/2 begins with, one of 220 KB would wait for each. */
const streamWindowBytes = 1_048_576;

/** Node counts what is queued for sending and refuses streams above this, in MiB. Its own default is 10, which echoed bodies fill. */
const sessionMemoryMib = 1_024;

/** Longest TLS handshake, in ms. */
const handshakeMsMax = 10_000;

/** Serves gRPC on node:http2, for what Envoy and health checkers need of it. */
export async function startHttp2Transport(options: TransportOptions): Promise<GrpcTransport> {
  const address = parseListenAddress(options.address);
  const { tls, services, resetLimit } = options;
  const methods = toMethods(services);
  const settings = { settings: { initialWindowSize: streamWindowBytes, enablePush: false }, maxSessionMemory: sessionMemoryMib, ...resetLimitsOff };
  let server: Http2Server | Http2SecureServer;
  if (tls === undefined) {
    server = createServer(settings);
  } else {
    const clients = { requestCert: tls.asksClients, rejectUnauthorized: tls.asksClients };
    const secure = createSecureServer({ ...settings, ...toContextOptions(tls.contents), ...clients, handshakeTimeout: handshakeMsMax });
    tls.watch((contents) => secure.setSecureContext(toContextOptions(contents)));
    server = secure;
  }

  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    socket.setNoDelay(true);
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  const connections = new Map<Http2Session, Connection>();
  server.on('session', (session: Http2Session) => {
    connections.set(session, new Connection(session, options.connections));
    session.once('close', () => connections.delete(session));
  });

  const connectionOf = ({ session }: ServerHttp2Stream): Connection | undefined => (session === undefined ? undefined : connections.get(session));
  const callSettings: CallSettings = {
    messageBytesMax: options.messageBytesMax,
    onUnansweredReset: resetLimit === 'guard' ? (stream) => connectionOf(stream)?.countUnansweredReset() : undefined,
  };
  server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    stream.on('error', ignoreError);
    (stream as unknown as { _destroy: Destroy })._destroy = destroyWithoutTrace;
    const method = headers[':method'] === 'POST' && isGrpc(headers['content-type']) ? methods.get(headers[':path'] ?? '') : undefined;
    if (method === undefined) refuse(stream, headers);
    else Http2Call.start(stream, method, headers['grpc-encoding'] as string | undefined, callSettings, connectionOf(stream)?.peer);
  });
  // A connection or handshake that goes wrong concerns its client alone.
  server.on('sessionError', ignoreError);

  const port = await listenOn(server, address, options.socketMode);
  // Such as too many open files: it passes.
  server.on('error', ignoreError);
  return {
    port,
    drain: async () => {
      tls?.close();
      const closed = new Promise<void>((resolve) => stopListening(server, resolve));
      for (const connection of connections.values()) connection.leave();
      await closed;
    },
    destroy: () => {
      tls?.close();
      stopListening(server, () => undefined);
      for (const connection of connections.values()) connection.destroy();
      // Those in the middle of a handshake, and what a client does not let go of.
      setImmediate(() => {
        for (const socket of sockets) socket.destroy();
      });
    },
  };
}

/** What is no gRPC is refused in HTTP's terms, an unknown method in gRPC's. */
function refuse(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
  if (stream.destroyed || stream.closed) return;
  if (!isGrpc(headers['content-type'])) stream.respond({ ':status': 415 }, { endStream: true });
  else if (headers[':method'] !== 'POST') stream.respond({ ':status': 405, allow: 'POST' }, { endStream: true });
  else respondTrailersOnly(stream, toTrailers(grpcStatus.UNIMPLEMENTED, `unknown method ${headers[':path'] ?? ''}`));
  stream.resume();
  closeQuietly(stream);
}

/** Node's own `close` of an http2 server also closes its connections, together with streams that are on their way. */
function stopListening(server: Http2Server | Http2SecureServer, whenClosed: () => void): void {
  NetServer.prototype.close.call(server, () => whenClosed());
}

function ignoreError(): void {
  // Said by the events that follow it.
}

type Destroy = (this: ServerHttp2Stream, error: Error | null, callback: (error?: Error | null) => void) => void;

/**
 * What Node does when a stream ends, without the stack trace of the error that it makes of each reset: Envoy ends every call by one, and
 * traces were a third of all work.
 */
function destroyWithoutTrace(this: ServerHttp2Stream, error: Error | null, callback: (error?: Error | null) => void): void {
  const before = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    (Object.getPrototypeOf(this) as { _destroy: Destroy })._destroy.call(this, error, callback);
  } finally {
    Error.stackTraceLimit = before;
  }
}
