import { createServer as createHttpServer, type IncomingMessage, type Server as HttpServer, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net';

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** A server on the loopback that can be taken away and come back at the same port. */
export interface LoopbackServer {
  readonly address: string;
  readonly port: number;
  /** Connections accepted so far. */
  readonly connections: () => number;
  /** Stops listening and breaks all connections: connecting is refused from then on. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** Starts an HTTP server on a free port. */
export async function startHttpServer(handler: Handler): Promise<LoopbackServer> {
  return started(createHttpServer(handler));
}

/** Starts a TCP server on a free port, for what no HTTP server would answer. */
export async function startTcpServer(accept: (socket: Socket) => void): Promise<LoopbackServer> {
  return started(createTcpServer(accept));
}

async function started(server: Server | HttpServer): Promise<LoopbackServer> {
  const sockets = new Set<Socket>();
  let connections = 0;
  server.on('connection', (socket: Socket) => {
    connections += 1;
    sockets.add(socket);
    // The other side may break it off at any moment.
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  });
  const listen = (port: number): Promise<void> => new Promise((resolve, reject) => void server.once('error', reject).listen(port, '127.0.0.1', () => resolve()));
  await listen(0);
  const { port } = server.address() as AddressInfo;
  return {
    address: `127.0.0.1:${port}`,
    port,
    connections: () => connections,
    start: () => listen(port),
    stop: async () => {
      if (!server.listening) return;
      const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
