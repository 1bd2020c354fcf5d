import { describe, expect, it } from 'vitest';
import { createTrial } from '../../test/stream-under-test.ts';
import { noFacts } from '../core/request-facts.ts';
import type { RefusalCode } from '../router/ports.ts';
import { toRefusal } from '../router/refusal.ts';
import type { Routed } from '../router/routed.ts';
import { AnswerWriter } from './answer.ts';
import { AppendAction, HeaderSendMode, type HeaderMutation, type ProcessingResponse, structString } from './messages.ts';
import { decodeProcessingResponse, encodeProcessingResponse } from './proto.ts';
import { encodeProcessingResponse as encodeLean } from './wire/processing-response.ts';

const writer = new AnswerWriter({ clusterHeader: 'x-cluster', endpointHeader: 'x-endpoint' });

function routed(): Routed {
  const outcome = createTrial().router.route({ ...noFacts, model: 'embed-small' });
  if (outcome.kind !== 'route') throw new Error('expected a route');
  return outcome;
}

/** The answer at the other end of the wire, the same by both codecs. */
function sent(answer: ProcessingResponse): ProcessingResponse {
  const generic = decodeProcessingResponse(encodeProcessingResponse(answer));
  // Twice: of an answer that is like one before, only the lease is written anew.
  for (const prefixBytes of [0, 5, 5]) {
    const { head, tail = Buffer.alloc(0) } = encodeLean(answer, prefixBytes);
    expect(decodeProcessingResponse(Buffer.concat([head, tail]).subarray(prefixBytes))).toEqual(generic);
  }
  return generic;
}

function headersSet(mutation: HeaderMutation | undefined): Record<string, string | undefined> {
  return Object.fromEntries((mutation?.set_headers ?? []).map(({ header }) => [header?.key ?? '', header?.raw_value?.toString()] as const));
}

