import { describe, expect, it } from 'vitest';
import { createTrial, received, summarize, type Trial } from '../../test/stream-under-test.ts';
import { BodySendMode, type HeaderValueOption, type ProcessingRequest, type ProcessingResponse } from './messages.ts';

const { NONE, STREAMED, BUFFERED, FULL_DUPLEX_STREAMED } = BodySendMode;
const issuing = `
affinity: { secret: for-the-tests, cookie: {} }
pools:
  - name: chat
    policy: { preset: session-affinity }
    endpoints: [{ address: '10.0.0.1:8000' }, { address: '10.0.0.2:8000' }]
`;
const observing = issuing.replace('name: chat', 'name: chat\n    observe: { firstToken: true }');
const path = { ':method': 'POST', ':path': '/v1/chat/completions' };
const mute = Buffer.from('{"messages":[]}');
const named = Buffer.from('{"user":"u-1","messages":[]}');

function mode(request: number, response: number = NONE): ProcessingRequest {
  return { protocol_config: { request_body_mode: request, response_body_mode: response, send_body_without_waiting_for_header_response: false } };
}

function open(yaml = issuing, trial: Trial = createTrial({ yaml })): {
  trial: Trial;
  call: ReturnType<Trial['open']>['call'];
  stream: ReturnType<Trial['open']>['stream'];
  /** Says it, and returns what came back. */
  tell: (message: ProcessingRequest) => ProcessingResponse[];
} {
  const { stream, call } = trial.open();
  const tell = (message: ProcessingRequest): ProcessingResponse[] => {
    stream.onMessage(received(message));
    return call.answers.splice(0);
  };
  return { trial, stream, call, tell };
}

function requestHeaders(headers: Readonly<Record<string, string>>, config: ProcessingRequest, end = true): ProcessingRequest {
  const list = Object.entries({ ...path, ...headers }).map(([key, value]) => ({ key, raw_value: Buffer.from(value) }));
  return { request_headers: { headers: { headers: list }, end_of_stream: end }, ...config };
}
const requestBody = (body: Buffer): ProcessingRequest => ({ request_body: { body, end_of_stream: true } });
const responseHeaders = (end = false): ProcessingRequest => ({
  response_headers: { headers: { headers: [{ key: ':status', raw_value: Buffer.from('200') }] }, end_of_stream: end },
});

function added(answers: readonly ProcessingResponse[]): HeaderValueOption[] {
  expect(answers).toHaveLength(1);
  return answers[0]!.response_headers?.response?.header_mutation?.set_headers ?? [];
}
/** The cookies set, as `name=value`. */
function cookiesSet(answers: readonly ProcessingResponse[]): string[] {
  return added(answers).map(({ header, append }) => {
    expect(header?.key).toBe('set-cookie');
    // The upstream may set cookies too.
    expect(append?.value).toBe(true);
    return header!.raw_value!.toString().split(';')[0]!;
  });
}

/** A cookie that the given trial's routers issued. */
function issue(trial: Trial): string {
  const { tell } = open('', trial);
  tell(requestHeaders({}, mode(NONE)));
  return cookiesSet(tell(responseHeaders()))[0]!;
}

