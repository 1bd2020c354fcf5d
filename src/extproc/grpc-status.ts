import { status as grpcStatus } from '@grpc/grpc-js';
import type { FramingError } from './deframer.ts';

/** Longest message sent with a status, in UTF-16 units: some repeat what the client sent, and all has to fit into one frame. */
const messageLengthMax = 1_000;

/** Whether a request says that it is gRPC (PROTOCOL-HTTP2.md, Content-Type). */
export function isGrpc(contentType: string | undefined): boolean {
  return contentType === 'application/grpc' || (contentType !== undefined && /^application\/grpc[+;]/.test(contentType));
}

/** A status's message as a header takes it: other characters than printable ASCII are percent-encoded (PROTOCOL-HTTP2.md, Status-Message). */
export function toMessageText(message: string): string {
  return message.slice(0, messageLengthMax).replace(/[^ -$&-~]+/g, (part) => encodeURIComponent(part.toWellFormed()));
}

/** Status and message for a client whose messages cannot be read on. `encoding`: `grpc-encoding` of its request. */
export function toCallFault(error: FramingError, encoding: string | undefined): { readonly code: grpcStatus; readonly text: string } {
  switch (error) {
    case 'too-large':
      return { code: grpcStatus.RESOURCE_EXHAUSTED, text: 'message larger than the maximum (limits.messageBytesMax)' };
    case 'bad-flag':
      return { code: grpcStatus.INTERNAL, text: 'unknown flag on a message' };
    case 'compressed':
      if (encoding === undefined || encoding === 'identity') return { code: grpcStatus.INTERNAL, text: 'compressed message without grpc-encoding' };
      return { code: grpcStatus.UNIMPLEMENTED, text: `grpc-encoding ${encoding} is not supported` };
  }
}
