// The hand-written codecs against the generic one: same meaning in both directions, and nothing but a WireError for what is no message.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readAccessLogEntry } from '../../src/extproc/access-log.ts';
import type { HeaderValue, HTTPAccessLogEntry, ProcessingRequest, ProcessingResponse, StreamAccessLogsMessage, Struct, Value } from '../../src/extproc/messages.ts';
import * as generic from '../../src/extproc/proto.ts';
import { decodeStreamAccessLogsMessage } from '../../src/extproc/wire/access-log-message.ts';
import { decodeProcessingRequest, HeaderView } from '../../src/extproc/wire/processing-request.ts';
import { encodeProcessingResponse } from '../../src/extproc/wire/processing-response.ts';
import { WireError, WireReader } from '../../src/extproc/wire/reader.ts';

const runs = { numRuns: 250 };

// ---- messages ----

const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(value, { nil: undefined });
/** An object less the properties that came out undefined: of those, the codecs write nothing. */
function record<T extends object>(model: { [K in keyof T]-?: fc.Arbitrary<T[K] | undefined> }): fc.Arbitrary<T> {
  return fc.record(model as Record<string, fc.Arbitrary<unknown>>).map((value) => Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as T);
}

const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 80 }), fc.string({ unit: 'grapheme-ascii', maxLength: 200 }), fc.constantFrom('', 'fairlead', 'lease', '__proto__', ':path', 'é'));
const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
const largeBytes = fc.integer({ min: 8_000, max: 70_000 }).map((length) => Buffer.alloc(length, 'abc'));
const body = fc.oneof({ weight: 4, arbitrary: bytes }, { weight: 1, arbitrary: largeBytes });
/** Enums are open, and negative ones take ten bytes. */
const openEnum = fc.oneof(fc.integer({ min: 0, max: 6 }), fc.integer());
const uint32 = fc.oneof(fc.nat({ max: 200 }), fc.integer({ min: 0, max: 0xffff_ffff }));

const { struct } = fc.letrec<{ struct: Struct; value: Value }>((tie) => ({
  struct: record<Struct>({ fields: maybe(fc.dictionary(text, tie('value'), { maxKeys: 4, noNullPrototype: false })) }),
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.record({ kind: fc.constant('stringValue' as const), stringValue: text }),
    fc.record({ kind: fc.constant('numberValue' as const), numberValue: fc.double({ noNaN: true }) }),
    fc.record({ kind: fc.constant('boolValue' as const), boolValue: fc.boolean() }),
    fc.record({ kind: fc.constant('nullValue' as const), nullValue: fc.constant(0) }),
    fc.record({ kind: fc.constant('structValue' as const), structValue: tie('struct') }),
    fc.record({ kind: fc.constant('listValue' as const), listValue: fc.record({ values: fc.array(tie('value'), { minLength: 1, maxLength: 3 }) }) }),
  ),
}));
const structs = fc.dictionary(text, struct, { maxKeys: 4, noNullPrototype: false });

const header = record({ key: maybe(text), value: maybe(text), raw_value: maybe(bytes) });
const headerMap = record({ headers: maybe(fc.array(header, { minLength: 1, maxLength: 6 })) });
const httpHeaders = record({ headers: maybe(headerMap), end_of_stream: maybe(fc.boolean()) });
const httpBody = record({ body: maybe(body), end_of_stream: maybe(fc.boolean()) });
const trailers = record({ trailers: maybe(headerMap) });
const request = fc
  .tuple(
    fc.oneof(
      fc.record({ request_headers: httpHeaders }),
      fc.record({ response_headers: httpHeaders }),
      fc.record({ request_body: httpBody }),
      fc.record({ response_body: httpBody }),
      fc.record({ request_trailers: trailers }),
      fc.record({ response_trailers: trailers }),
      fc.constant({}),
    ),
    record({
      metadata_context: maybe(record({ filter_metadata: maybe(structs) })),
      attributes: maybe(structs),
      observability_mode: maybe(fc.boolean()),
      protocol_config: maybe(
        record({ request_body_mode: maybe(openEnum), response_body_mode: maybe(openEnum), send_body_without_waiting_for_header_response: maybe(fc.boolean()) }),
      ),
    }),
  )
  .map(([phase, rest]): ProcessingRequest => ({ ...phase, ...rest }));

