// The messages of protos/ as the codec in proto.ts decodes and encodes them. Names and fields are Envoy's (nested messages: outer name,
// then inner name); test/contract/protos.test.ts compares each with protos/, because the codec drops a misspelt property without a word.
//
// How they look:
// - proto3 default values are not on the wire, and the codec adds none: an absent bool, number, string, list or map is undefined.
// - Of a oneof, the property of the oneof's own name (`request`, `kind` …) says which member is set. Decoding sets it, encoding ignores
//   it. A broken peer can send two members; then both are there.
// - A bytes field is a Buffer: a view into the received message, so copy what outlives it. A string there would be taken for base64.
// - Enums are open: a newer Envoy may send numbers that the constants below lack.
// - 64-bit integers are numbers, exact up to 2^53.

/** How Envoy sends a body to the processor (`ProcessingMode.BodySendMode`). */
export const BodySendMode = {
  NONE: 0,
  STREAMED: 1,
  BUFFERED: 2,
  BUFFERED_PARTIAL: 3,
  FULL_DUPLEX_STREAMED: 4,
  GRPC: 5,
} as const;
export type BodySendMode = (typeof BodySendMode)[keyof typeof BodySendMode];

/** Whether Envoy sends headers or trailers to the processor (`ProcessingMode.HeaderSendMode`); by default headers yes, trailers no. */
export const HeaderSendMode = { DEFAULT: 0, SEND: 1, SKIP: 2 } as const;
export type HeaderSendMode = (typeof HeaderSendMode)[keyof typeof HeaderSendMode];

/** What happens to a header that is there already (`HeaderValueOption.HeaderAppendAction`). */
export const AppendAction = {
  APPEND_IF_EXISTS_OR_ADD: 0,
  ADD_IF_ABSENT: 1,
  OVERWRITE_IF_EXISTS_OR_ADD: 2,
  OVERWRITE_IF_EXISTS: 3,
} as const;
export type AppendAction = (typeof AppendAction)[keyof typeof AppendAction];

/** Go on as usual, or with the body replaced and no further body phase (`CommonResponse.ResponseStatus`). */
export const ResponseStatus = { CONTINUE: 0, CONTINUE_AND_REPLACE: 1 } as const;
export type ResponseStatus = (typeof ResponseStatus)[keyof typeof ResponseStatus];

/** Why Envoy wrote an access-log record. A request is over at `DownstreamEnd`; others tell of its beginning, progress or one attempt. */
export const AccessLogType = {
  NotSet: 0,
  TcpUpstreamConnected: 1,
  TcpPeriodic: 2,
  TcpConnectionEnd: 3,
  DownstreamStart: 4,
  DownstreamPeriodic: 5,
  DownstreamEnd: 6,
  UpstreamPoolReady: 7,
  UpstreamPeriodic: 8,
  UpstreamEnd: 9,
  DownstreamTunnelSuccessfullyEstablished: 10,
  UdpTunnelUpstreamConnected: 11,
  UdpPeriodic: 12,
  UdpSessionEnd: 13,
} as const;
export type AccessLogType = (typeof AccessLogType)[keyof typeof AccessLogType];

// google.protobuf. Struct and Value are camelCase, unlike all else here: protobufjs brings them so, whatever the loader is told.

/** `google.protobuf.Struct`: a JSON object. {@link toStruct} builds one, {@link structString} and {@link structStrings} read it. */
export interface Struct {
  fields?: Record<string, Value>;
}

/** `google.protobuf.Value`: any JSON value. */
export interface Value {
  kind?: 'nullValue' | 'numberValue' | 'stringValue' | 'boolValue' | 'structValue' | 'listValue';
  nullValue?: number;
  numberValue?: number;
  stringValue?: string;
  boolValue?: boolean;
  structValue?: Struct;
  listValue?: ListValue;
}

/** `google.protobuf.ListValue`: a JSON array. */
export interface ListValue {
  values?: Value[];
}

/** `google.protobuf.Duration`; both parts have the same sign. */
export interface Duration {
  seconds?: number;
  nanos?: number;
}

/** `google.protobuf.Timestamp`, since the Unix epoch. */
export interface Timestamp {
  seconds?: number;
  nanos?: number;
}

/** `google.protobuf.BoolValue`: a bool whose absence means something. */
export interface BoolValue {
  value?: boolean;
}

/** `google.protobuf.UInt32Value`: a number whose absence means something. */
export interface UInt32Value {
  value?: number;
}

// envoy.config.core.v3

/** The Envoy instance that speaks. */
export interface Node {
  id?: string;
  cluster?: string;
}

