import { createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import type { GrpcTransport, TransportOptions } from '../grpc-transport.ts';
import { listenOn, parseListenAddress } from '../listen-address.ts';
import { toMethods } from '../served-methods.ts';
import { toContextOptions } from '../tls-files.ts';
import { SpareBuffers } from '../spare-buffers.ts';
import { Connection, type ConnectionSettings } from './connection.ts';
import { SharedReading } from './shared-reading.ts';

/** Longest TLS handshake, in ms. */
const handshakeMsMax = 10_000;

/** Serves gRPC on HTTP/2 of our own, for what Envoy, gRPC clients and health checkers need of it. */
export async function startLeanTransport(options: TransportOptions): Promise<GrpcTransport> {
  const { tls } = options;
  const settings: ConnectionSettings = {
    methods: toMethods(options.services),
    messageBytesMax: options.messageBytesMax,
    buffers: new SpareBuffers(),
    limits: options.connections,
    resetLimit: options.resetLimit,
    onError: options.onError,
  };
  const connections = new Set<Connection>();
  let isDraining = false;
  const serve = (socket: Socket): Connection => {
    const connection = new Connection(socket, settings);
    connections.add(connection);
    socket.once('close', () => connections.delete(connection));
    // One whose handshake took that long.
    if (isDraining) connection.leave();
    return connection;
  };
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): void => {
    socket.on('error', ignoreError);
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  };

  let server: Server;
  if (tls === undefined) {
    const reading = new SharedReading();
    server = createServer({ noDelay: true, pauseOnConnect: true }, (accepted) => {
      const socket = reading.takeOver(accepted, (chunk) => connection.take(chunk));
      keep(socket);
      const connection = serve(socket);
      socket.resume();
    });
  } else {
    const clients = { requestCert: tls.asksClients, rejectUnauthorized: tls.asksClients };
    const secure = createTlsServer({ ...toContextOptions(tls.contents), ...clients, ALPNProtocols: ['h2'], handshakeTimeout: handshakeMsMax, noDelay: true });
    secure.on('secureConnection', (socket: TLSSocket) => {
      socket.on('error', ignoreError);
      // RFC 9113, section 9.2.1.
      socket.disableRenegotiation();
      if (socket.alpnProtocol !== 'h2') {
        socket.destroy();
        return;
      }
      const connection = serve(socket);
      socket.on('data', (chunk: Buffer) => connection.take(chunk));
    });
    secure.on('connection', keep);
    // A handshake that goes wrong concerns its client alone.
    secure.on('tlsClientError', ignoreError);
    tls.watch((contents) => secure.setSecureContext(toContextOptions(contents)));
    server = secure;
  }
  const port = await listenOn(server, parseListenAddress(options.address), options.socketMode);
  // Such as too many open files: it passes.
  server.on('error', ignoreError);
  return {
    port,
    drain: async () => {
      tls?.close();
      isDraining = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const connection of [...connections]) connection.leave();
      await closed;
    },
    destroy: () => {
      tls?.close();
      server.close();
      for (const connection of [...connections]) connection.destroy();
      // After they had their last turn to write; and those in the middle of a handshake.
      setImmediate(() => {
        for (const socket of sockets) socket.destroy();
      });
    },
  };
}

function ignoreError(): void {
  // Said by the events that follow it.
}
