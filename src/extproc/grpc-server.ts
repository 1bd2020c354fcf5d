import { Server, ServerCredentials, status as grpcStatus } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation, protoPath as healthProtoPath } from 'grpc-health-check';
import { loadSync } from '@grpc/proto-loader';
import type { Router } from '../router/router.ts';
import type { StreamEvents } from '../router/stream-events.ts';
import { readAccessLogEntry } from './access-log.ts';
import type { ProcessingRequest, StreamAccessLogsMessage } from './messages.ts';
import {
  type AccessLogHandlers,
  accessLogService,
  externalProcessorName,
  type ExternalProcessorHandlers,
  externalProcessorService,
  reflectionPackage,
} from './proto.ts';
import { type ProcessCall, ProcessStream, type StreamContext } from './stream.ts';

export interface GrpcServerOptions {
  /** `host:port`; port 0 takes a free one. */
  readonly address: string;
  readonly context: StreamContext;
  readonly router: Router;
  readonly events: StreamEvents;
  /** Largest message taken, in bytes: buffered bodies arrive whole. */
  readonly messageBytesMax: number;
}

/** A running gRPC server. */
export interface GrpcServer {
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

/**
 * Envoy resets every ext_proc stream when it is done with it. Node's HTTP/2 server takes 1000 resets, then 33 a second, for
 * an attack, and then ends the connection with all its requests (envoy#38661). These limits are as good as none: the peer is
 * the operator's own Envoy.
 */
const resetLimits = { streamResetBurst: 1_000_000_000, streamResetRate: 1_000_000_000 };

/** How long the last answers and the ends of access-log streams may take to reach their clients, in ms. */
const lingerMs = 250;

/** Serves external processing, access logs, health and reflection on one port. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  const server = new Server({
    'grpc.max_receive_message_length': options.messageBytesMax,
    'grpc.max_send_message_length': options.messageBytesMax,
  });
  raiseResetLimits(server);

  let streamsOpen = 0;
  let whenIdle: (() => void) | undefined;
  const processor: ExternalProcessorHandlers = {
    Process: (call) => {
      streamsOpen += 1;
      let counted = true;
      const closed = (): void => {
        if (!counted) return;
        counted = false;
        streamsOpen -= 1;
        if (streamsOpen === 0) whenIdle?.();
      };
      const transport: ProcessCall = {
        send: (response) => {
          // A full send buffer stops the reading, so that an Envoy that does not take answers cannot fill our memory.
          if (!call.write(response) && !call.isPaused()) {
            call.pause();
            call.once('drain', () => call.resume());
          }
        },
        end: () => {
          call.end();
          closed();
        },
        fail: (code, message) => {
          call.emit('error', { code: code === 'internal' ? grpcStatus.INTERNAL : grpcStatus.INVALID_ARGUMENT, details: message });
          closed();
        },
      };
      const stream = new ProcessStream(options.context, transport);
      call.on('data', (request: ProcessingRequest) => stream.onMessage(request));
      call.on('end', () => {
        stream.onEnd();
        closed();
      });
      call.on('cancelled', () => {
        stream.onCancelled();
        closed();
      });
      // A message that cannot be decoded: grpc-js ends the call with an error status by itself.
      call.on('error', () => {
        stream.onCancelled();
        closed();
      });
    },
  };

  const endAccessLogs = new Set<() => void>();
  const accessLogs: AccessLogHandlers = {
    StreamAccessLogs: (call, done) => {
      let open = true;
      const end = (): void => {
        if (!open) return;
        open = false;
        endAccessLogs.delete(end);
        done(null, {});
      };
      endAccessLogs.add(end);
      call.on('data', (message: StreamAccessLogsMessage) => {
        const entries = message.http_logs?.log_entry ?? [];
        let withoutLease = 0;
        for (const entry of entries) {
          // Each on its own: one record must not keep the leases of the others.
          try {
            const report = readAccessLogEntry(entry);
            if (report === undefined) withoutLease += 1;
            else options.router.observe(report.lease, report.completion);
          } catch (error) {
            options.events.failed(error);
          }
        }
        options.events.accessLogRecords(entries.length, withoutLease);
      });
      call.on('end', end);
      call.on('error', () => endAccessLogs.delete(end));
      call.on('cancelled', () => endAccessLogs.delete(end));
    },
  };

  const health = new HealthImplementation();
  const setReady = (ready: boolean): void => {
    for (const service of readinessServices) health.setStatus(service, ready ? 'SERVING' : 'NOT_SERVING');
  };
  setReady(false);
  health.setStatus('liveness', 'SERVING');

  server.addService(externalProcessorService, processor);
  server.addService(accessLogService, accessLogs);
  health.addToServer(server);
  new ReflectionService({ ...reflectionPackage(), ...loadSync(healthProtoPath) }).addToServer(server);

  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(options.address, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(new Error(`cannot listen on ${options.address} (listen.grpc): ${error.message}. Is another process there? Choose another port.`));
    });
  });

  return {
    port,
    get streamsOpen() {
      return streamsOpen;
    },
    setReady,
    stop: async (deadlineMs) => {
      const idle = streamsOpen === 0 ? Promise.resolve() : new Promise<void>((resolve) => (whenIdle = resolve));
      const closed = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      let timer: NodeJS.Timeout | undefined;
      const deadline = new Promise<'late'>((resolve) => {
        timer = setTimeout(() => resolve('late'), deadlineMs);
      });
      if ((await Promise.race([idle, deadline])) !== 'late') {
        // Envoy keeps its access-log stream open for good: it is ended once no request can report any more.
        for (const end of [...endAccessLogs]) end();
        // What is left are health watches and idle connections, which end by themselves or have nothing to lose.
        await Promise.race([closed, deadline, new Promise((resolve) => setTimeout(resolve, lingerMs))]);
      }
      clearTimeout(timer);
      server.forceShutdown();
    },
  };
}

/** grpc-js has no option for Node's reset limits, so they go where it keeps those of its http2 servers. */
function raiseResetLimits(server: Server): void {
  const inner = server as unknown as { commonServerOptions?: Record<string, unknown> };
  if (typeof inner.commonServerOptions !== 'object') {
    throw new Error('this version of @grpc/grpc-js hides the http2 options that Fairlead must set; use the version in package-lock.json');
  }
  Object.assign(inner.commonServerOptions, resetLimits);
}
