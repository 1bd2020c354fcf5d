import { status as grpcStatus } from '@grpc/grpc-js';
import { toMessageText } from '../grpc-status.ts';

// Header blocks of answers, encoded without a dynamic table (RFC 7541, sections 6.1 and 6.2.2): nothing to keep right, and none of a client's settings matters.

/** Indices in the static table (RFC 7541, appendix A). */
const statusIndex = 8;
const allowIndex = 22;
const contentTypeIndex = 31;

const contentType = literal(contentTypeIndex, 'application/grpc');
const status200 = Buffer.from([0x88]);

/** What an answer begins with. */
export const answerBlock: Buffer = Buffer.concat([status200, contentType]);

/** The end of an answer with status OK. */
export const okTrailersBlock: Buffer = toTrailersBlock(grpcStatus.OK, '');

/** What a request with another content type is answered by, in HTTP's terms. */
export const unsupportedTypeBlock: Buffer = literal(statusIndex, '415');
/** What one that is no POST is answered by. */
export const notAllowedBlock: Buffer = Buffer.concat([literal(statusIndex, '405'), literal(allowIndex, 'POST')]);
/** What one with too large a list of header fields is answered by. */
export const fieldsTooLargeBlock: Buffer = literal(statusIndex, '431');

/** The end of an answer. */
export function toTrailersBlock(code: grpcStatus, message: string): Buffer {
  const status = named('grpc-status', String(code));
  return message === '' ? status : Buffer.concat([status, named('grpc-message', toMessageText(message))]);
}

/** An answer that is nothing but its end. */
export function toTrailersOnlyBlock(code: grpcStatus, message: string): Buffer {
  return Buffer.concat([answerBlock, toTrailersBlock(code, message)]);
}

/** A field whose name is in the static table. */
function literal(nameIndex: number, value: string): Buffer {
  return Buffer.concat([toInteger(nameIndex, 0x0f), toText(value)]);
}

function named(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0]), toText(name), toText(value)]);
}

function toText(text: string): Buffer {
  return Buffer.concat([toInteger(text.length, 0x7f), Buffer.from(text, 'latin1')]);
}

/** An integer whose prefix is the bits of `mask` (RFC 7541, section 5.1). */
function toInteger(value: number, mask: number): Buffer {
  if (value < mask) return Buffer.from([value]);
  const bytes = [mask];
  let rest = value - mask;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push(0x80 | (rest & 0x7f));
  bytes.push(rest);
  return Buffer.from(bytes);
}