const headerOption = record({
  header: maybe(header),
  append: maybe(record({ value: maybe(fc.boolean()) })),
  append_action: maybe(openEnum),
  keep_empty_value: maybe(fc.boolean()),
});
const headerMutation = record({ set_headers: maybe(fc.array(headerOption, { maxLength: 4 })), remove_headers: maybe(fc.array(text, { maxLength: 4 })) });
const streamed = record({ body: maybe(body), end_of_stream: maybe(fc.boolean()) });
const common = record({
  status: maybe(openEnum),
  header_mutation: maybe(headerMutation),
  body_mutation: maybe(fc.oneof(fc.record({ body }), fc.record({ clear_body: fc.boolean() }), fc.record({ streamed_response: streamed }))),
  trailers: maybe(headerMap),
  clear_route_cache: maybe(fc.boolean()),
});
const commonAnswer = record({ response: maybe(common) });
const trailersAnswer = record({ header_mutation: maybe(headerMutation) });
const immediate = record({
  status: maybe(record({ code: maybe(openEnum) })),
  headers: maybe(headerMutation),
  body: maybe(body),
  grpc_status: maybe(record({ status: maybe(uint32) })),
  details: maybe(text),
});
const response = fc
  .tuple(
    fc.oneof(
      fc.record({ request_headers: commonAnswer }),
      fc.record({ response_headers: commonAnswer }),
      fc.record({ request_body: commonAnswer }),
      fc.record({ response_body: commonAnswer }),
      fc.record({ request_trailers: trailersAnswer }),
      fc.record({ response_trailers: trailersAnswer }),
      fc.record({ immediate_response: immediate }),
      fc.constant({}),
    ),
    record({
      dynamic_metadata: maybe(struct),
      mode_override: maybe(
        record({
          request_header_mode: maybe(openEnum),
          response_header_mode: maybe(openEnum),
          request_body_mode: maybe(openEnum),
          response_body_mode: maybe(openEnum),
          request_trailer_mode: maybe(openEnum),
          response_trailer_mode: maybe(openEnum),
        }),
      ),
      override_message_timeout: maybe(record({ seconds: maybe(fc.maxSafeInteger()), nanos: maybe(fc.integer()) })),
    }),
  )
  .map(([phase, rest]): ProcessingResponse => ({ ...phase, ...rest }));

const flags = ['local_reset', 'upstream_connection_failure', 'rate_limited', 'downstream_remote_reset', 'downstream_connection_termination', 'duration_timeout', 'no_route_found'];
const duration = record({ seconds: maybe(fc.integer({ min: -1_000, max: 100_000 })), nanos: maybe(fc.integer({ min: -999_999_999, max: 999_999_999 })) });
const entry: fc.Arbitrary<HTTPAccessLogEntry> = record<HTTPAccessLogEntry>({
  common_properties: maybe(
    record({
      downstream_remote_address: maybe(fc.record({ pipe: fc.record({ path: text }) })),
      start_time: maybe(duration),
      time_to_last_rx_byte: maybe(duration),
      time_to_first_upstream_tx_byte: maybe(duration),
      time_to_last_upstream_tx_byte: maybe(duration),
      time_to_first_upstream_rx_byte: maybe(duration),
      time_to_last_upstream_rx_byte: maybe(duration),
      time_to_first_downstream_tx_byte: maybe(duration),
      time_to_last_downstream_tx_byte: maybe(duration),
      upstream_remote_address: maybe(
        fc.oneof(
          fc.record({ socket_address: record({ address: maybe(text), port_value: maybe(uint32) }) }),
          fc.record({ pipe: fc.record({ path: text }) }),
        ),
      ),
      upstream_cluster: maybe(text),
      response_flags: maybe(fc.subarray(flags).map((names) => Object.fromEntries(names.map((name) => [name, true])))),
      metadata: maybe(
        record({
          filter_metadata: maybe(
            fc.oneof(structs, fc.record({ fairlead: fc.record({ fields: fc.record({ lease: fc.record({ stringValue: text }) }) }), 'envoy.lb': struct })),
          ),
        }),
      ),
      upstream_transport_failure_reason: maybe(text),
      route_name: maybe(text),
      custom_tags: maybe(fc.dictionary(text, text, { maxKeys: 3 })),
      duration: maybe(duration),
      upstream_request_attempt_count: maybe(uint32),
      connection_termination_details: maybe(text),
      stream_id: maybe(text),
      access_log_type: maybe(fc.oneof(fc.constant(6), openEnum)),
    }),
  ),
  protocol_version: maybe(openEnum),
  request: maybe(record({ path: maybe(text), request_headers: maybe(fc.dictionary(text, text, { maxKeys: 3 })), request_body_bytes: maybe(fc.maxSafeNat()) })),
  response: maybe(record({ response_code: maybe(record({ value: maybe(uint32) })), response_body_bytes: maybe(fc.maxSafeNat()), response_code_details: maybe(text) })),
});
const logs = record<StreamAccessLogsMessage>({
  identifier: maybe(fc.record({ log_name: text })),
  log_entries: fc.constant(undefined),
  http_logs: maybe(fc.record({ log_entry: fc.array(entry, { maxLength: 4 }) })),
});

