import type { Server } from '@grpc/grpc-js';
import type { ProcessingRequest, StreamAccessLogsMessage } from './messages.ts';
import type { ProcessCall } from './stream.ts';
import type { TlsFiles } from './tls-files.ts';

/** What becomes of one call. The transport tells it in the order of things; nothing comes after `onEnd` or `onCancelled`,
 * nor after the service ended the call itself. */
export interface CallListener<Request> {
  /**
   * One message. Never throws. Its bytes may become those of another once this has returned: what is kept of it has to be copied. What was sent
   * of it meanwhile need not be.
   */
  onMessage(request: Request): void;
  /** The client half-closed the call: no more messages come. */
  onEnd(): void;
  /** The call is gone: the client reset it, its connection broke, or a message was none. Nothing can be answered any more. */
  onCancelled(): void;
}

/** What a transport serves. */
export interface GrpcServices {
  openProcess(call: ProcessCall): CallListener<ProcessingRequest>;
  /** Whether attributes of requests are looked at. */
  wantsAttributes(): boolean;
  /** `end` ends the call with status OK and the one response it has. */
  openAccessLog(end: () => void): CallListener<StreamAccessLogsMessage>;
  /** Adds what is asked for rarely (health, reflection), as to a grpc-js server. */
  addTo(server: Pick<Server, 'addService'>): void;
}

/**
 * For Node's HTTP/2 server: no limit of resets. By default it takes 1000 of them, then 33 a second, for an attack, and ends the connection
 * with all that is on it; and Envoy ends every call by one (envoy#38661).
 */
export const resetLimitsOff = { streamResetBurst: 1_000_000_000, streamResetRate: 1_000_000_000 };

/** Whether resets of calls that were never answered may end a connection; `ResetGuard` counts them. */
export type ResetLimit = 'guard' | 'none';

export interface ConnectionLimits {
  /** A connection is pinged this often, in ms; 0: never. */
  readonly keepaliveIntervalMs: number;
  /** One whose ping is not answered by then is closed, in ms. */
  readonly keepaliveTimeoutMs: number;
  /** Connections are asked to leave at this age, a tenth more or less, in ms; 0: never. */
  readonly ageMsMax: number;
  /** How long the calls of one that was asked to leave may take, in ms. */
  readonly ageGraceMs: number;
}

export interface TransportOptions {
  /** Where to listen, as {@link parseListenAddress} reads it. */
  readonly address: string;
  /** Mode of the socket's file, where the address is one. */
  readonly socketMode: number;
  /** Absent: in plain text. */
  readonly tls: TlsFiles | undefined;
  readonly services: GrpcServices;
  /** Largest message taken, in bytes. */
  readonly messageBytesMax: number;
  readonly connections: ConnectionLimits;
  readonly resetLimit: ResetLimit;
  /** Told of a bug of the transport's own, which ended no more than a connection. */
  readonly onError: (error: unknown) => void;
}

/** A gRPC server, whatever it is made of. */
export interface GrpcTransport {
  /** Port taken; 0 on a Unix socket. */
  readonly port: number;
  /** Takes no new connections, asks clients to leave, lets open calls go on. Resolves when all connections are closed. */
  drain(): Promise<void>;
  /** Closes everything now. */
  destroy(): void;
}

/** Services that a transport starts; rejects with what the system says when it cannot listen. */
export type StartTransport = (options: TransportOptions) => Promise<GrpcTransport>;
