import { ReflectionService } from '@grpc/reflection';
import { loadSync } from '@grpc/proto-loader';
import { HealthImplementation, protoPath as healthProtoPath } from 'grpc-health-check';
import type { Router } from '../router/router.ts';
import type { StreamEvents } from '../router/stream-events.ts';
import { AccessLogStream } from './access-log-stream.ts';
import { startGrpcJsTransport } from './grpc-js/server.ts';
import type { ConnectionLimits, GrpcServices, GrpcTransport, ResetLimit, StartTransport } from './grpc-transport.ts';
import { startHttp2Transport } from './http2/server.ts';
import { startLeanTransport } from './lean/server.ts';
import { isLocal, parseListenAddress } from './listen-address.ts';
import { externalProcessorName, reflectionPackage } from './proto.ts';
import { ProcessStream, type StreamContext, wantsAttributes } from './stream.ts';
import { TlsFiles, type TlsPaths, type TlsReload } from './tls-files.ts';

/** What the server can be made of. */
export type TransportName = 'lean' | 'http2' | 'grpc-js';

export interface GrpcServerOptions {
  /** `host:port`, where port 0 takes a free one, or `unix:/path`. */
  readonly address: string;
  /** Asked for each stream: what a reload replaces holds for the streams that come after it. */
  readonly context: () => StreamContext;
  readonly router: Router;
  readonly events: StreamEvents;
  /** Largest message taken, in bytes: buffered bodies arrive whole. */
  readonly messageBytesMax: number;
  /** Default `lean`. */
  readonly transport?: TransportName | undefined;
  /** Mode of the socket's file, where the address is one; default 0o660. */
  readonly socketMode?: number | undefined;
  /** Absent: in plain text. */
  readonly tls?: TlsPaths | undefined;
  /** Told when the files of `tls` changed. */
  readonly onTlsReload?: ((outcome: TlsReload) => void) | undefined;
  /** Whether calls reset without an answer may end a connection; `auto`, the default: unless its peer is trusted. */
  readonly resetLimit?: ResetLimit | 'auto' | undefined;
  readonly connections?: Partial<ConnectionLimits> | undefined;
}

/** A running gRPC server. */
export interface GrpcServer {
  /** Port taken; 0 on a Unix socket. */
  readonly port: number;
  /** Streams of external processing open now. */
  readonly streamsOpen: number;
  /** Tells health checkers whether to send new streams. `liveness` stays true as long as the process serves at all. */
  setReady(ready: boolean): void;
  /** Takes no new streams, waits for those that are open until the deadline, then closes all. */
  stop(deadlineMs: number): Promise<void>;
}

/** Health services that say whether to send traffic here: all but `liveness`. */
const readinessServices = ['', 'readiness', externalProcessorName];

/** How long the last answers and the ends of access-log streams may take to reach their clients, in ms. */
const lingerMs = 250;

const connectionDefaults: ConnectionLimits = { keepaliveIntervalMs: 60_000, keepaliveTimeoutMs: 20_000, ageMsMax: 0, ageGraceMs: 30_000 };

const transports: Readonly<Record<TransportName, StartTransport>> = { lean: startLeanTransport, http2: startHttp2Transport, 'grpc-js': startGrpcJsTransport };

/** Serves external processing, access logs, health and reflection on one port. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  const { context, router, events, address } = options;
  let streamsOpen = 0;
  let whenIdle: (() => void) | undefined;
  const streamClosed = (): void => {
    streamsOpen -= 1;
    if (streamsOpen === 0) whenIdle?.();
  };
  const accessLogs = new Set<AccessLogStream>();
  const accessLogOver = (stream: AccessLogStream): void => void accessLogs.delete(stream);
  const health = new HealthImplementation();
  const reflection = new ReflectionService({ ...reflectionPackage(), ...loadSync(healthProtoPath) });
  const services: GrpcServices = {
    openProcess: (call) => {
      streamsOpen += 1;
      return new ProcessStream(context(), call, streamClosed);
    },
    wantsAttributes: () => wantsAttributes(context()),
    openAccessLog: (end) => {
      const stream = new AccessLogStream(router, events, end, accessLogOver);
      accessLogs.add(stream);
      return stream;
    },
    addTo: (server) => {
      health.addToServer(server);
      reflection.addToServer(server);
    },
  };
  const setReady = (ready: boolean): void => {
    for (const service of readinessServices) health.setStatus(service, ready ? 'SERVING' : 'NOT_SERVING');
  };
  setReady(false);
  health.setStatus('liveness', 'SERVING');

  const tls = options.tls === undefined ? undefined : await TlsFiles.open(options.tls, options.onTlsReload);
  const isTrusted = isLocal(parseListenAddress(address)) || tls?.asksClients === true;
  const { resetLimit = 'auto' } = options;
  const transport: GrpcTransport = await transports[options.transport ?? 'lean']({
    address,
    socketMode: options.socketMode ?? 0o660,
    tls,
    services,
    messageBytesMax: options.messageBytesMax,
    connections: { ...connectionDefaults, ...options.connections },
    resetLimit: resetLimit === 'auto' ? (isTrusted ? 'none' : 'guard') : resetLimit,
    onError: (error) => events.failed(error),
  }).catch((error: unknown) => {
    tls?.close();
    const cause = error instanceof Error ? error.message : String(error);
    throw new Error(`cannot listen on ${address} (listen.grpc): ${cause}. Is another process there? Choose another port.`, { cause: error });
  });

  return {
    port: transport.port,
    get streamsOpen() {
      return streamsOpen;
    },
    setReady,
    stop: async (deadlineMs) => {
      const idle = (): Promise<void> => (streamsOpen === 0 ? Promise.resolve() : new Promise((resolve) => (whenIdle = resolve)));
      const closed = transport.drain();
      let timer: NodeJS.Timeout | undefined;
      const deadline = new Promise<'late'>((resolve) => {
        timer = setTimeout(() => resolve('late'), deadlineMs);
      });
      if ((await Promise.race([idle(), deadline])) !== 'late') {
        // Envoy keeps its access-log stream open for good: it is ended once no request can report any more.
        for (const stream of [...accessLogs]) stream.end();
        // What is left are health watches and idle connections, which end by themselves or have nothing to lose.
        await Promise.race([closed, deadline, new Promise((resolve) => setTimeout(resolve, lingerMs))]);
        // And streams that came before their client heard that it should leave.
        await Promise.race([idle(), deadline]);
      }
      clearTimeout(timer);
      transport.destroy();
    },
  };
}