/** A request's dynamic metadata, by namespace. Read it with {@link metadataString} and {@link metadataStrings}. */
export interface Metadata {
  filter_metadata?: Record<string, Struct>;
}

/**
 * One header. Envoy fills `raw_value` alone, and takes only that from us: with `value` alone the header arrives empty, both together are
 * a 500.
 */
export interface HeaderValue {
  key?: string;
  value?: string;
  raw_value?: Buffer;
}

/** Headers or trailers; names are lower case, and one name may come more than once. */
export interface HeaderMap {
  headers?: HeaderValue[];
}

/** One header to set. `append` is deprecated: say what you mean in `append_action`. */
export interface HeaderValueOption {
  header?: HeaderValue;
  append?: BoolValue;
  append_action?: number;
  keep_empty_value?: boolean;
}

/** Where a peer is. */
export interface Address {
  address?: 'socket_address' | 'pipe';
  socket_address?: SocketAddress;
  pipe?: Pipe;
}

/** An IP address (IPv6 without brackets) and its port. */
export interface SocketAddress {
  address?: string;
  port_specifier?: 'port_value';
  port_value?: number;
}

/** A Unix domain socket. */
export interface Pipe {
  path?: string;
}

// envoy.type.v3

/** An HTTP status by its number. */
export interface HttpStatus {
  code?: number;
}

// envoy.extensions.filters.http.ext_proc.v3

/** Which phases Envoy sends; as `mode_override` it applies to the rest of the stream. {@link HeaderSendMode}, {@link BodySendMode}. */
export interface ProcessingMode {
  request_header_mode?: number;
  response_header_mode?: number;
  request_body_mode?: number;
  response_body_mode?: number;
  request_trailer_mode?: number;
  response_trailer_mode?: number;
}

// envoy.service.ext_proc.v3

/** One phase of an HTTP request, from Envoy. A message of no phase brings something newer than these types: ignore it. */
export interface ProcessingRequest {
  request?: 'request_headers' | 'response_headers' | 'request_body' | 'response_body' | 'request_trailers' | 'response_trailers';
  request_headers?: HttpHeaders;
  response_headers?: HttpHeaders;
  request_body?: HttpBody;
  response_body?: HttpBody;
  request_trailers?: HttpTrailers;
  response_trailers?: HttpTrailers;
  metadata_context?: Metadata;
  attributes?: Record<string, Struct>;
  observability_mode?: boolean;
  protocol_config?: ProtocolConfiguration;
}

/** The body modes in force, on the first message of a stream. */
export interface ProtocolConfiguration {
  request_body_mode?: number;
  response_body_mode?: number;
  send_body_without_waiting_for_header_response?: boolean;
}

/** Request or response headers; `end_of_stream`: neither body nor trailers follow. */
export interface HttpHeaders {
  headers?: HeaderMap;
  end_of_stream?: boolean;
}

/** A body or a chunk of one; an empty chunk has no `body`. */
export interface HttpBody {
  body?: Buffer;
  end_of_stream?: boolean;
}

/** Request or response trailers; the end of the stream in that direction. */
export interface HttpTrailers {
  trailers?: HeaderMap;
}

/** The answer to one phase, to Envoy. */
export interface ProcessingResponse {
  response?:
    | 'request_headers'
    | 'response_headers'
    | 'request_body'
    | 'response_body'
    | 'request_trailers'
    | 'response_trailers'
    | 'immediate_response';
  request_headers?: HeadersResponse;
  response_headers?: HeadersResponse;
  request_body?: BodyResponse;
  response_body?: BodyResponse;
  request_trailers?: TrailersResponse;
  response_trailers?: TrailersResponse;
  immediate_response?: ImmediateResponse;
  dynamic_metadata?: Struct;
  mode_override?: ProcessingMode;
  override_message_timeout?: Duration;
}

/** The answer to request or response headers. */
export interface HeadersResponse {
  response?: CommonResponse;
}

/** The answer to a body or a chunk of one. */
export interface BodyResponse {
  response?: CommonResponse;
}

/** The answer to trailers. */
export interface TrailersResponse {
  header_mutation?: HeaderMutation;
}

/** What to do with headers or body. `status`: {@link ResponseStatus}; a `cluster_header` route needs `clear_route_cache`. */
export interface CommonResponse {
  status?: number;
  header_mutation?: HeaderMutation;
  body_mutation?: BodyMutation;
  trailers?: HeaderMap;
  clear_route_cache?: boolean;
}

