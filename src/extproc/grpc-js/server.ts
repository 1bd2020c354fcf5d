import { Server, ServerCredentials, status as grpcStatus } from '@grpc/grpc-js';
import { type CallListener, type GrpcTransport, resetLimitsOff, type TransportOptions } from '../grpc-transport.ts';
import { parseListenAddress, removeStaleSocket, setSocketMode } from '../listen-address.ts';
import type { ProcessingRequest, StreamAccessLogsMessage } from '../messages.ts';
import { type AccessLogHandlers, accessLogService, type ExternalProcessorHandlers, externalProcessorService } from '../proto.ts';
import type { ProcessCall } from '../stream.ts';
import type { TlsFiles } from '../tls-files.ts';

/** Serves gRPC by grpc-js and the generic codec: what the other transport is compared with, and the way back from it. */
export async function startGrpcJsTransport(options: TransportOptions): Promise<GrpcTransport> {
  const { services, tls, messageBytesMax, connections } = options;
  const server = new Server({
    'grpc.max_receive_message_length': messageBytesMax,
    'grpc.max_send_message_length': messageBytesMax,
    ...(connections.keepaliveIntervalMs > 0 && {
      'grpc.keepalive_time_ms': connections.keepaliveIntervalMs,
      'grpc.keepalive_timeout_ms': connections.keepaliveTimeoutMs,
    }),
    ...(connections.ageMsMax > 0 && {
      'grpc.max_connection_age_ms': connections.ageMsMax,
      'grpc.max_connection_age_grace_ms': connections.ageGraceMs,
    }),
  });
  raiseResetLimits(server);

  const processor: ExternalProcessorHandlers = {
    Process: (call) => {
      const transport: ProcessCall = {
        send: (response) => {
          // A full send buffer stops the reading, so that an Envoy that does not take answers cannot fill our memory.
          if (!call.write(response) && !call.isPaused()) {
            call.pause();
            call.once('drain', () => call.resume());
          }
        },
        end: () => {
          listener.end();
          call.end();
        },
        fail: (code, message) => {
          listener.end();
          call.emit('error', { code: code === 'internal' ? grpcStatus.INTERNAL : grpcStatus.INVALID_ARGUMENT, details: message });
        },
      };
      const listener = new EndingOnce(services.openProcess(transport));
      call.on('data', (request: ProcessingRequest) => listener.onMessage(request));
      call.on('end', () => listener.onEnd());
      call.on('cancelled', () => listener.onCancelled());
      // A message that cannot be decoded: grpc-js ends the call with an error status by itself.
      call.on('error', () => listener.onCancelled());
    },
  };
  const accessLogs: AccessLogHandlers = {
    StreamAccessLogs: (call, done) => {
      let isOpen = true;
      const end = (): void => {
        if (isOpen) done(null, {});
        isOpen = false;
      };
      const listener = new EndingOnce(services.openAccessLog(end));
      call.on('data', (message: StreamAccessLogsMessage) => listener.onMessage(message));
      call.on('end', () => listener.onEnd());
      call.on('cancelled', () => listener.onCancelled());
      call.on('error', () => listener.onCancelled());
    },
  };
  server.addService(externalProcessorService, processor);
  server.addService(accessLogService, accessLogs);
  services.addTo(server);

  const address = parseListenAddress(options.address);
  if (address.kind === 'unix') await removeStaleSocket(address.path);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(options.address, tls === undefined ? ServerCredentials.createInsecure() : toCredentials(tls), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
  if (address.kind === 'unix') await setSocketMode(address.path, options.socketMode);

  return {
    port: address.kind === 'unix' ? 0 : port,
    drain: () => {
      tls?.close();
      return new Promise((resolve) => server.tryShutdown(() => resolve()));
    },
    destroy: () => {
      tls?.close();
      server.forceShutdown();
    },
  };
}

/** grpc-js tells the end of a call in more than one way, and also after we ended it ourselves. */
class EndingOnce<Request> implements CallListener<Request> {
  readonly #listener: CallListener<Request>;
  #isOver = false;

  constructor(listener: CallListener<Request>) {
    this.#listener = listener;
  }

  onMessage(request: Request): void {
    if (!this.#isOver) this.#listener.onMessage(request);
  }

  onEnd(): void {
    if (this.end()) this.#listener.onEnd();
  }

  onCancelled(): void {
    if (this.end()) this.#listener.onCancelled();
  }

  /** False: it had ended before. */
  end(): boolean {
    const isFirst = !this.#isOver;
    this.#isOver = true;
    return isFirst;
  }
}

/** Credentials that follow the files. The way that grpc-js offers for it (1.14, experimental) takes its two providers for each other. */
function toCredentials(tls: TlsFiles): ServerCredentials {
  const { cert, key, clientCa } = tls.contents;
  const made = ServerCredentials.createSsl(clientCa ?? null, [{ cert_chain: cert, private_key: key }], tls.asksClients);
  const inner = made as unknown as { updateSecureContextOptions?: (options: object) => void };
  if (inner.updateSecureContextOptions === undefined) throw new Error(outdated);
  tls.watch((contents) => inner.updateSecureContextOptions?.({ cert: [contents.cert], key: [contents.key], ...(contents.clientCa !== undefined && { ca: contents.clientCa }) }));
  return made;
}

const outdated = 'this version of @grpc/grpc-js hides what Fairlead must set; use the version in package-lock.json';

/** grpc-js has no option for Node's reset limits, so they go where it keeps those of its http2 servers. */
function raiseResetLimits(server: Server): void {
  const inner = server as unknown as { commonServerOptions?: Record<string, unknown> };
  if (typeof inner.commonServerOptions !== 'object') throw new Error(outdated);
  Object.assign(inner.commonServerOptions, resetLimitsOff);
}
