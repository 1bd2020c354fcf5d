import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A way to a server that a test can block. */
export interface TcpProxy {
  readonly port: number;
  /** What becomes of new connections: passed on, or closed without a word as by a proxy whose server is away. */
  mode: 'pass' | 'close';
  /** Looks at what a client says before it is passed on; true: the connection is closed instead. */
  closesOn: (text: string) => boolean;
  /** The same for what the server says. */
  closesOnReply: (text: string) => boolean;
  /** Connections that these two closed. */
  closed: number;
  /** Closes every connection that there is. */
  closeAll(): void;
  stop(): Promise<void>;
}

/** Starts a proxy on a free port of 127.0.0.1 to a port there. */
export async function startTcpProxy(targetPort: () => number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    sockets.add(client);
    client.on('error', () => client.destroy());
    client.on('close', () => sockets.delete(client));
    if (made.mode === 'close') {
      client.destroy();
      return;
    }
    const target = connect({ host: '127.0.0.1', port: targetPort() });
    target.on('error', () => client.destroy());
    target.on('close', () => client.destroy());
    client.on('close', () => target.destroy());
    const passOn = (to: Socket, isLast: (text: string) => boolean) => (data: Buffer) => {
      if (!isLast(data.toString('latin1'))) {
        to.write(data);
        return;
      }
      made.closed += 1;
      client.destroy();
    };
    target.on('data', passOn(client, (text) => made.closesOnReply(text)));
    client.on('data', passOn(target, (text) => made.closesOn(text)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const made: TcpProxy = {
    port: (server.address() as AddressInfo).port,
    mode: 'pass',
    closesOn: () => false,
    closesOnReply: () => false,
    closed: 0,
    closeAll: () => {
      for (const socket of sockets) socket.destroy();
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        made.closeAll();
      }),
  };
  return made;
}
