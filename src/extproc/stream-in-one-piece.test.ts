import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createTrial, onePool, received, RecordedCall, type Trial } from '../../test/stream-under-test.ts';
import { BodySendMode, type ProcessingRequest } from './messages.ts';
import { type BatchReader, ProcessStream, type StreamPeer } from './stream.ts';

const { NONE, BUFFERED, STREAMED, FULL_DUPLEX_STREAMED } = BodySendMode;
const yaml = onePool.replace('name: chat', 'name: chat\n    observe: { firstToken: true }');

/** A call on a transport that tells when all was read that came at once. */
class BatchedCall extends RecordedCall {
  isUnheard = false;
  readonly peer: StreamPeer = { honoursOverrides: true };
  #readers: BatchReader[] = [];

  onceRead(reader: BatchReader): void {
    this.#readers.push(reader);
  }

  /** All was read that came with the last message; its answers have not left. */
  read(): void {
    this.isUnheard = true;
    for (const reader of this.#readers.splice(0)) reader.onRead();
  }
}

const bodyOf = (fields: object): Buffer => Buffer.from(JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'x'.repeat(400) }], ...fields }));

function headers(requestMode: number, responseMode: number = NONE, more: Readonly<Record<string, string>> = {}): ProcessingRequest {
  const list = Object.entries({ ':method': 'POST', ':path': '/v1/chat/completions', 'content-length': '450', ...more }).map(([key, value]) => ({ key, raw_value: Buffer.from(value) }));
  return { request_headers: { headers: { headers: list } }, protocol_config: { request_body_mode: requestMode, response_body_mode: responseMode } };
}

interface Shown {
  readonly trial: Trial;
  readonly call: BatchedCall;
  readonly stream: ProcessStream;
}

/** A request that Envoy has shown, up to the end of its body. */
function show(body: Buffer, first: ProcessingRequest = headers(BUFFERED), trial: Trial = createTrial({ yaml }), call = new BatchedCall()): Shown {
  const stream = new ProcessStream(trial.context, call);
  stream.onMessage(received(first));
  stream.onMessage(received({ request_body: { body, end_of_stream: true } }));
  return { trial, call, stream };
}

describe('an answer in one piece', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it.each([
    ['as the body says', BUFFERED, { stream: false }],
    ['as it is where the body says nothing', BUFFERED, {}],
    ['in a body that was asked for', NONE, { stream: false }],
  ])('is not waited for: %s', (_title, mode, fields) => {
    const { call, trial, stream } = show(bodyOf(fields), headers(mode));
    expect(call.answers).toHaveLength(2);
    // Not before all was read that came along: Envoy may have given up.
    expect(call.ended).toBeUndefined();
    call.read();
    expect(call.ended).toBe('ok');
    expect(trial.log.at(-1)).toBe('closed let-go');
    stream.onCancelled();
    vi.advanceTimersByTime(600_000);
    // Its end comes by access log.
    expect(trial.router.requestsInFlight).toBe(1);
    expect(trial.log.at(-1)).toBe('closed let-go');
  });

  it('is not waited for on a transport that cannot tell when all was read, a turn later', () => {
    const trial = createTrial({ yaml });
    const { stream, call } = trial.open();
    stream.onMessage(received(headers(BUFFERED)));
    stream.onMessage(received({ request_body: { body: bodyOf({ stream: false }), end_of_stream: true } }));
    expect(call.ended).toBeUndefined();
    vi.runAllTimers();
    expect(call.ended).toBe('ok');
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it.each<[string, Buffer, ProcessingRequest]>([
    ['a stream is asked for', bodyOf({ stream: true }), headers(BUFFERED)],
    ['the body does not tell', bodyOf({ stream: 'yes' }), headers(BUFFERED)],
    ['the body is broken', bodyOf({}).subarray(0, 100), headers(BUFFERED)],
    ['response bodies come anyway', bodyOf({ stream: false }), headers(BUFFERED, STREAMED)],
    ['bodies are streamed both ways', bodyOf({ stream: false }), headers(FULL_DUPLEX_STREAMED, FULL_DUPLEX_STREAMED)],
  ])('is seen where %s', (_title, body, first) => {
    const { call, stream } = show(body, first);
    call.read();
    expect(call.ended).toBeUndefined();
    stream.onMessage(received({ response_body: { body: Buffer.from('data: 1\n\n') } }));
    expect(call.answers.at(-1)?.response).toBe('response_body');
  });

  it('is seen where first tokens are wanted by nobody: then nothing was asked for', () => {
    const { call } = show(bodyOf({ stream: false }), headers(BUFFERED), createTrial({ yaml: onePool }));
    expect(call.answers[0]?.mode_override).toBeUndefined();
    call.read();
    expect(call.ended).toBeUndefined();
  });

  it('has its headers seen where some are to be added', () => {
    const trial = createTrial({ yaml: yaml.replace('secret: for-the-tests', 'secret: for-the-tests, cookie: {}') });
    const { call, stream } = show(bodyOf({ stream: false }), headers(BUFFERED), trial);
    call.read();
    expect(call.ended).toBeUndefined();
    stream.onMessage(received({ response_headers: {} }));
    expect(call.answers.at(-1)?.response_headers?.response?.header_mutation?.set_headers).toHaveLength(1);
  });

  it.each(['onEnd', 'onCancelled'] as const)('is in doubt where Envoy gave up before the answer left: %s', (end) => {
    const { call, trial, stream } = show(bodyOf({ stream: false }));
    call.isUnheard = true;
    stream[end]();
    call.read();
    expect(trial.log.filter((line) => line.startsWith('closed'))).toHaveLength(1);
    expect(trial.log.at(-1)).not.toBe('closed let-go');
    vi.advanceTimersByTime(5_000);
    expect(trial.router.requestsInFlight).toBe(0);
  });
});
