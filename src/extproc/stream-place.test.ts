import { describe, expect, it } from 'vitest';
import { createTrial, onePool, received, type RecordedCall } from '../../test/stream-under-test.ts';
import { BodySendMode, type ProcessingRequest } from './messages.ts';
import type { ProcessStream } from './stream.ts';

const { BUFFERED, STREAMED, FULL_DUPLEX_STREAMED } = BodySendMode;
const capped = onePool.replaceAll(":8000'", ":8000', limits: { requests: 9 }");

/** A stream whose decision needs a place, and the answer of whoever is asked for it. */
function setUp(yaml = capped): { stream: ProcessStream; call: RecordedCall; grant: (address?: string) => Promise<void> } {
  let answer: ((taken: { taken: string | undefined }) => void) | undefined;
  let first = '';
  const trial = createTrial({
    yaml,
    caps: {
      acquire: (_pool, _lease, [endpoint]) => {
        first = endpoint?.address ?? '';
        return new Promise((resolve) => (answer = resolve));
      },
      release: () => {},
      shareOf: (requestsMax) => requestsMax,
    },
  });
  const { stream, call } = trial.open();
  return {
    stream,
    call,
    grant: async (address = first) => {
      answer?.({ taken: address });
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

const pieces = Array.from({ length: 6 }, (_, i) => Buffer.from(i === 0 ? `{"model":"m","prompt_cache_key":"s","messages":[{"role":"user","content":"` : `piece ${i} `.repeat(20)));
pieces.push(Buffer.from('"}]}'));
const whole = Buffer.concat(pieces);

function headers(mode: number, { responseMode = 0, early = false, named = {} }: { responseMode?: number; early?: boolean; named?: Readonly<Record<string, string>> } = {}): ProcessingRequest {
  const list = Object.entries({ ':method': 'POST', ':path': '/v1/chat/completions', ...named }).map(([key, value]) => ({ key, raw_value: Buffer.from(value) }));
  return {
    request_headers: { headers: { headers: list } },
    protocol_config: { request_body_mode: mode, response_body_mode: responseMode, send_body_without_waiting_for_header_response: early },
  };
}

const bodyMessages: ProcessingRequest[] = pieces.map((body, i) => ({ request_body: { body, end_of_stream: i === pieces.length - 1 } }));

/** What was handed back of a body. */
const echoed = ({ answers }: RecordedCall): string =>
  answers.map(({ request_body: body }) => body?.response?.body_mutation?.streamed_response?.body?.toString() ?? '').join('');

describe('while a place is asked for', () => {
  it.each([
    ['decided on headers', { named: { 'x-model': 'm', 'x-session-id': 's' } }],
    ['decided in the body', {}],
  ])('answers are kept, with the pieces that they hand back, and go out in order: %s', async (_title, more) => {
    const { stream, call, grant } = setUp();
    for (const message of [headers(FULL_DUPLEX_STREAMED, { responseMode: FULL_DUPLEX_STREAMED, ...more }), ...bodyMessages]) stream.onMessage(received(message));
    expect(call.answers).toEqual([]);
    // Whatever comes next comes in their place.
    received({});
    await grant();
    expect(call.answers[0]?.request_headers).toBeDefined();
    expect(echoed(call)).toBe(whole.toString());
  });

  it('pieces are kept where there are no headers to answer', async () => {
    const { stream, call, grant } = setUp();
    const [first, ...rest] = bodyMessages;
    stream.onMessage(received({ ...first, protocol_config: { request_body_mode: FULL_DUPLEX_STREAMED, response_body_mode: FULL_DUPLEX_STREAMED } }));
    for (const message of rest) stream.onMessage(received(message));
    received({});
    await grant();
    expect(echoed(call)).toBe(whole.toString());
  });

  it('pieces of a response are kept', async () => {
    const { stream, call, grant } = setUp();
    stream.onMessage(received(headers(FULL_DUPLEX_STREAMED, { responseMode: FULL_DUPLEX_STREAMED, named: { 'x-model': 'm', 'x-session-id': 's', 'content-length': '0' } })));
    stream.onMessage(received({ response_headers: {} }));
    stream.onMessage(received({ response_body: { body: Buffer.from('early') } }));
    stream.onMessage(received({ response_body: { body: Buffer.from(' bird'), end_of_stream: true } }));
    await grant();
    expect(call.answers.map(({ response_body: body }) => body?.response?.body_mutation?.streamed_response?.body?.toString() ?? '').join('')).toBe('early bird');
  });

  const renaming = `${capped}routes: [{ targets: [{ pool: chat, model: another-model }] }]\n`;

  it.each([
    ['whole', BUFFERED, false, [{ request_body: { body: whole, end_of_stream: true } }]],
    ['in pieces', STREAMED, true, bodyMessages],
  ])('a body whose model is rewritten is kept, %s', async (_title, mode, early, messages) => {
    const { stream, call, grant } = setUp(renaming);
    for (const message of [headers(mode, { early }), ...messages]) stream.onMessage(received(message));
    received({});
    await grant();
    let sent = '';
    for (const { request_body: answer } of call.answers) {
      if (answer === undefined) continue;
      const mutation = answer.response?.body_mutation;
      sent += mutation?.body?.toString() ?? (mutation?.clear_body === true ? '' : '(as it came)');
    }
    expect(sent.replaceAll('(as it came)', '')).toContain('"model":"another-model"');
    // Spoiled bytes are no UTF-8.
    expect(sent).not.toContain('\ufffd');
  });
});