describe('a decision', () => {
  it.each([
    ['request_headers', sent(writer.routedHeaders(routed(), undefined))],
    ['request_body', sent(writer.routedBody(routed()))],
  ] as const)('is told in %s: both headers, route cleared, metadata with the lease', (phase, answer) => {
    const common = answer[phase]?.response;
    expect(headersSet(common?.header_mutation)).toEqual({ 'x-cluster': 'embeddings', 'x-endpoint': '10.0.1.1:8000' });
    expect(common?.clear_route_cache).toBe(true);
    const fields = answer.dynamic_metadata?.fields;
    expect(structString(fields?.['envoy.lb']?.structValue, 'x-endpoint')).toBe('10.0.1.1:8000');
    expect(structString(fields?.['fairlead']?.structValue, 'lease')).toBe('r1.1');
    expect(structString(fields?.['fairlead']?.structValue, 'pool')).toBe('embed');
    expect(answer.mode_override).toBeUndefined();
  });

  it('is told each time with its own lease, mode and phase, whatever was sent before', () => {
    const decided = routed();
    const modes = [undefined, { response_body_mode: 1 }, { response_body_mode: 2 }];
    const leases = ['r1.1', 'r1.2', 'r1.33', 'r1.44', 'router-é.5', 'router-é.6', ''];
    for (let round = 0; round < 3; round += 1) {
      for (const lease of leases) {
        for (const mode of modes) {
          const { dynamic_metadata: metadata, mode_override: override } = sent(writer.routedHeaders({ ...decided, lease }, mode));
          expect(structString(metadata?.fields?.['fairlead']?.structValue, 'lease')).toBe(lease);
          expect(override?.response_body_mode).toBe(mode?.response_body_mode);
          expect(sent(writer.passHeaders(mode)).mode_override?.response_body_mode).toBe(mode?.response_body_mode);
        }
        expect(structString(sent(writer.routedBody({ ...decided, lease })).dynamic_metadata?.fields?.['fairlead']?.structValue, 'lease')).toBe(lease);
        // What is more than that is not taken for it.
        const refused = sent({ ...writer.routedHeaders({ ...decided, lease }, undefined), ...writer.refuse(toRefusal('overloaded')) });
        expect(refused.immediate_response?.status?.code).toBe(429);
      }
    }
  });

  it.each([
    ['an endpoint without ranks', ['10.0.0.1:80', '[fd00::1]:80'], undefined],
    ['a rank', ['10.0.0.1:80#3', '[fd00::1]:80#3'], '3'],
    ['the first rank', ['10.0.0.1:80#0', '[fd00::1]:80'], '0'],
  ])('for %s names ip:port, and the rank in a header of its own', (_title, addresses, rank) => {
    for (const answer of [writer.routedHeaders({ ...routed(), addresses }, undefined), writer.routedBody({ ...routed(), addresses })]) {
      const { request_headers: headers, request_body: body, dynamic_metadata: metadata } = sent(answer);
      const mutation = (headers ?? body)?.response?.header_mutation;
      const set = headersSet(mutation);
      expect(set['x-endpoint']).toBe('10.0.0.1:80,[fd00::1]:80');
      expect(structString(metadata?.fields?.['envoy.lb']?.structValue, 'x-endpoint')).toBe('10.0.0.1:80,[fd00::1]:80');
      expect(set['x-data-parallel-rank']).toBe(rank);
      // Otherwise the client's would stand, or that of an earlier decision.
      expect(mutation?.remove_headers ?? []).toEqual(rank === undefined ? ['x-data-parallel-rank'] : []);
    }
  });

  it('may carry another body, and its length where one was declared', () => {
    for (const declares of [true, false]) {
      const { request_body: answer, dynamic_metadata: metadata } = sent(writer.routedWithBody(routed(), Buffer.from('{"é":1}'), declares));
      expect(answer?.response?.body_mutation?.body?.toString()).toBe('{"é":1}');
      const set = headersSet(answer?.response?.header_mutation);
      expect(set).toEqual({ 'x-cluster': 'embeddings', 'x-endpoint': '10.0.1.1:8000', ...(declares && { 'content-length': '8' }) });
      expect(answer?.response?.clear_route_cache).toBe(true);
      expect(structString(metadata?.fields?.['fairlead']?.structValue, 'lease')).toBe('r1.1');
    }
  });

  it('tells its route, and in what it differs from what the request asked for', () => {
    const fields = (more: Partial<Routed>): Record<string, unknown> =>
      Object.fromEntries(Object.entries(sent(writer.routedHeaders({ ...routed(), ...more }, undefined)).dynamic_metadata?.fields?.['fairlead']?.structValue?.fields ?? {}).map(([key, value]) => [key, value.stringValue]));
    expect(fields({})).toEqual({ lease: 'r1.1', route: '* embed-*', pool: 'embed', reason: expect.any(String) as string });
    expect(fields({ isFallback: true, model: 'small' })).toMatchObject({ fallback: 'embed', model: 'small' });
  });

  it('is told by what is its own, whatever was told before of the same endpoints', () => {
    const first = routed();
    const others: Partial<Routed>[] = [
      { lease: 'r1.2' },
      { route: 'other' },
      { pool: { ...first.pool, name: 'other' } },
      { pool: { ...first.pool, cluster: 'other' } },
      { decision: { ...first.decision, reason: 'other' } },
      { isFallback: true },
      { model: 'other' },
      { addresses: first.addresses.map((address) => `${address}#1`) },
      { addresses: ['10.0.1.9:8000', ...first.addresses] },
      // More than are kept for one list of endpoints, and more lists than are kept.
      ...Array.from({ length: 40 }, (_, i) => ({ route: `route ${i % 20}` })),
      ...Array.from({ length: 600 }, (_, i) => ({ addresses: [`10.1.${i % 256}.${i >> 8}:80`] })),
    ];
    const used = new AnswerWriter({ clusterHeader: 'x-cluster', endpointHeader: 'x-endpoint' });
    for (const more of [{}, ...others, {}, ...others]) {
      const decision = { ...first, ...more };
      const fresh = new AnswerWriter({ clusterHeader: 'x-cluster', endpointHeader: 'x-endpoint' });
      expect(sent(used.routedHeaders(decision, undefined))).toEqual(sent(fresh.routedHeaders(decision, undefined)));
    }
  });

  it('overwrites what the client sent, with raw_value alone', () => {
    for (const { header, append, append_action: action } of sent(writer.routedBody(routed())).request_body?.response?.header_mutation?.set_headers ??
      []) {
      expect(action).toBe(AppendAction.OVERWRITE_IF_EXISTS_OR_ADD);
      expect(append).toBeUndefined();
      expect(header?.value).toBeUndefined();
    }
  });

  it('goes out with the modes asked for', () => {
    const modes = { request_body_mode: 2, response_header_mode: HeaderSendMode.SKIP };
    expect(sent(writer.routedHeaders(routed(), modes)).mode_override).toEqual(modes);
    expect(sent(writer.passHeaders(modes)).mode_override).toEqual(modes);
  });

  it('is added to another answer as metadata', () => {
    const answer = sent(writer.withChoice(writer.pass('request_trailers'), routed()));
    expect(answer.response).toBe('request_trailers');
    expect(structString(answer.dynamic_metadata?.fields?.['envoy.lb']?.structValue, 'x-endpoint')).toBe('10.0.1.1:8000');
  });
});

