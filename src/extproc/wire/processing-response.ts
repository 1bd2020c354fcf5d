import type {
  BodyMutation,
  BodyResponse,
  CommonResponse,
  Duration,
  HeaderMap,
  HeaderMutation,
  HeadersResponse,
  HeaderValueOption,
  HeaderValue,
  ImmediateResponse,
  ProcessingMode,
  ProcessingResponse,
  StreamedBodyResponse,
  Struct,
  TrailersResponse,
  Value,
} from '../messages.ts';
import { LeaseMetadata, ownNamespace, PreparedResponse, type SentAnswer } from './prepared-answer.ts';
import { type Encoded, WireWriter } from './writer.ts';

// envoy/service/ext_proc/v3/external_processor.proto, from back to front: see WireWriter. Fields may stand in any order, so what can hold a
// large body stands last everywhere: it is then sent from where it is, not copied.

/** Encodes in one go, so one is enough for all. */
const writer = new WireWriter();

/**
 * Encodes a `ProcessingResponse`, after `prefixBytes` of room for its framing. A large body stays where it is: it may change only once it
 * was sent.
 */
export function encodeProcessingResponse(message: ProcessingResponse, prefixBytes = 0): Encoded {
  const response = repeatable(message);
  if (response === undefined) return encode(message, prefixBytes);
  const repeated = repeat(message, response, prefixBytes);
  if (repeated !== undefined) return repeated;
  const encoded = encode(message, prefixBytes);
  // Among hundreds of endpoints few answers ever come again.
  if (response.wasSent) keep(message, response, encoded.head, prefixBytes);
  response.wasSent = true;
  return encoded;
}

/** Answers kept of one response: for two phases, with and without `mode_override`, and leases of a few lengths. */
const sentMax = 16;

/** The response of an answer that is nothing beside a prepared response, its metadata and a `mode_override`; undefined: it is more, or something else. */
function repeatable(message: ProcessingResponse): PreparedResponse | undefined {
  const { request_headers: headers, request_body: body, dynamic_metadata: metadata } = message;
  const response = (headers ?? body)?.response;
  if (!(response instanceof PreparedResponse) || (headers !== undefined && body !== undefined)) return undefined;
  if (metadata !== undefined && !(metadata instanceof LeaseMetadata)) return undefined;
  const isMore =
    message.request_trailers !== undefined ||
    message.response_headers !== undefined ||
    message.response_body !== undefined ||
    message.response_trailers !== undefined ||
    message.immediate_response !== undefined ||
    message.override_message_timeout !== undefined;
  return isMore ? undefined : response;
}

/** The answer as it was sent before, with another lease; undefined: none was, or not with such a lease. */
function repeat(message: ProcessingResponse, { sent }: PreparedResponse, prefixBytes: number): Encoded | undefined {
  const { metadata, lease } = leaseOf(message);
  const phase = phaseOf(message);
  for (const answer of sent) {
    if (answer.metadata !== metadata || answer.leaseBytes !== lease.length || answer.mode !== message.mode_override) continue;
    if (answer.phase !== phase || answer.prefixBytes !== prefixBytes) continue;
    const head = Buffer.allocUnsafe(answer.bytes.length);
    head.set(answer.bytes);
    return putAscii(head, answer.leaseAt, lease) ? { head, tail: undefined } : undefined;
  }
  return undefined;
}

function keep(message: ProcessingResponse, { sent }: PreparedResponse, encoded: Buffer, prefixBytes: number): void {
  const { metadata, lease } = leaseOf(message);
  if (Buffer.byteLength(lease) !== lease.length) return;
  if (sent.length === sentMax) sent.shift();
  sent.push({
    phase: phaseOf(message),
    mode: message.mode_override,
    metadata,
    prefixBytes,
    bytes: Buffer.from(encoded),
    leaseAt: encoded.length - leaseEnd - lease.length,
    leaseBytes: lease.length,
  });
}

function leaseOf({ dynamic_metadata: metadata }: ProcessingResponse): { readonly metadata: SentAnswer['metadata']; readonly lease: string } {
  return metadata instanceof LeaseMetadata ? { metadata: metadata.prepared, lease: metadata.lease } : { metadata: undefined, lease: '' };
}

function phaseOf(message: ProcessingResponse): SentAnswer['phase'] {
  return message.request_headers === undefined ? 'request_body' : 'request_headers';
}