/** What the two decoders agree on: headers as plain objects in which nothing is also what is empty, maps without a prototype of their own. */
function plain(value: unknown, isHeader = false): unknown {
  if (Buffer.isBuffer(value)) return value.toString('base64');
  if (typeof value !== 'object' || value === null) return value;
  if (isHeader) {
    const { key = '', value: text = '', raw_value: raw } = value as HeaderValue;
    return { key, text, raw: raw?.toString('base64') ?? '' };
  }
  return Object.entries(value)
    .map(([key, item]: [string, unknown]) => [key, Array.isArray(item) ? item.map((one) => plain(one, key === 'headers')) : plain(item)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

// ---- bytes ----

function varint(value: number): number[] {
  const digits: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) digits.push((rest % 0x80) | 0x80);
  return [...digits, rest];
}

/** Whole fields that no message here has: each wire type, varints of ten bytes, groups within groups. */
const unknownField = fc.oneof(
  fc.tuple(fc.integer({ min: 1_000, max: 536_870_911 }), fc.integer({ min: 0, max: 0xffff_ffff })).map(([field, value]) => [...varint(field * 8), ...varint(value)]),
  fc.integer({ min: 1_000, max: 9_000 }).map((field) => [...varint(field * 8), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
  fc.tuple(fc.integer({ min: 1_000, max: 9_000 }), fc.uint8Array({ minLength: 8, maxLength: 8 })).map(([field, value]) => [...varint(field * 8 + 1), ...value]),
  fc.tuple(fc.integer({ min: 1_000, max: 9_000 }), fc.uint8Array({ maxLength: 40 })).map(([field, value]) => [...varint(field * 8 + 2), ...varint(value.length), ...value]),
  fc.tuple(fc.integer({ min: 1_000, max: 9_000 }), fc.uint8Array({ minLength: 4, maxLength: 4 })).map(([field, value]) => [...varint(field * 8 + 5), ...value]),
  fc.integer({ min: 1_000, max: 9_000 }).map((field) => [...varint(field * 8 + 3), 0x0b, 0x08, 0x01, 0x0c, ...varint(field * 8 + 4)]),
);

/** The message's own fields, in pieces. */
function fieldsOf(message: Buffer): Buffer[] {
  const reader = new WireReader(message);
  const fields: Buffer[] = [];
  while (reader.at < message.length) {
    const start = reader.at;
    reader.skip(reader.tag());
    fields.push(message.subarray(start, reader.at));
  }
  return fields;
}

/** What a message holds whose only field is another message. */
function contentOf(message: Buffer): Buffer {
  const reader = new WireReader(message);
  reader.tag();
  return reader.view();
}

/** The message with unknown fields between its own. */
function withUnknown(message: Buffer, unknown: readonly number[][]): Buffer {
  const pieces = fieldsOf(message);
  unknown.forEach((field, i) => pieces.splice((i * 7) % (pieces.length + 1), 0, Buffer.from(field)));
  return Buffer.concat(pieces);
}

/** Undefined where it is no message; whatever else is thrown fails the test. */
function attempt<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}

describe('a ProcessingRequest', () => {
  it('means the same as to the generic codec, whatever newer fields stand between', () => {
    fc.assert(
      fc.property(request, fc.array(unknownField, { maxLength: 4 }), (message, unknown) => {
        const encoded = withUnknown(generic.encodeProcessingRequest(message), unknown);
        expect(plain(decodeProcessingRequest(encoded))).toEqual(plain(generic.decodeProcessingRequest(encoded)));
      }),
      runs,
    );
  });

  it('takes unknown fields inside headers, bodies and settings too', () => {
    fc.assert(
      fc.property(header, unknownField, (one, unknown) => {
        const nested = (tag: number, content: Buffer): Buffer => Buffer.concat([Buffer.from([tag, ...varint(content.length)]), content]);
        const more = Buffer.from(unknown);
        // Of the message that holds this one header: the header's own bytes, in HeaderMap, in HttpHeaders, in the phase.
        const phase = contentOf(generic.encodeProcessingRequest({ request_headers: { headers: { headers: [one] } } }));
        const bare = contentOf(contentOf(phase));
        const spiked = nested(18, Buffer.concat([nested(10, Buffer.concat([more, nested(10, Buffer.concat([bare, more])), more])), more]));
        expect(plain(decodeProcessingRequest(spiked))).toEqual(plain(generic.decodeProcessingRequest(spiked)));
      }),
      runs,
    );
  });

  it('gives the text of a header from whichever field it came in', () => {
    fc.assert(
      fc.property(header, (one: HeaderValue) => {
        const read = decodeProcessingRequest(generic.encodeProcessingRequest({ request_headers: { headers: { headers: [one] } } }));
        const [view] = read.request_headers?.headers?.headers ?? [];
        expect(view).toBeInstanceOf(HeaderView);
        const { value = '', raw_value: raw = Buffer.alloc(0) } = one;
        expect((view as HeaderView).text()).toBe(raw.length > 0 ? raw.toString('utf8') : value);
      }),
      runs,
    );
  });

  it('reads maps whose entries come apart, and the phase with the highest number of several', () => {
    const a = generic.encodeProcessingRequest({ attributes: { a: { fields: { x: { stringValue: '1' } } } }, request_body: { body: Buffer.from('b') } });
    const b = generic.encodeProcessingRequest({ attributes: { b: {} }, request_headers: { end_of_stream: true } });
    for (const both of [Buffer.concat([a, b]), Buffer.concat([b, a])]) {
      const read = decodeProcessingRequest(both);
      expect(plain(read)).toEqual(plain(generic.decodeProcessingRequest(both)));
      expect(Object.keys(read.attributes ?? {}).sort()).toEqual(['a', 'b']);
      expect(read.request).toBe('request_body');
    }
  });

  it('is refused where it is cut off, unless between two fields', () => {
    fc.assert(
      fc.property(request, fc.nat(), (message, where) => {
        const encoded = generic.encodeProcessingRequest(message);
        fc.pre(encoded.length > 0);
        const cut = encoded.subarray(0, where % encoded.length);
        const ends = new Set<number>([0]);
        let end = 0;
        for (const field of fieldsOf(encoded)) ends.add((end += field.length));
        expect(attempt(() => decodeProcessingRequest(cut)) !== undefined).toBe(ends.has(cut.length));
      }),
      runs,
    );
  });

  it('whatever bytes come, is read or refused', () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)), mangled(request.map(generic.encodeProcessingRequest))), (noise) => {
        const read = attempt(() => decodeProcessingRequest(noise));
        for (const one of read?.request_headers?.headers?.headers ?? []) expect(one.raw_value).toBeInstanceOf(Buffer);
      }),
      { numRuns: 1_000 },
    );
  });

  it.each([
    ['a header name that is no UTF-8', [18, 5, 10, 3, 10, 1, 0xff]],
    ['a field number of 0', [2, 0]],
    ['a varint without an end', [80, 0x80]],
    ['a varint of eleven bytes', [80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]],
    ['wire type 6', [0x0e]],
    ['a group that another ends', [0x0b, 0x14]],
    ['a group without an end', [0x0b]],
    ['a field that outgrows its message', [18, 2, 10, 4, 0, 0, 0, 0]],
    ['a length of 2^32 and more', [34, 0x80, 0x80, 0x80, 0x80, 0x10]],
  ])('is refused for %s', (_, array) => {
    expect(() => decodeProcessingRequest(Buffer.from(array))).toThrow(WireError);
  });

  it('is refused where it nests more deeply than the stack should', () => {
    // Lists in lists: Value.list_value is field 6, ListValue.values field 1.
    let list = Buffer.alloc(0);
    for (let i = 0; i < 5_000; i += 1) list = Buffer.concat([Buffer.from([i % 2 === 0 ? 10 : 50, ...varint(list.length)]), list]);
    const value = Buffer.concat([Buffer.from([18, ...varint(list.length)]), list]);
    const field = Buffer.concat([Buffer.from([10, ...varint(value.length)]), value]);
    const structValue = Buffer.concat([Buffer.from([18, ...varint(field.length)]), field]);
    const attributes = Buffer.concat([Buffer.from([74, ...varint(structValue.length)]), structValue]);
    expect(() => decodeProcessingRequest(attributes)).toThrow(WireError);
    expect(() => decodeProcessingRequest(Buffer.alloc(20_000, 0x0b))).toThrow(WireError);
  });

  it('passes over attributes that nobody wants', () => {
    const attributes = { a: { fields: { x: { stringValue: '1' } } } };
    const encoded = generic.encodeProcessingRequest({ attributes, request_headers: { end_of_stream: true }, observability_mode: true });
    expect(decodeProcessingRequest(encoded, false)).toEqual({ request: 'request_headers', request_headers: { end_of_stream: true }, observability_mode: true });
    expect(decodeProcessingRequest(encoded).attributes).toBeDefined();
  });

  it('reads a key that is `__proto__` as one like any other', () => {
    const encoded = generic.encodeProcessingRequest({ attributes: Object.fromEntries([['__proto__', { fields: { a: { stringValue: 'b' } } }]]) });
    const { attributes } = decodeProcessingRequest(encoded);
    expect(Object.keys(attributes ?? {})).toEqual(['__proto__']);
    expect(({} as { fields?: unknown }).fields).toBeUndefined();
  });
});

