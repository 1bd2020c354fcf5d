import { describe, expect, it } from 'vitest';
import { createTrial, received, RecordedCall, type Trial } from '../../test/stream-under-test.ts';
import { AnswerWriter } from './answer.ts';
import { ExplainGate, explainHeader, explainTokenHeader } from './explain-gate.ts';
import { BodySendMode, HeaderSendMode, type ProcessingResponse, toStruct } from './messages.ts';
import { ProcessStream } from './stream.ts';

const chat = JSON.stringify({ model: 'chat-1', user: 'u', messages: [{ role: 'user', content: 'hello' }] });

interface Exchange {
  readonly answers: readonly ProcessingResponse[];
  /** What each answer sets, by name. */
  readonly sets: readonly Record<string, string>[];
  /** What each answer removes. */
  readonly removes: readonly (readonly string[])[];
}

/** One request to the end of its response, by a client at an address, as an Envoy in a body mode sends it. */
function exchange(
  options: { mode?: number; clientAddress?: string; ask?: boolean; responseHeaders?: boolean; drained?: boolean; headers?: Record<string, string> } = {},
): Exchange & { trial: Trial } {
  const { mode = BodySendMode.NONE, clientAddress = '10.1.1.1', ask = true, responseHeaders = true } = options;
  const trial = createTrial();
  if (options.drained === true) for (const pool of trial.fleet.pools.values()) for (const endpoint of pool.endpoints) endpoint.state = 'draining';
  const writer = new AnswerWriter({ clusterHeader: 'x-fairlead-cluster', endpointHeader: 'x-gateway-destination-endpoint', ownRequestHeaders: [explainHeader, explainTokenHeader] });
  const call = new RecordedCall();
  const explains = new ExplainGate({ allow: ['10.0.0.0/8'], token: undefined });
  const stream = new ProcessStream({ ...trial.context, writer, explains }, call);
  const named = { ':method': 'POST', ':path': '/v1/chat/completions', 'content-type': 'application/json', 'content-length': String(chat.length), ...(ask && { [explainHeader]: '1' }), ...options.headers };
  stream.onMessage(
    received({
      protocol_config: { request_body_mode: mode, response_body_mode: BodySendMode.NONE },
      attributes: { 'envoy.filters.http.ext_proc': toStruct({ 'source.address': `${clientAddress}:4711` }) },
      request_headers: { headers: { headers: Object.entries(named).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) } },
    }),
  );
  stream.onMessage(received({ request_body: { body: Buffer.from(chat), end_of_stream: true } }));
  const asked = call.answers.some(({ mode_override: override }) => override?.response_header_mode === HeaderSendMode.SEND);
  if (asked || responseHeaders) stream.onMessage(received({ response_headers: { headers: { headers: [{ key: ':status', raw_value: Buffer.from('200') }] } } }));
  stream.onEnd();
  const mutations = call.answers.map((answer) => {
    const common = (answer.request_headers ?? answer.request_body ?? answer.response_headers)?.response;
    return common?.header_mutation ?? answer.immediate_response?.headers;
  });
  return {
    trial,
    answers: call.answers,
    sets: mutations.map((mutation) => Object.fromEntries(mutation?.set_headers?.map(({ header }) => [header?.key ?? '', header?.raw_value?.toString() ?? '']) ?? [])),
    removes: mutations.map((mutation) => mutation?.remove_headers ?? []),
  };
}

describe('a request that asks for an explanation', () => {
  it('has the response headers asked for, and the answer in them', () => {
    const { answers, sets } = exchange();
    expect(answers[0]?.mode_override).toMatchObject({ request_body_mode: BodySendMode.BUFFERED, response_header_mode: HeaderSendMode.SEND });
    expect(sets.at(-1)?.[explainHeader]).toMatch(/^pool=chat; policy=/);
    expect(sets.slice(0, -1).every((set) => set[explainHeader] === undefined)).toBe(true);
  });

  it.each([
    ['BUFFERED', BodySendMode.BUFFERED],
    ['BUFFERED_PARTIAL', BodySendMode.BUFFERED_PARTIAL],
    ['STREAMED', BodySendMode.STREAMED],
    ['FULL_DUPLEX_STREAMED', BodySendMode.FULL_DUPLEX_STREAMED],
  ])('is answered in body mode %s', (_name, mode) => {
    const { sets } = exchange({ mode, headers: { 'x-model': 'chat-1', 'x-session-id': 's' } });
    expect(sets.at(-1)?.[explainHeader]).toMatch(/^pool=chat; policy=/);
  });

  it('never goes on with its question', () => {
    const { removes, sets } = exchange();
    const deciding = sets.flatMap((set, i) => (set['x-fairlead-cluster'] === undefined ? [] : [removes[i]]));
    expect(deciding.length).toBeGreaterThan(0);
    for (const removed of deciding) expect(removed).toEqual(expect.arrayContaining([explainHeader, explainTokenHeader]));
  });

  it('is told why it was refused', () => {
    const { answers, sets } = exchange({ drained: true });
    expect(answers.at(-1)?.immediate_response?.status?.code).toBe(503);
    expect(sets.at(-1)?.[explainHeader]).toMatch(/^refused=no_ready_endpoint; pool=chat; .*cause=not-ready; candidates=0; left-out=ready:draining\*4/);
  });

  it.each([
    ['from elsewhere', { clientAddress: '11.1.1.1' }],
    ['that does not ask', { ask: false }],
  ])('%s is told nothing, routed or refused, and its response headers stay where they are', (_title, options) => {
    const { answers, sets } = exchange({ ...options, responseHeaders: false });
    expect(answers.every(({ mode_override: override }) => override?.response_header_mode !== HeaderSendMode.SEND)).toBe(true);
    for (const { sets: all } of [{ sets }, exchange({ ...options, drained: true })]) expect(all.every((set) => set[explainHeader] === undefined)).toBe(true);
  });
});