/** False: the text is not ASCII. */
function putAscii(bytes: Buffer, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    if (code >= 0x80) return false;
    bytes[at + i] = code;
  }
  return true;
}

function encode(message: ProcessingResponse, prefixBytes: number): Encoded {
  // What an encoding that threw left behind.
  writer.reset();
  writePhase(message);
  const { override_message_timeout: timeout, mode_override: mode, dynamic_metadata: metadata } = message;
  if (timeout !== undefined) writeDuration(82, timeout);
  if (mode !== undefined) writeMode(74, mode);
  if (metadata instanceof LeaseMetadata) writeLeaseMetadata(66, metadata);
  else if (metadata !== undefined) writeStruct(66, metadata);
  return writer.finish(prefixBytes);
}

function writePhase(message: ProcessingResponse): void {
  if (message.immediate_response !== undefined) writeImmediate(58, message.immediate_response);
  if (message.response_trailers !== undefined) writeTrailers(50, message.response_trailers);
  if (message.request_trailers !== undefined) writeTrailers(42, message.request_trailers);
  if (message.response_body !== undefined) writeCommon(34, message.response_body);
  if (message.request_body !== undefined) writeCommon(26, message.request_body);
  if (message.response_headers !== undefined) writeCommon(18, message.response_headers);
  if (message.request_headers !== undefined) writeCommon(10, message.request_headers);
}

/** HeadersResponse and BodyResponse are the same on the wire. */
function writeCommon(tag: number, { response }: HeadersResponse | BodyResponse): void {
  const end = writer.mark();
  if (response !== undefined) writeCommonResponse(10, response);
  writer.close(tag, end);
}

function writeCommonResponse(tag: number, message: CommonResponse): void {
  const { body_mutation: body, clear_route_cache: clears, trailers, header_mutation: headers, status } = message;
  const end = writer.mark();
  if (body !== undefined) writeBodyMutation(26, body);
  if (clears !== undefined) writer.bool(40, clears);
  if (trailers !== undefined) writeHeaderMap(34, trailers);
  if (headers !== undefined) writeHeaderMutation(18, headers);
  if (status !== undefined) writer.varint(8, status);
  writer.close(tag, end);
}

function writeBodyMutation(tag: number, message: BodyMutation): void {
  const end = writer.mark();
  if (message.streamed_response !== undefined) writeStreamed(26, message.streamed_response);
  if (message.body !== undefined) writer.bytes(10, message.body);
  if (message.clear_body !== undefined) writer.bool(16, message.clear_body);
  writer.close(tag, end);
}

function writeStreamed(tag: number, { body, end_of_stream: isEnd }: StreamedBodyResponse): void {
  const end = writer.mark();
  if (body !== undefined) writer.bytes(10, body);
  if (isEnd !== undefined) writer.bool(16, isEnd);
  writer.close(tag, end);
}

function writeTrailers(tag: number, { header_mutation: headers }: TrailersResponse): void {
  const end = writer.mark();
  if (headers !== undefined) writeHeaderMutation(10, headers);
  writer.close(tag, end);
}

function writeImmediate(tag: number, { status, headers, body, grpc_status: grpcStatus, details }: ImmediateResponse): void {
  const end = writer.mark();
  if (details !== undefined) writer.string(42, details);
  if (grpcStatus !== undefined) {
    const inner = writer.mark();
    if (grpcStatus.status !== undefined) writer.varint(8, grpcStatus.status);
    writer.close(34, inner);
  }
  if (body !== undefined) writer.bytes(26, body);
  if (headers !== undefined) writeHeaderMutation(18, headers);
  if (status !== undefined) {
    const inner = writer.mark();
    if (status.code !== undefined) writer.varint(8, status.code);
    writer.close(10, inner);
  }
  writer.close(tag, end);
}

function writeHeaderMutation(tag: number, { set_headers: set, remove_headers: removed }: HeaderMutation): void {
  const end = writer.mark();
  if (removed !== undefined) for (let i = removed.length - 1; i >= 0; i -= 1) writer.string(18, removed[i] ?? '');
  if (set !== undefined) {
    for (let i = set.length - 1; i >= 0; i -= 1) {
      const option = set[i];
      if (option !== undefined) writeHeaderOption(10, option);
    }
  }
  writer.close(tag, end);
}

