import type {
  AccessLogCommon,
  Address,
  Duration,
  HTTPAccessLogEntry,
  HTTPResponseProperties,
  ResponseFlags,
  SocketAddress,
  StreamAccessLogsMessage,
  StreamAccessLogsMessageHTTPAccessLogEntries,
  Struct,
  UInt32Value,
} from '../messages.ts';
import { WireReader } from './reader.ts';
import { readMetadata, readStruct } from './struct.ts';

// envoy/service/accesslog/v3/als.proto and envoy/data/accesslog/v3/accesslog.proto. A case in a switch is `field << 3 | wire type`; a field
// that is known but written in another way is skipped like an unknown one, as protobuf wants it. A field that comes twice counts as it came last.

/** The metadata that the processor set itself. */
const namespaces: ReadonlySet<string> = new Set(['fairlead']);
/** And of that what names the request; the rest is for those who read Envoy's logs. */
const leaseField: ReadonlySet<string> = new Set(['lease']);
const readLease = (reader: WireReader, end: number, depth: number): Struct => readStruct(reader, end, depth, leaseField);

/**
 * Decodes of a `StreamAccessLogsMessage` what access-log.ts reads, as the generic codec in proto.ts would; of the rest nothing, for a record
 * holds five times as much. Throws a WireError for what is no such message.
 */
export function decodeStreamAccessLogsMessage(bytes: Buffer): StreamAccessLogsMessage {
  const reader = new WireReader(bytes);
  const end = bytes.length;
  const message: StreamAccessLogsMessage = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 18) {
      message.http_logs = readEntries(reader);
      message.log_entries = 'http_logs';
    } else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readEntries(reader: WireReader): StreamAccessLogsMessageHTTPAccessLogEntries {
  const end = reader.enter();
  const message: StreamAccessLogsMessageHTTPAccessLogEntries = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) (message.log_entry ??= []).push(readEntry(reader));
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readEntry(reader: WireReader): HTTPAccessLogEntry {
  const end = reader.enter();
  const message: HTTPAccessLogEntry = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) message.common_properties = readCommon(reader);
    else if (tag === 34) message.response = readResponse(reader);
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readCommon(reader: WireReader): AccessLogCommon {
  const end = reader.enter();
  const message: AccessLogCommon = {};
  while (reader.at < end) {
    const tag = reader.tag();
    switch (tag) {
      case 58:
        message.time_to_first_upstream_tx_byte = readDuration(reader);
        break;
      case 74:
        message.time_to_first_upstream_rx_byte = readDuration(reader);
        break;
      case 82:
        message.time_to_last_upstream_rx_byte = readDuration(reader);
        break;
      case 106:
        message.upstream_remote_address = readAddress(reader);
        break;
      case 130:
        message.response_flags = readFlags(reader);
        break;
      case 138:
        message.metadata = readMetadata(reader, reader.enter(), namespaces, readLease);
        break;
      case 192:
        message.upstream_request_attempt_count = reader.uint32();
        break;
      case 264:
        message.access_log_type = reader.int32();
        break;
      default:
        reader.skip(tag);
    }
  }
  reader.leave(end);
  return message;
}

function readDuration(reader: WireReader): Duration {
  const end = reader.enter();
  const message: Duration = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 8) message.seconds = reader.int64();
    else if (tag === 16) message.nanos = reader.int32();
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readAddress(reader: WireReader): Address {
  const end = reader.enter();
  const message: Address = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) {
      message.socket_address = readSocketAddress(reader);
      message.address = 'socket_address';
    } else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readSocketAddress(reader: WireReader): SocketAddress {
  const end = reader.enter();
  const message: SocketAddress = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 18) message.address = reader.string();
    else if (tag === 24) {
      message.port_value = reader.uint32();
      message.port_specifier = 'port_value';
    } else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

/** The flags that say how a request ended, by field number. */
const flagNames = new Map<number, Exclude<keyof ResponseFlags, 'unauthorized_details'>>([
  [3, 'upstream_request_timeout'],
  [4, 'local_reset'],
  [5, 'upstream_remote_reset'],
  [6, 'upstream_connection_failure'],
  [7, 'upstream_connection_termination'],
  [15, 'downstream_connection_termination'],
  [16, 'upstream_retry_limit_exceeded'],
  [17, 'stream_idle_timeout'],
  [19, 'downstream_protocol_error'],
  [20, 'upstream_max_stream_duration_reached'],
  [23, 'duration_timeout'],
  [24, 'upstream_protocol_error'],
  [28, 'downstream_remote_reset'],
]);

function readFlags(reader: WireReader): ResponseFlags {
  const end = reader.enter();
  const message: ResponseFlags = {};
  while (reader.at < end) {
    const tag = reader.tag();
    const name = (tag & 7) === 0 ? flagNames.get(tag >>> 3) : undefined;
    if (name === undefined) reader.skip(tag);
    else message[name] = reader.bool();
  }
  reader.leave(end);
  return message;
}

function readResponse(reader: WireReader): HTTPResponseProperties {
  const end = reader.enter();
  const message: HTTPResponseProperties = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) message.response_code = readUInt32(reader);
    else if (tag === 24) message.response_body_bytes = reader.uint64();
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}

function readUInt32(reader: WireReader): UInt32Value {
  const end = reader.enter();
  const message: UInt32Value = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 8) message.value = reader.uint32();
    else reader.skip(tag);
  }
  reader.leave(end);
  return message;
}
