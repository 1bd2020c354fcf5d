import { EventEmitter } from 'node:events';
import { Metadata, type Server, type ServiceDefinition, status as grpcStatus, type UntypedHandleCall, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { prefixBytes } from './deframer.ts';
import type { GrpcCall, Method } from './grpc-call.ts';
import type { CallListener } from './grpc-transport.ts';

/** An error as grpc-js services report it. */
interface ServiceFailure {
  readonly code?: grpcStatus;
  readonly details?: string;
  readonly message?: string;
}

/**
 * Services written for a grpc-js server, as methods of this one, by path. For the few that are called rarely and kept well elsewhere (health,
 * reflection): they see what they use of grpc-js's call objects, and no metadata.
 */
export function adoptServices(register: (server: Pick<Server, 'addService'>) => void): Map<string, Method<unknown, unknown>> {
  const methods = new Map<string, Method<unknown, unknown>>();
  register({
    addService: (definition: ServiceDefinition, implementation: UntypedServiceImplementation) => {
      for (const [name, method] of Object.entries(definition)) {
        const handler = implementation[name] ?? (method.originalName === undefined ? undefined : implementation[method.originalName]);
        if (handler === undefined) continue;
        const kind: CallKind = { isStreamIn: method.requestStream, isStreamOut: method.responseStream };
        methods.set(method.path, {
          decode: (bytes) => method.requestDeserialize(bytes) as unknown,
          encode: (response) => {
            const bytes = method.responseSerialize(response);
            return { head: Buffer.concat([Buffer.alloc(prefixBytes), bytes]), tail: undefined };
          },
          open: (call) => new AdoptedCall(call, handler, kind),
        });
      }
    },
  });
  return methods;
}

interface CallKind {
  readonly isStreamIn: boolean;
  readonly isStreamOut: boolean;
}

/** One call in grpc-js's terms. */
class AdoptedCall extends EventEmitter implements CallListener<unknown> {
  /** The message of a method that takes one. */
  request: unknown;
  readonly metadata = new Metadata();
  cancelled = false;
  readonly #call: GrpcCall<unknown>;
  readonly #handler: UntypedHandleCall;
  readonly #kind: CallKind;
  #hasRequest = false;

  constructor(call: GrpcCall<unknown>, handler: UntypedHandleCall, kind: CallKind) {
    super();
    this.#call = call;
    this.#handler = handler;
    this.#kind = kind;
    this.on('error', (error: ServiceFailure) => this.#fail(error));
    if (kind.isStreamIn) this.#handle();
  }

  onMessage(request: unknown): void {
    if (this.#kind.isStreamIn) {
      this.#guarded(() => this.emit('data', request));
      return;
    }
    if (this.#hasRequest) {
      this.#call.endWith(grpcStatus.UNIMPLEMENTED, 'second message where one is taken');
      return;
    }
    this.#hasRequest = true;
    this.request = request;
  }

  onEnd(): void {
    if (this.#kind.isStreamIn) this.#guarded(() => this.emit('end'));
    else if (this.#hasRequest) this.#handle();
    else this.#call.endWith(grpcStatus.UNIMPLEMENTED, 'no message where one is taken');
  }

  onCancelled(): void {
    this.cancelled = true;
    this.#guarded(() => this.emit('cancelled'));
  }

  write(response: unknown): boolean {
    this.#call.send(response);
    return true;
  }

  end(): this {
    this.#call.end();
    return this;
  }

  #handle(): void {
    this.#guarded(() => {
      const handler = this.#handler as (call: unknown, done: (error: ServiceFailure | null, response?: unknown) => void) => void;
      handler(this, (error, response) => {
        if (error !== null) {
          this.#fail(error);
          return;
        }
        this.#call.send(response);
        this.#call.end();
      });
    });
  }

  #fail({ code = grpcStatus.UNKNOWN, details, message = '' }: ServiceFailure): void {
    this.#call.endWith(code, details ?? message);
  }

  /** What is thrown there ends this call alone. */
  #guarded(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#fail({ code: grpcStatus.INTERNAL, message: error instanceof Error ? error.message : String(error) });
    }
  }
}
