import type { status as grpcStatus } from '@grpc/grpc-js';
import type { CallListener } from './grpc-transport.ts';
import type { ProcessCall } from './stream.ts';
import type { Encoded } from './wire/writer.ts';

// How a gRPC call looks in HTTP/2: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

/** A call as a service sees it, on whatever carries it. */
export interface GrpcCall<Response> extends Pick<ProcessCall, 'end' | 'fail' | 'peer' | 'onceRead'> {
  readonly isUnheard: boolean;
  send(response: Response): void;
  /** Ends the call with any gRPC status. */
  endWith(code: grpcStatus, message: string): void;
}

/** A method that can be called; all calls are read and answered as streams, since a single message looks no different. */
export interface Method<Request, Response> {
  /** Throws for what is no such message. */
  decode(bytes: Buffer): Request;
  /** Encodes after `prefixBytes` of room. */
  encode(response: Response): Encoded;
  open(call: GrpcCall<Response>): CallListener<Request>;
}
