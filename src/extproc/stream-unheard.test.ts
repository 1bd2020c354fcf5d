import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createTrial, onePool, received, RecordedCall, type Trial } from '../../test/stream-under-test.ts';
import { BodySendMode, HeaderSendMode, type ProcessingRequest } from './messages.ts';
import { ProcessStream, type StreamPeer } from './stream.ts';

const yaml = onePool.replace('name: chat', 'name: chat\n    observe: { firstToken: true }');
const body = Buffer.from(JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'x'.repeat(400) }] }));

/** A call on a connection, as a transport describes it. */
class CallOfPeer extends RecordedCall {
  isUnheard = false;
  readonly peer: StreamPeer | undefined;

  constructor(peer?: StreamPeer) {
    super();
    this.peer = peer;
  }
}

function headers(named: Readonly<Record<string, string>>): ProcessingRequest {
  const list = Object.entries({ ':method': 'POST', ':path': '/v1/chat/completions', ...named }).map(([key, value]) => ({ key, raw_value: Buffer.from(value) }));
  return { request_headers: { headers: { headers: list } }, protocol_config: { request_body_mode: BodySendMode.NONE } };
}

/** The stream of one request in mode NONE that Envoy has shown these messages of. */
function begin(trial: Trial, call: CallOfPeer, ...messages: ProcessingRequest[]): ProcessStream {
  const stream = new ProcessStream(trial.context, call);
  for (const message of messages) stream.onMessage(received(message));
  return stream;
}

const onHeaders = headers({ 'x-model': 'm', 'x-session-id': 's' });
const inBody = [headers({}), { request_body: { body, end_of_stream: true } }];
const ends = ['onEnd', 'onCancelled'] as const;

describe('a decision that Envoy never read', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it.each([
    ['on headers', [onHeaders]],
    ['provisional', [headers({})]],
    ['in the body', inBody],
  ])('is released at once when the stream is reset with the answer still here: %s', (_title, messages) => {
    const trial = createTrial({ yaml });
    const call = new CallOfPeer();
    const stream = begin(trial, call, ...messages);
    expect(trial.router.requestsInFlight).toBe(1);
    call.isUnheard = true;
    stream.onCancelled();
    expect(trial.router.requestsInFlight).toBe(0);
    expect(trial.log.slice(-2)).toEqual(['released chat client-abort ext-proc', 'closed cancelled']);
  });

  it('is released after a while when the stream was half-closed with the answer still here, and no record tells of it', () => {
    const trial = createTrial({ yaml });
    const call = new CallOfPeer();
    const stream = begin(trial, call, onHeaders);
    call.isUnheard = true;
    stream.onEnd();
    expect(call.ended).toBe('ok');
    vi.advanceTimersByTime(4_999);
    expect(trial.router.requestsInFlight).toBe(1);
    vi.advanceTimersByTime(1);
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('stands when the stream is reset after the answer went out: an Envoy without the graceful guard ends every call so', () => {
    const trial = createTrial({ yaml });
    begin(trial, new CallOfPeer(), onHeaders).onCancelled();
    vi.advanceTimersByTime(600_000);
    expect(trial.router.requestsInFlight).toBe(1);
    expect(trial.log.at(-1)).toBe('closed completed');
  });

  it.each(ends)('is released when what it asked for never comes, and no record tells of it: %s', (end) => {
    const trial = createTrial({ yaml });
    // The body came because it was asked for, so the first token would have come as well.
    begin(trial, new CallOfPeer(), ...inBody)[end]();
    vi.advanceTimersByTime(4_999);
    expect(trial.router.requestsInFlight).toBe(1);
    vi.advanceTimersByTime(1);
    expect(trial.router.requestsInFlight).toBe(0);
    // A signal of its own, so that metrics and log tell it from a request refused after its decision.
    expect(trial.log.at(-1)).toBe('released chat not-proxied timer');
  });

  it.each([
    ['on headers', onHeaders],
    ['provisional', headers({})],
  ])('is released likewise where another stream of the connection shows that overrides are honoured: %s', (_title, message) => {
    const trial = createTrial({ yaml });
    const peer: StreamPeer = { honoursOverrides: false };
    begin(trial, new CallOfPeer(peer), onHeaders, { response_body: { body: Buffer.from('data: 1\n\n') } });
    expect(peer.honoursOverrides).toBe(true);
    begin(trial, new CallOfPeer(peer), message).onEnd();
    expect(trial.router.requestsInFlight).toBe(2);
    vi.advanceTimersByTime(5_000);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('is released likewise where the body alone was asked for, and never came', () => {
    const trial = createTrial({ yaml: onePool });
    begin(trial, new CallOfPeer({ honoursOverrides: true }), headers({})).onEnd();
    expect(trial.log.slice(-2)).toEqual(['decided chat', 'closed completed']);
    vi.advanceTimersByTime(4_999);
    expect(trial.router.requestsInFlight).toBe(1);
    vi.advanceTimersByTime(1);
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('is not recognised by response headers, which an Envoy that allows no override may send as well', () => {
    const trial = createTrial({ yaml: onePool.replace('secret: for-the-tests', 'secret: for-the-tests, cookie: {}') });
    const peer: StreamPeer = { honoursOverrides: false };
    const call = new CallOfPeer(peer);
    const status = [{ key: ':status', raw_value: Buffer.from('200') }];
    begin(trial, call, headers({}), { response_headers: { headers: { headers: status } } });
    expect(call.answers[0]?.mode_override?.response_header_mode).toBe(HeaderSendMode.SEND);
    expect(peer.honoursOverrides).toBe(false);
  });

  it('is left to the access log where overrides are not known to be honoured', () => {
    const trial = createTrial({ yaml });
    begin(trial, new CallOfPeer({ honoursOverrides: false }), onHeaders).onEnd();
    expect(vi.getTimerCount()).toBe(0);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('is left to the access log once the response was seen, or where nothing was asked for', () => {
    const trial = createTrial({ yaml });
    const peer: StreamPeer = { honoursOverrides: true };
    begin(trial, new CallOfPeer(peer), onHeaders, { response_body: { body: Buffer.from('data: 1\n\n') } });
    expect(trial.log.at(-1)).toBe('closed let-go');
    begin(createTrial({ yaml: onePool }), new CallOfPeer(peer), onHeaders).onEnd();
    expect(vi.getTimerCount()).toBe(0);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('is released once where a record does come', () => {
    const trial = createTrial({ yaml });
    const call = new CallOfPeer({ honoursOverrides: true });
    begin(trial, call, onHeaders).onEnd();
    const lease = call.answers[0]?.dynamic_metadata?.fields?.['fairlead']?.structValue?.fields?.['lease']?.stringValue ?? '';
    trial.router.observe(lease, { ending: 'upstream-failure', signal: 'access-log', status: 500 });
    vi.advanceTimersByTime(5_000);
    expect(trial.log.filter((line) => line.startsWith('released'))).toEqual(['released chat upstream-failure access-log']);
    expect(trial.router.requestsInFlight).toBe(0);
  });
});