/** Valid messages with some bytes changed, which get further than noise does. */
function mangled(messages: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> {
  return fc.tuple(messages, fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 })).map(([message, changes]) => {
    const copy = Buffer.from(message);
    for (const [at, byte] of changes) if (copy.length > 0) copy[at % copy.length] = byte;
    return copy;
  });
}

describe('a ProcessingResponse', () => {
  it('means the same as what the generic codec writes', () => {
    fc.assert(
      fc.property(response, fc.integer({ min: 0, max: 8 }), (message, prefixBytes) => {
        const { head, tail } = encodeProcessingResponse(message, prefixBytes);
        const whole = Buffer.concat([head.subarray(prefixBytes), tail ?? Buffer.alloc(0)]);
        const reference = generic.encodeProcessingResponse(message);
        expect(plain(generic.decodeProcessingResponse(whole))).toEqual(plain(generic.decodeProcessingResponse(reference)));
        expect(whole).toHaveLength(reference.length);
      }),
      runs,
    );
  });

  it('sends a large piece of body from where it is', () => {
    const piece = Buffer.alloc(20_000, 'x');
    const { head, tail } = encodeProcessingResponse({
      dynamic_metadata: { fields: { a: { stringValue: 'b' } } },
      request_body: { response: { clear_route_cache: true, body_mutation: { streamed_response: { body: piece, end_of_stream: true } } } },
    });
    expect(tail).toBe(piece);
    expect(head.length).toBeLessThan(100);
  });

  it('is right again after one that could not be encoded', () => {
    const broken = { request_headers: { response: { header_mutation: { remove_headers: ['x', Symbol('bug') as unknown as string] } } } };
    expect(() => encodeProcessingResponse(broken)).toThrow();
    expect(encodeProcessingResponse({ request_trailers: {} }).head).toEqual(Buffer.from([42, 0]));
  });
});

