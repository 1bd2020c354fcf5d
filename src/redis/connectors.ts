import { connect as connectPlain, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import { AbstractConnector, SentinelConnector } from 'ioredis';
import type { NodeAddress } from './settings.ts';

/*
 * The client listens for the first error of a connection only. A TLS connection may tell two: that the server's certificate does
 * not fit, and then the alert that the server answers with. The second, heard by nobody, would end the process. So connections are
 * opened here, and always listened to.
 */

/** How long a server is given to close what we close, in ms: a hung one never does. */
export const disconnectMsMax = 200;

type Connector = new (options: unknown) => AbstractConnector;

/** Opens a connection whose errors, if nobody else listens for them, are nobody's. */
export function openSocket({ host, port }: NodeAddress, tls: ConnectionOptions | undefined, timeout?: number): Socket {
  const options = { host, port, ...(timeout !== undefined && { timeout }) };
  const socket = tls === undefined ? connectPlain(options) : connectTls({ ...options, ...tls });
  return socket.on('error', () => {});
}

/** Connects to the node that the client's options name; or, with `choose`, to the one that it names, anew for each connection. */
export function createConnector(tls: ConnectionOptions | undefined, choose?: () => NodeAddress): Connector {
  return class extends AbstractConnector {
    readonly #options: NodeAddress;

    constructor(options: unknown) {
      super(disconnectMsMax);
      this.#options = options as NodeAddress;
    }

    // eslint-disable-next-line @typescript-eslint/require-await -- the connector's contract
    override async connect(): Promise<Socket> {
      this.connecting = true;
      const socket = openSocket(choose?.() ?? this.#options, tls);
      socket.once('error', (error: Error) => {
        this.firstError = error;
      });
      this.stream = socket;
      return socket;
    }
  };
}

/** What `SentinelConnector` does to ask a sentinel; hidden by its types. */
interface AsksSentinels {
  connectToSentinel(endpoint: NodeAddress, options?: Readonly<Record<string, unknown>>): unknown;
}

/** Connects to the master that the sentinels name. */
export function createSentinelConnector(tls: ConnectionOptions | undefined): Connector {
  const toSentinel = createConnector(tls);
  const original = SentinelConnector.prototype as unknown as AsksSentinels;
  class Connecting extends SentinelConnector {
    override async connect(tell: (type: string, error: Error) => void): Promise<Socket> {
      const socket = await super.connect(tell);
      return socket.on('error', () => {});
    }
  }
  (Connecting.prototype as unknown as AsksSentinels).connectToSentinel = function (endpoint, options) {
    return original.connectToSentinel.call(this, endpoint, { ...options, Connector: toSentinel });
  };
  return Connecting as Connector;
}