/** Ends the HTTP request with this response; `details` shows in Envoy's access log. */
export interface ImmediateResponse {
  status?: HttpStatus;
  headers?: HeaderMutation;
  body?: Buffer;
  grpc_status?: GrpcStatus;
  details?: string;
}

/** A gRPC status code, for callers that speak gRPC. */
export interface GrpcStatus {
  status?: number;
}

/** Headers to set, and names of headers to remove. */
export interface HeaderMutation {
  set_headers?: HeaderValueOption[];
  remove_headers?: string[];
}

/** What becomes of a body. `streamed_response` is for FULL_DUPLEX_STREAMED, the others for the other modes. */
export interface BodyMutation {
  mutation?: 'body' | 'clear_body' | 'streamed_response';
  body?: Buffer;
  clear_body?: boolean;
  streamed_response?: StreamedBodyResponse;
}

/** One chunk of the body that goes on in place of what came; at most 62 000 bytes. */
export interface StreamedBodyResponse {
  body?: Buffer;
  end_of_stream?: boolean;
}

// envoy.service.accesslog.v3

/** A batch of access-log records; TCP records are left out and show as a message without `http_logs`. */
export interface StreamAccessLogsMessage {
  identifier?: StreamAccessLogsMessageIdentifier;
  log_entries?: 'http_logs';
  http_logs?: StreamAccessLogsMessageHTTPAccessLogEntries;
}

/** Who logs, on the first message of a stream. */
export interface StreamAccessLogsMessageIdentifier {
  node?: Node;
  log_name?: string;
}

/** The records of one batch. */
export interface StreamAccessLogsMessageHTTPAccessLogEntries {
  log_entry?: HTTPAccessLogEntry[];
}

/** Empty; Envoy expects it only when the stream ends. */
export type StreamAccessLogsResponse = Record<string, never>;

// envoy.data.accesslog.v3

/** One record of one HTTP request. */
export interface HTTPAccessLogEntry {
  common_properties?: AccessLogCommon;
  protocol_version?: number;
  request?: HTTPRequestProperties;
  response?: HTTPResponseProperties;
}

/**
 * What all records hold. `time_to_…` count from `start_time` (rx: Envoy received, tx: Envoy sent) and are absent for what never happened;
 * {@link toMs} gives milliseconds.
 */
export interface AccessLogCommon {
  downstream_remote_address?: Address;
  start_time?: Timestamp;
  time_to_last_rx_byte?: Duration;
  time_to_first_upstream_tx_byte?: Duration;
  time_to_last_upstream_tx_byte?: Duration;
  time_to_first_upstream_rx_byte?: Duration;
  time_to_last_upstream_rx_byte?: Duration;
  time_to_first_downstream_tx_byte?: Duration;
  time_to_last_downstream_tx_byte?: Duration;
  upstream_remote_address?: Address;
  upstream_cluster?: string;
  response_flags?: ResponseFlags;
  metadata?: Metadata;
  upstream_transport_failure_reason?: string;
  route_name?: string;
  custom_tags?: Record<string, string>;
  duration?: Duration;
  upstream_request_attempt_count?: number;
  connection_termination_details?: string;
  stream_id?: string;
  access_log_type?: number;
}

/** Why a request went wrong, as Envoy sees it. */
export interface ResponseFlags {
  failed_local_healthcheck?: boolean;
  no_healthy_upstream?: boolean;
  upstream_request_timeout?: boolean;
  local_reset?: boolean;
  upstream_remote_reset?: boolean;
  upstream_connection_failure?: boolean;
  upstream_connection_termination?: boolean;
  upstream_overflow?: boolean;
  no_route_found?: boolean;
  delay_injected?: boolean;
  fault_injected?: boolean;
  rate_limited?: boolean;
  unauthorized_details?: ResponseFlagsUnauthorized;
  rate_limit_service_error?: boolean;
  downstream_connection_termination?: boolean;
  upstream_retry_limit_exceeded?: boolean;
  stream_idle_timeout?: boolean;
  invalid_envoy_request_headers?: boolean;
  downstream_protocol_error?: boolean;
  upstream_max_stream_duration_reached?: boolean;
  response_from_cache_filter?: boolean;
  no_filter_config_found?: boolean;
  duration_timeout?: boolean;
  upstream_protocol_error?: boolean;
  no_cluster_found?: boolean;
  overload_manager?: boolean;
  dns_resolution_failure?: boolean;
  downstream_remote_reset?: boolean;
}

/** Who denied the request: 1 is an external authorization service. */
export interface ResponseFlagsUnauthorized {
  reason?: number;
}