describe('a StreamAccessLogsMessage', () => {
  const reports = (message: StreamAccessLogsMessage): unknown => message.http_logs?.log_entry?.map(readAccessLogEntry) ?? [];

  it('gives the reports that it gives by the generic codec', () => {
    let withLease = 0;
    fc.assert(
      fc.property(logs, fc.array(unknownField, { maxLength: 3 }), (message, unknown) => {
        const encoded = withUnknown(generic.encodeStreamAccessLogsMessage(message), unknown);
        const ours = reports(decodeStreamAccessLogsMessage(encoded));
        expect(ours).toEqual(reports(generic.decodeStreamAccessLogsMessage(encoded)));
        if ((ours as unknown[]).some((report) => report !== undefined)) withLease += 1;
      }),
      runs,
    );
    expect(withLease).toBeGreaterThan(20);
  });

  it('tells each response flag that decides how a request ended', () => {
    const names = [
      'upstream_request_timeout',
      'local_reset',
      'upstream_remote_reset',
      'upstream_connection_failure',
      'upstream_connection_termination',
      'downstream_connection_termination',
      'upstream_retry_limit_exceeded',
      'stream_idle_timeout',
      'downstream_protocol_error',
      'upstream_max_stream_duration_reached',
      'duration_timeout',
      'upstream_protocol_error',
      'downstream_remote_reset',
    ] as const;
    for (const name of names) {
      const encoded = generic.encodeStreamAccessLogsMessage({ http_logs: { log_entry: [{ common_properties: { response_flags: { [name]: true } } }] } });
      expect(decodeStreamAccessLogsMessage(encoded).http_logs?.log_entry?.[0]?.common_properties?.response_flags).toEqual({ [name]: true });
    }
  });

  it('whatever bytes come, is read or refused', () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)), mangled(logs.map(generic.encodeStreamAccessLogsMessage))), (noise) => {
        reports(attempt(() => decodeStreamAccessLogsMessage(noise)) ?? {});
      }),
      { numRuns: 1_000 },
    );
  });
});