describe('headers that pass for now', () => {
  it('lose our headers, and Envoy forgets the route that it took by them', () => {
    // Seen in Envoy 1.36 and 1.40: otherwise a request follows the client's header, and BUFFERED_PARTIAL answers 503.
    expect(sent(writer.passHeaders(undefined))).toEqual({
      response: 'request_headers',
      request_headers: { response: { header_mutation: { remove_headers: ['x-cluster', 'x-endpoint', 'x-data-parallel-rank'] }, clear_route_cache: true } },
    });
  });
});

describe('pass', () => {
  it.each(['request_body', 'request_trailers', 'response_headers', 'response_body', 'response_trailers'] as const)('%s, unchanged', (phase) => {
    const answer = sent(writer.pass(phase));
    expect(answer.response).toBe(phase);
    expect(answer[phase]).toEqual(phase.endsWith('trailers') ? {} : { response: {} });
  });
});

describe('echo', () => {
  it.each([
    [0, false, []],
    [0, true, ['0 end']],
    [1, false, ['1']],
    [1, true, ['1 end']],
    [62_000, true, ['62000 end']],
    [62_001, false, ['62000', '1']],
    [124_000, true, ['62000', '62000 end']],
    [130_000, true, ['62000', '62000', '6000 end']],
  ])('of %d bytes, end %s', (bytes, end, expected) => {
    for (const phase of ['request_body', 'response_body'] as const) {
      const body = Buffer.from(Array.from({ length: bytes }, (_, i) => i % 251));
      const pieces = writer.echo(phase, body, end).map((answer) => sent(answer)[phase]?.response?.body_mutation?.streamed_response);
      expect(pieces.map((piece) => `${piece?.body?.length ?? 0}${piece?.end_of_stream === true ? ' end' : ''}`)).toEqual(expected);
      expect(Buffer.concat(pieces.map((piece) => piece?.body ?? Buffer.alloc(0))).equals(body)).toBe(true);
    }
  });
});

describe('refusal', () => {
  const codes: [RefusalCode, number, string | undefined][] = [
    ['model_required', 400, undefined],
    ['model_not_found', 404, undefined],
    ['route_not_found', 404, undefined],
    ['no_ready_endpoint', 503, '1'],
    ['subset_unavailable', 503, '1'],
    ['overloaded', 429, '1'],
    ['prompt_too_long', 400, undefined],
    ['internal_error', 503, '1'],
  ];

  it.each(codes)('%s is a %d in the shape of the OpenAI API', (code, status, retryAfter) => {
    const immediate = sent(writer.refuse(toRefusal(code))).immediate_response;
    expect(immediate?.status).toEqual({ code: status });
    expect(immediate?.details).toBe(`fairlead_${code}`);
    const headers = headersSet(immediate?.headers);
    expect(headers).toEqual({
      'content-type': 'application/json',
      'x-fairlead-refusal': code,
      ...(retryAfter !== undefined && { 'retry-after': retryAfter }),
    });
    const { error } = JSON.parse(immediate?.body?.toString() ?? '') as { error: Record<string, unknown> };
    expect(error).toMatchObject({ code, param: code.startsWith('model') ? 'model' : null });
    expect(error['type']).toBe(status === 429 ? 'rate_limit_error' : status === 503 ? 'service_unavailable' : 'invalid_request_error');
    expect(error['message']).toMatch(/^[A-Z].+\.$/);
  });
});

describe('a piece of a body', () => {
  it('is replaced by another, or by nothing', () => {
    expect(sent(writer.replaceBody(Buffer.from('x'))).request_body?.response?.body_mutation).toMatchObject({ body: Buffer.from('x') });
    expect(sent(writer.replaceBody(Buffer.alloc(0))).request_body?.response?.body_mutation).toMatchObject({ clear_body: true });
  });
});