function writeHeaderOption(tag: number, message: HeaderValueOption): void {
  const { header, append, append_action: action, keep_empty_value: keepsEmpty } = message;
  const end = writer.mark();
  if (keepsEmpty !== undefined) writer.bool(32, keepsEmpty);
  if (action !== undefined) writer.varint(24, action);
  if (append !== undefined) {
    const inner = writer.mark();
    if (append.value !== undefined) writer.bool(8, append.value);
    writer.close(18, inner);
  }
  if (header !== undefined) writeHeader(10, header);
  writer.close(tag, end);
}

function writeHeader(tag: number, { key, value, raw_value: raw }: HeaderValue): void {
  const end = writer.mark();
  if (raw !== undefined) writer.bytes(26, raw);
  if (value !== undefined) writer.string(18, value);
  if (key !== undefined) writer.string(10, key);
  writer.close(tag, end);
}

function writeHeaderMap(tag: number, { headers }: HeaderMap): void {
  const end = writer.mark();
  if (headers !== undefined) {
    for (let i = headers.length - 1; i >= 0; i -= 1) {
      const header = headers[i];
      if (header !== undefined) writeHeader(10, header);
    }
  }
  writer.close(tag, end);
}

function writeMode(tag: number, mode: ProcessingMode): void {
  const end = writer.mark();
  if (mode.response_trailer_mode !== undefined) writer.varint(48, mode.response_trailer_mode);
  if (mode.request_trailer_mode !== undefined) writer.varint(40, mode.request_trailer_mode);
  if (mode.response_body_mode !== undefined) writer.varint(32, mode.response_body_mode);
  if (mode.request_body_mode !== undefined) writer.varint(24, mode.request_body_mode);
  if (mode.response_header_mode !== undefined) writer.varint(16, mode.response_header_mode);
  if (mode.request_header_mode !== undefined) writer.varint(8, mode.request_header_mode);
  writer.close(tag, end);
}

function writeDuration(tag: number, { seconds, nanos }: Duration): void {
  const end = writer.mark();
  if (nanos !== undefined) writer.varint(16, nanos);
  if (seconds !== undefined) writer.varint(8, seconds);
  writer.close(tag, end);
}

function writeStruct(tag: number, { fields }: Struct): void {
  const end = writer.mark();
  if (fields !== undefined) writeEntries(fields);
  writer.close(tag, end);
}

function writeEntries(fields: Readonly<Record<string, Value>>): void {
  // Insertion order reversed twice over is not worth a list: a map has no order.
  for (const key of Object.keys(fields)) {
    const value = fields[key];
    if (value === undefined) continue;
    const entry = writer.mark();
    writeValue(18, value);
    writer.string(10, key);
    writer.close(10, entry);
  }
}

/** Bytes after the lease in what was encoded last. */
let leaseEnd = 0;

function writeLeaseMetadata(tag: number, { prepared, lease }: LeaseMetadata): void {
  const end = writer.mark();
  const own = writer.mark();
  const value = writer.mark();
  const struct = writer.mark();
  writeEntries(prepared.told);
  const entry = writer.mark();
  const text = writer.mark();
  leaseEnd = text;
  writer.string(26, lease);
  writer.close(18, text);
  writer.string(10, 'lease');
  writer.close(10, entry);
  writer.close(42, struct);
  writer.close(18, value);
  writer.string(10, ownNamespace);
  writer.close(10, own);
  writeEntries(prepared.others);
  writer.close(tag, end);
}

function writeValue(tag: number, value: Value): void {
  const end = writer.mark();
  if (value.listValue !== undefined) {
    const list = writer.mark();
    const values = value.listValue.values ?? [];
    for (let i = values.length - 1; i >= 0; i -= 1) {
      const item = values[i];
      if (item !== undefined) writeValue(10, item);
    }
    writer.close(50, list);
  }
  if (value.structValue !== undefined) writeStruct(42, value.structValue);
  if (value.boolValue !== undefined) writer.bool(32, value.boolValue);
  if (value.stringValue !== undefined) writer.string(26, value.stringValue);
  if (value.numberValue !== undefined) writer.double(17, value.numberValue);
  if (value.nullValue !== undefined) writer.varint(8, value.nullValue);
  writer.close(tag, end);
}