describe('a request without a session', () => {
  it('has the response headers asked for, gets its cookie with them, and is let go', () => {
    const { tell, call, trial } = open();
    expect(tell(requestHeaders({}, mode(NONE))).map(summarize)).toEqual(['request_headers routed chat ask(NONE/NONE send)']);
    expect(cookiesSet(tell(responseHeaders()))).toEqual([expect.stringMatching(/^fairlead-session=[A-Za-z0-9_-]{48}$/)]);
    expect(call.ended).toBe('ok');
    expect(trial.log.slice(-2)).toEqual(['session-cookie set', 'closed let-go']);
    // Its end comes by access log.
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('is let go too where the response ends with its headers', () => {
    const { tell, call, trial } = open();
    tell(requestHeaders({}, mode(NONE)));
    expect(cookiesSet(tell(responseHeaders(true)))).toHaveLength(1);
    expect(call.ended).toBe('ok');
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('is sent where those go that bring the cookie back', () => {
    const trial = createTrial({ yaml: issuing });
    const chosen = (headers: Readonly<Record<string, string>>): string | undefined => {
      const { tell } = open('', trial);
      const [answer] = tell(requestHeaders(headers, mode(NONE)));
      return answer!.request_headers!.response!.header_mutation!.set_headers!.find(({ header }) => header?.key === 'x-gateway-destination-endpoint')!.header!.raw_value!.toString();
    };
    const homes = new Set<string | undefined>();
    for (let i = 0; i < 20; i += 1) {
      const { tell } = open('', trial);
      const [answer] = tell(requestHeaders({}, mode(NONE)));
      const first = answer!.dynamic_metadata!.fields!['envoy.lb']!.structValue!.fields!['x-gateway-destination-endpoint']!.stringValue;
      const [cookie] = cookiesSet(tell(responseHeaders()));
      expect(chosen({ cookie: `a=1; ${cookie!}; b=2` })).toBe(first);
      homes.add(first);
    }
    expect(homes.size).toBe(2);
  });

  it('waits for the first token beyond the headers where that is wanted', () => {
    const { tell, call, trial } = open(observing);
    expect(tell(requestHeaders({}, mode(NONE))).map(summarize)).toEqual(['request_headers routed chat ask(NONE/STREAMED send)']);
    expect(cookiesSet(tell(responseHeaders()))).toHaveLength(1);
    expect(call.ended).toBeUndefined();
    expect(tell({ response_body: { body: Buffer.from('a') } }).map(summarize)).toEqual(['response_body pass']);
    expect(call.ended).toBe('ok');
    expect(trial.log).toContain('first-token chat 0');
  });

  it('may name one in its body: then the headers come for nothing, and pass', () => {
    const { tell, call, trial } = open();
    expect(tell(requestHeaders({ 'content-length': String(named.length) }, mode(NONE), false)).map(summarize)).toEqual([
      'request_headers routed chat ask(BUFFERED/NONE send)',
    ]);
    expect(tell(requestBody(named)).map(summarize)).toEqual(['request_body routed chat']);
    expect(tell(responseHeaders()).map(summarize)).toEqual(['response_headers pass']);
    expect(call.ended).toBe('ok');
    expect(trial.log.filter((line) => line.startsWith('session-cookie'))).toEqual([]);
  });

  it('gets one and the same through all its decisions', () => {
    const trial = createTrial({ yaml: issuing });
    const { tell } = open('', trial);
    tell(requestHeaders({ 'content-length': String(mute.length) }, mode(BUFFERED), false));
    tell(requestBody(mute));
    const [cookie] = cookiesSet(tell(responseHeaders()));
    expect(cookie).toBe(issue(createTrial({ yaml: issuing })));
  });

  it('gets one where response phases come anyway, and those go on to their end', () => {
    const { tell, call, trial } = open();
    expect(tell(requestHeaders({}, mode(NONE, STREAMED))).map(summarize)).toEqual(['request_headers routed chat ask(NONE/STREAMED send)']);
    expect(cookiesSet(tell(responseHeaders()))).toHaveLength(1);
    tell({ response_body: { body: Buffer.from('a'), end_of_stream: true } });
    expect(call.ended).toBeUndefined();
    expect(trial.log.at(-1)).toBe('released chat finished response-phases');
  });

  it('gets one in FULL_DUPLEX_STREAMED, where nothing can be asked for', () => {
    const { tell, trial } = open();
    tell(requestHeaders({}, mode(FULL_DUPLEX_STREAMED, FULL_DUPLEX_STREAMED), false));
    expect(tell(requestBody(mute)).map(summarize)).toEqual(['request_headers routed chat', `request_body echo ${mute.length} end`]);
    expect(cookiesSet(tell(responseHeaders(true)))).toHaveLength(1);
    expect(trial.log.at(-1)).toBe('released chat finished response-phases');
  });

  it('is counted as unsent where the response headers never come', () => {
    const { tell, stream, trial } = open();
    tell(requestHeaders({}, mode(NONE)));
    stream.onEnd();
    expect(trial.log.slice(-2)).toEqual(['session-cookie unsent', 'closed completed']);
  });

  it('gets none with a refusal', () => {
    const { tell, call, stream, trial } = open(issuing.replace("'10.0.0.1:8000'", "'10.0.0.1:8000', limits: { requests: 1 }").replace("'10.0.0.2:8000'", "'10.0.0.2:8000', limits: { requests: 1 }"));
    const others = [open('', trial), open('', trial)];
    for (const other of others) other.tell(requestHeaders({}, mode(NONE)));
    const [refusal] = tell(requestHeaders({}, mode(NONE)));
    expect(refusal!.immediate_response?.status?.code).toBe(429);
    expect(refusal!.immediate_response?.headers?.set_headers?.map(({ header }) => header?.key)).not.toContain('set-cookie');
    stream.onEnd();
    expect(call.ended).toBe('ok');
    expect(trial.log.filter((line) => line.startsWith('session-cookie'))).toEqual([]);
  });
});

describe('a request with a cookie', () => {
  it('of ours asks for nothing while the cookie is young', () => {
    const trial = createTrial({ yaml: issuing });
    const cookie = issue(trial);
    const { tell } = open('', trial);
    expect(tell(requestHeaders({ cookie }, mode(NONE), false)).map(summarize)).toEqual(['request_headers routed chat']);
  });

  it('of ours that is old gets it renewed, and stays the session that it was', () => {
    const trial = createTrial({ yaml: issuing });
    const cookie = issue(trial);
    trial.clock.ms += 43_200_000;
    const { tell } = open('', trial);
    expect(tell(requestHeaders({ cookie }, mode(NONE), false)).map(summarize)).toEqual(['request_headers routed chat ask(NONE/NONE send)']);
    const [renewed] = cookiesSet(tell(responseHeaders()));
    expect(renewed).not.toBe(cookie);
    // The random id is the same, the time and the signature are not.
    expect(renewed!.slice(0, 'fairlead-session='.length + 21)).toBe(cookie.slice(0, 'fairlead-session='.length + 21));
  });

  it('is not renewed where another session counts', () => {
    const trial = createTrial({ yaml: issuing });
    const cookie = issue(trial);
    trial.clock.ms += 43_200_000;
    const { tell } = open('', trial);
    expect(tell(requestHeaders({ cookie, 'x-session-id': 's' }, mode(NONE))).map(summarize)).toEqual(['request_headers routed chat']);
  });

  it('not of ours gets another, and is counted once', () => {
    const { tell, trial } = open();
    tell(requestHeaders({ cookie: 'fairlead-session=mine', 'content-length': String(mute.length) }, mode(BUFFERED), false));
    tell(requestBody(mute));
    expect(cookiesSet(tell(responseHeaders()))).toHaveLength(1);
    expect(trial.log.filter((line) => line.startsWith('session-cookie'))).toEqual(['session-cookie invalid', 'session-cookie set']);
  });

  it('counts as it is where none are issued', () => {
    const { tell, trial } = open(issuing.replace(', cookie: {}', ''));
    expect(tell(requestHeaders({ cookie: 'fairlead-session=mine' }, mode(NONE))).map(summarize)).toEqual(['request_headers routed chat']);
    expect(trial.log.filter((line) => line.startsWith('session-cookie'))).toEqual([]);
  });
});