/** The request as logged; sizes in bytes. `request_headers` holds only the headers that the logger's configuration names. */
export interface HTTPRequestProperties {
  request_method?: number;
  scheme?: string;
  authority?: string;
  port?: UInt32Value;
  path?: string;
  user_agent?: string;
  referer?: string;
  forwarded_for?: string;
  request_id?: string;
  original_path?: string;
  request_headers_bytes?: number;
  request_body_bytes?: number;
  request_headers?: Record<string, string>;
  upstream_header_bytes_sent?: number;
  downstream_header_bytes_received?: number;
}

/** The response as logged; sizes in bytes. `response_code` is absent when no response was begun. */
export interface HTTPResponseProperties {
  response_code?: UInt32Value;
  response_headers_bytes?: number;
  response_body_bytes?: number;
  response_headers?: Record<string, string>;
  response_trailers?: Record<string, string>;
  response_code_details?: string;
  upstream_header_bytes_received?: number;
  downstream_header_bytes_sent?: number;
}

/** What {@link toStruct} takes: JSON without null. */
export type StructInput = string | number | boolean | readonly StructInput[] | { readonly [key: string]: StructInput };

/** A plain object as a `google.protobuf.Struct`, for `dynamic_metadata`: `toStruct({ 'envoy.lb': { key: 'value' } })`. */
export function toStruct(record: Readonly<Record<string, StructInput>>): Struct {
  return { fields: Object.fromEntries(Object.entries(record).map(([key, value]) => [key, toValue(value)])) };
}

function toValue(input: StructInput): Value {
  switch (typeof input) {
    case 'string':
      return { stringValue: input };
    case 'number':
      return { numberValue: input };
    case 'boolean':
      return { boolValue: input };
    default:
      return isList(input) ? { listValue: { values: input.map(toValue) } } : { structValue: toStruct(input) };
  }
}

// Array.isArray alone does not narrow a readonly array.
function isList(input: readonly StructInput[] | Readonly<Record<string, StructInput>>): input is readonly StructInput[] {
  return Array.isArray(input);
}

/** The string at `key`; undefined when it is absent or no string. */
export function structString(struct: Struct | undefined, key: string): string | undefined {
  return own(struct?.fields, key)?.stringValue;
}

/**
 * The strings of the list at `key`; other elements are left out, and a lone string counts as a list of one.
 * Undefined means that the key is absent, and only that: a value of any other kind gives an empty list. The endpoint picker protocol's
 * subset hint needs the difference (absent: the whole pool; nothing usable: no endpoint at all).
 */
export function structStrings(struct: Struct | undefined, key: string): string[] | undefined {
  const value = own(struct?.fields, key);
  if (value === undefined) return undefined;
  if (value.stringValue !== undefined) return [value.stringValue];
  return (value.listValue?.values ?? []).flatMap(({ stringValue }) => (stringValue === undefined ? [] : [stringValue]));
}

/** {@link structString} of one namespace of a request's dynamic metadata. */
export function metadataString(metadata: Metadata | undefined, namespace: string, key: string): string | undefined {
  return structString(own(metadata?.filter_metadata, namespace), key);
}

/** {@link structStrings} of one namespace of a request's dynamic metadata. */
export function metadataStrings(metadata: Metadata | undefined, namespace: string, key: string): string[] | undefined {
  return structStrings(own(metadata?.filter_metadata, namespace), key);
}

// Keys come from outside: `constructor` must not find what every object inherits.
function own<T>(record: Readonly<Record<string, T>> | undefined, key: string): T | undefined {
  return record !== undefined && Object.hasOwn(record, key) ? record[key] : undefined;
}

/** A duration, or a timestamp since the Unix epoch, in milliseconds with a fraction; undefined stays undefined. */
export function toMs(duration: Duration | Timestamp): number;
export function toMs(duration: Duration | Timestamp | undefined): number | undefined;
export function toMs(duration: Duration | Timestamp | undefined): number | undefined {
  if (duration === undefined) return undefined;
  return (duration.seconds ?? 0) * 1e3 + (duration.nanos ?? 0) / 1e6;
}

/** Milliseconds as a duration, rounded to whole nanoseconds. `ms` must be finite. */
export function toDuration(ms: number): Duration {
  // Rounding may carry (999.9999999 ms is one second), so the parts are taken from the rounded nanoseconds of the fraction.
  const seconds = Math.trunc(ms / 1e3);
  const nanos = Math.round((ms - seconds * 1e3) * 1e6);
  return Math.abs(nanos) === 1e9 ? { seconds: seconds + Math.sign(nanos), nanos: 0 } : { seconds, nanos };
}
