import type { HeaderMap, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProtocolConfiguration } from '../messages.ts';
import { HeaderNames } from './header-names.ts';
import { WireReader } from './reader.ts';
import { newMap, readEntry, readMetadata, readStruct } from './struct.ts';

// envoy/service/ext_proc/v3/external_processor.proto. A case in a switch is `field << 3 | wire type`; a field that is known but written in
// another way is skipped like an unknown one, as protobuf wants it. A field that comes twice counts as it came last.

/**
 * Decodes a `ProcessingRequest` to what the generic codec in proto.ts makes of it, except that headers are {@link HeaderView}s, and strings
 * have to be UTF-8. Bytes are views into `bytes`. Throws a WireError for what is no such message. `wantsAttributes`: read them, too, which each
 * request has where Envoy is told to send any.
 */
export function decodeProcessingRequest(bytes: Buffer, wantsAttributes = true): ProcessingRequest {
  const reader = new WireReader(bytes);
  const end = bytes.length;
  const message: ProcessingRequest = {};
  while (reader.at < end) {
    const tag = reader.tag();
    switch (tag) {
      case 18:
        message.request_headers = readHttpHeaders(reader);
        break;
      case 26:
        message.response_headers = readHttpHeaders(reader);
        break;
      case 34:
        message.request_body = readHttpBody(reader);
        break;
      case 42:
        message.response_body = readHttpBody(reader);
        break;
      case 50:
        message.request_trailers = readHttpTrailers(reader);
        break;
      case 58:
        message.response_trailers = readHttpTrailers(reader);
        break;
      case 66:
        message.metadata_context = readMetadata(reader, reader.enter());
        break;
      case 74:
        if (wantsAttributes) readEntry(reader, reader.enter(), (message.attributes ??= newMap()), readStruct, 0);
        else reader.skip(tag);
        break;
      case 80:
        message.observability_mode = reader.bool();
        break;
      case 90:
        message.protocol_config = readProtocolConfiguration(reader);
        break;
      default:
        reader.skip(tag);
    }
  }
  reader.leave(end);
  const request = toPhase(message);
  if (request !== undefined) message.request = request;
  return message;
}

/** The member with the highest number, where a broken peer sends several. */
function toPhase(message: ProcessingRequest): ProcessingRequest['request'] {
  if (message.response_trailers !== undefined) return 'response_trailers';
  if (message.request_trailers !== undefined) return 'request_trailers';
  if (message.response_body !== undefined) return 'response_body';
  if (message.request_body !== undefined) return 'request_body';
  if (message.response_headers !== undefined) return 'response_headers';
  return message.request_headers === undefined ? undefined : 'request_headers';
}

function readHttpHeaders(reader: WireReader): HttpHeaders {
  const end = reader.enter();
  const message: HttpHeaders = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) message.headers = readHeaderMap(reader);
    else if (tag === 24) message.end_of_stream = reader.bool();
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readHttpBody(reader: WireReader): HttpBody {
  const end = reader.enter();
  const message: HttpBody = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) message.body = reader.view();
    else if (tag === 16) message.end_of_stream = reader.bool();
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readHttpTrailers(reader: WireReader): HttpTrailers {
  const end = reader.enter();
  const message: HttpTrailers = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) message.trailers = readHeaderMap(reader);
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readHeaderMap(reader: WireReader): HeaderMap {
  const end = reader.enter();
  const message: HeaderMap = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) (message.headers ??= []).push(readHeader(reader));
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

const names = new HeaderNames();

function readHeader(reader: WireReader): HeaderView {
  const end = reader.enter();
  const { bytes } = reader;
  let key = '';
  let value = '';
  let rawAt = 0;
  let rawEnd = 0;
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) {
      const keyEnd = reader.enter();
      key = names.read(bytes, reader.at, keyEnd);
      reader.at = keyEnd;
    } else if (tag === 18) value = reader.string();
    else if (tag === 26) {
      rawEnd = reader.enter();
      rawAt = reader.at;
      reader.at = rawEnd;
    } else reader.skip(tag);
  }
  reader.leave(end);
  return new HeaderView(key, value, bytes, rawAt, rawEnd);
}

/** A header whose value is cut out only when asked for: of twenty headers few are looked at. What is absent is empty. */
export class HeaderView implements HeaderValue {
  readonly key: string;
  readonly value: string;
  readonly #bytes: Buffer;
  readonly #at: number;
  readonly #end: number;

  constructor(key: string, value: string, bytes: Buffer, at: number, end: number) {
    this.key = key;
    this.value = value;
    this.#bytes = bytes;
    this.#at = at;
    this.#end = end;
  }

  get raw_value(): Buffer {
    return this.#bytes.subarray(this.#at, this.#end);
  }

  /** Its value as text, whichever field it came in: what is no UTF-8 becomes U+FFFD, for header values are any bytes. */
  text(): string {
    return this.#end > this.#at ? this.#bytes.toString('utf8', this.#at, this.#end) : this.value;
  }
}

function readProtocolConfiguration(reader: WireReader): ProtocolConfiguration {
  const end = reader.enter();
  const message: ProtocolConfiguration = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 8) message.request_body_mode = reader.int32();
    else if (tag === 16) message.response_body_mode = reader.int32();
    else if (tag === 24) message.send_body_without_waiting_for_header_response = reader.bool();
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}
