import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { EnvoyFilterModel, type Fate, type FilterModes, type ModelRequest } from '../../test/envoy-filter-model.ts';
import { createTrial, onePool, received, type RecordedCall, summarize, type Trial, twoPools } from '../../test/stream-under-test.ts';
import { BodySendMode, type ProcessingRequest, toStruct } from './messages.ts';
import type { ProcessStream } from './stream.ts';

const { NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED, GRPC } = BodySendMode;
const chatPath = { ':method': 'POST', ':path': '/v1/chat/completions' };
const model = { 'x-model': 'chat-large' };
const session = { 'x-session-id': 's-1' };
const full = Buffer.from(JSON.stringify({ model: 'embed-small', user: 'u-1', messages: [{ role: 'user', content: 'x'.repeat(400) }] }));
const mute = Buffer.from(JSON.stringify({ messages: [{ role: 'user', content: 'x'.repeat(400) }] }));

/** Where the facts are: all in headers, all in the body, or nowhere. */
const factsIn = {
  headers: { headers: { ...chatPath, ...model, ...session }, body: mute },
  body: { headers: chatPath, body: full },
  nowhere: { headers: chatPath, body: mute },
} as const;
const endings = {
  'no body': () => ({ pieces: undefined, trailers: false }),
  body: (body: Buffer) => ({ pieces: [body.subarray(0, 100), body.subarray(100)], trailers: false }),
  'body and trailers': (body: Buffer) => ({ pieces: [body.subarray(0, 100), body.subarray(100)], trailers: true }),
} as const;

type Facts = keyof typeof factsIn;
type End = keyof typeof endings;

function run(modes: FilterModes, facts: Facts, end: End, more: Readonly<Record<string, string>> = {}, trial: Trial = createTrial()): Exchange {
  const opened = trial.open();
  const { headers, body } = factsIn[facts];
  const filter = new EnvoyFilterModel(modes, opened);
  const fate = filter.request({ headers: { ...headers, ...more }, ...endings[end](body) });
  return { ...opened, trial, filter, fate, answers: opened.call.answers.map(summarize) };
}

interface Exchange {
  trial: Trial;
  stream: ProcessStream;
  call: RecordedCall;
  filter: EnvoyFilterModel;
  fate: Fate;
  answers: string[];
}

function exchange(modes: FilterModes, request: ModelRequest, trial: Trial = createTrial()): Exchange {
  const opened = trial.open();
  const filter = new EnvoyFilterModel(modes, opened);
  return { ...opened, trial, filter, fate: filter.request(request), answers: opened.call.answers.map(summarize) };
}

/** A stream that is told raw messages. */
function raw(trial: Trial = createTrial()): {
  trial: Trial;
  stream: ProcessStream;
  call: RecordedCall;
  say: (...messages: ProcessingRequest[]) => string[];
} {
  const { stream, call } = trial.open();
  const say = (...messages: ProcessingRequest[]): string[] => {
    for (const message of messages) stream.onMessage(received(message));
    return call.take();
  };
  return { trial, stream, call, say };
}

function headersMessage(headers: Readonly<Record<string, string>>, more: ProcessingRequest = {}, end = false): ProcessingRequest {
  return {
    request_headers: {
      headers: { headers: Object.entries(headers).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) },
      end_of_stream: end,
    },
    ...more,
  };
}

const bodyMessage = (body: Buffer, end = false): ProcessingRequest => ({ request_body: { body, end_of_stream: end } });
const mode = (request: number, response: number = NONE, early = false): ProcessingRequest => ({
  protocol_config: { request_body_mode: request, response_body_mode: response, send_body_without_waiting_for_header_response: early },
});
const everything = { ...chatPath, ...model, ...session };

const headersRouted = 'request_headers routed chat';
const refusedForModel = 'refused 400 model_required';
const length = { 'content-length': String(full.length) };

describe('each mode, wherever the facts are', () => {
  const noBodyRows: [Facts, End, string[], number][] = [
    ['headers', 'no body', [headersRouted], 1],
    ['body', 'no body', [refusedForModel], 0],
    ['nowhere', 'no body', [refusedForModel], 0],
  ];
  const trailersPass = 'request_trailers pass';
  const rows: [string, FilterModes, Readonly<Record<string, string>>, [Facts, End, string[], number][]][] = [
    [
      'NONE, override granted',
      { request: NONE, allowOverride: true },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [headersRouted], 1],
        ['headers', 'body and trailers', [headersRouted], 1],
        ['body', 'body', ['request_headers strip ask(BUFFERED/NONE skip)', 'request_body routed embeddings'], 1],
        ['body', 'body and trailers', ['request_headers strip ask(BUFFERED/NONE skip)', 'request_body routed embeddings'], 1],
        ['nowhere', 'body', ['request_headers strip ask(BUFFERED/NONE skip)', refusedForModel], 0],
        ['nowhere', 'body and trailers', ['request_headers strip ask(BUFFERED/NONE skip)', refusedForModel], 0],
      ],
    ],
    [
      'NONE, override not granted',
      { request: NONE, allowOverride: false },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [headersRouted], 1],
        ['body', 'body', ['request_headers strip ask(BUFFERED/NONE skip)'], 0],
        ['nowhere', 'body and trailers', ['request_headers strip ask(BUFFERED/NONE skip)'], 0],
      ],
    ],
    [
      'NONE with trailers, override granted',
      { request: NONE, allowOverride: true, trailers: true },
      {},
      [
        ['headers', 'body and trailers', [headersRouted, trailersPass], 1],
        ['body', 'body and trailers', ['request_headers strip ask(BUFFERED/NONE skip)', 'request_body routed embeddings', trailersPass], 1],
      ],
    ],
    [
      'NONE where no override can be honoured',
      { request: NONE, allowOverride: true, early: true },
      {},
      [
        ['headers', 'body', [headersRouted], 1],
        ['body', 'body', [refusedForModel], 0],
      ],
    ],
    [
      'BUFFERED, length declared',
      { request: BUFFERED, allowOverride: true, trailers: true },
      length,
      [
        ['headers', 'no body', [headersRouted], 1],
        ['headers', 'body', [`${headersRouted} ask(NONE/NONE skip)`], 1],
        ['headers', 'body and trailers', [`${headersRouted} ask(NONE/NONE skip)`], 1],
        ['body', 'body', ['request_headers strip', 'request_body routed embeddings'], 1],
        ['body', 'body and trailers', ['request_headers strip', 'request_body routed embeddings', trailersPass], 1],
        ['nowhere', 'body', ['request_headers strip', refusedForModel], 0],
        ['nowhere', 'body and trailers', ['request_headers strip', refusedForModel], 0],
      ],
    ],
    [
      'BUFFERED, length unknown',
      { request: BUFFERED, trailers: true },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [`${headersRouted} ask(NONE/NONE skip)`, 'request_body pass'], 1],
        ['headers', 'body and trailers', [`${headersRouted} ask(NONE/NONE skip)`, 'request_body pass', trailersPass], 1],
        ['body', 'body', ['request_headers strip', 'request_body routed embeddings'], 1],
        ['body', 'body and trailers', ['request_headers strip', 'request_body routed embeddings', trailersPass], 1],
        ['nowhere', 'body', ['request_headers strip', refusedForModel], 0],
        ['nowhere', 'body and trailers', ['request_headers strip', refusedForModel], 0],
      ],
    ],
    [
      'STREAMED',
      { request: STREAMED, trailers: true },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [`${headersRouted} ask(NONE/NONE skip)`, 'request_body pass', 'request_body pass'], 1],
        ['headers', 'body and trailers', [`${headersRouted} ask(NONE/NONE skip)`, 'request_body pass', 'request_body pass', trailersPass], 1],
        ['body', 'body', [refusedForModel], 0],
        ['nowhere', 'body and trailers', [refusedForModel], 0],
      ],
    ],
    [
      'STREAMED without waiting',
      { request: STREAMED, early: true, allowOverride: true, trailers: true },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [headersRouted, 'request_body pass', 'request_body pass'], 1],
        ['headers', 'body and trailers', [headersRouted, 'request_body pass', 'request_body pass', trailersPass], 1],
        ['body', 'body', ['request_headers routed embeddings', 'request_body pass', 'request_body pass'], 1],
        ['body', 'body and trailers', ['request_headers routed embeddings', 'request_body pass', 'request_body pass', trailersPass], 1],
        ['nowhere', 'body', [refusedForModel], 0],
        ['nowhere', 'body and trailers', [refusedForModel], 0],
      ],
    ],
    [
      'BUFFERED_PARTIAL within its limit',
      { request: BUFFERED_PARTIAL, partialBytesMax: 10_000, trailers: true },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [`${headersRouted} ask(NONE/NONE skip)`, 'request_body pass'], 1],
        ['body', 'body', ['request_headers strip', 'request_body routed embeddings'], 1],
        ['body', 'body and trailers', ['request_headers strip', 'request_body routed embeddings', trailersPass], 1],
        ['nowhere', 'body', ['request_headers strip', refusedForModel], 0],
      ],
    ],
    [
      'BUFFERED_PARTIAL over its limit',
      { request: BUFFERED_PARTIAL, partialBytesMax: 60, trailers: true },
      length,
      [
        ['body', 'body', ['request_headers strip', 'request_body routed embeddings'], 1],
        ['body', 'body and trailers', ['request_headers strip', 'request_body routed embeddings', trailersPass], 1],
        ['nowhere', 'body', ['request_headers strip', refusedForModel], 0],
      ],
    ],
    [
      'FULL_DUPLEX_STREAMED',
      { request: FULL_DUPLEX_STREAMED, allowOverride: true },
      {},
      [
        ...noBodyRows,
        ['headers', 'body', [headersRouted, 'request_body echo 100', `request_body echo ${mute.length - 100} end`], 1],
        ['headers', 'body and trailers', [headersRouted, 'request_body echo 100', `request_body echo ${mute.length - 100}`, trailersPass], 1],
        ['body', 'body', ['request_headers routed embeddings', 'request_body echo 100', `request_body echo ${full.length - 100} end`], 1],
        [
          'body',
          'body and trailers',
          ['request_headers routed embeddings', 'request_body echo 100', `request_body echo ${full.length - 100}`, trailersPass],
          1,
        ],
        ['nowhere', 'body', [refusedForModel], 0],
        ['nowhere', 'body and trailers', [refusedForModel], 0],
      ],
    ],
  ];

  for (const [name, modes, more, cases] of rows) {
    describe(name, () => {
      it.each(cases)('facts in %s, %s', (facts, end, expected, inFlight) => {
        const { trial, stream, fate, answers } = run(modes, facts, end, more);
        expect(answers).toEqual(expected);
        expect(trial.router.requestsInFlight).toBe(inFlight);
        const refused = expected.at(-1) === refusedForModel;
        if (refused) expect(fate.refusedWith).toBe(400);
        // Only where an Envoy does not let us ask does a request go on undecided, and then without a cluster.
        else expect(fate.cluster).toBe(inFlight === 0 ? 'none' : facts === 'headers' ? 'chat' : 'embeddings');
        const { pieces = [] } = endings[end](factsIn[facts].body);
        if (!refused) expect(fate.body).toEqual(Buffer.concat(pieces));

        // Envoy ends the exchange; the request goes on, and its end comes by access log.
        stream.onCancelled();
        expect(trial.router.requestsInFlight).toBe(inFlight);
        expect(trial.log.filter((line) => line.startsWith('decided'))).toHaveLength(inFlight);
        expect(trial.log.filter((line) => line.startsWith('answered'))).toHaveLength(inFlight === 1 || refused ? 1 : 0);
        expect(trial.log.at(-1)).toBe(expected.length === 1 && inFlight === 0 && !refused ? 'closed cancelled' : 'closed completed');
      });
    });
  }

  it('tells the same choice in headers and metadata, addresses best first', () => {
    const { fate } = run({ request: NONE }, 'headers', 'no body');
    expect(fate.endpoints?.split(',').sort()).toEqual(['10.0.0.1:8000', '10.0.0.1:8001', '10.0.0.2:8000', '[fd00::1]:8000'].sort());
  });

  it('decides on headers in a mode it does not know, and lets its bodies pass', () => {
    const { say } = raw();
    expect(say(headersMessage(everything, mode(GRPC)), bodyMessage(mute), bodyMessage(mute, true))).toEqual([
      headersRouted,
      'request_body pass',
      'request_body pass',
    ]);
    expect(raw().say(headersMessage(chatPath, mode(GRPC)))).toEqual([refusedForModel]);
  });
});

describe('a body that may not come', () => {
  it('needs no answer when the declared length is 0', () => {
    // Trailers may follow at once, and where they are not sent to us there is no other chance.
    const { fate, answers, trial } = exchange(
      { request: BUFFERED },
      { headers: { ...chatPath, ...model, 'content-length': '0' }, pieces: [], trailers: true },
    );
    expect(answers).toEqual([`${headersRouted} ask(NONE/NONE skip)`]);
    expect(fate.cluster).toBe('chat');
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('of unknown length, followed by trailers only, leaves the decision on the headers standing', () => {
    const trial = createTrial();
    const { stream, fate, answers } = exchange(
      { request: BUFFERED, trailers: true },
      { headers: { ...chatPath, ...model }, pieces: [], trailers: true },
      trial,
    );
    expect(answers).toEqual([headersRouted, 'request_trailers pass']);
    expect(fate.cluster).toBe('chat');
    stream.onCancelled();
    expect(trial.log).toEqual(['decided chat', 'answered headers 0', 'closed completed']);
  });

  it('is refused when trailers come in its place and nothing was decided', () => {
    const { answers } = exchange({ request: BUFFERED, trailers: true }, { headers: chatPath, pieces: [], trailers: true });
    expect(answers).toEqual(['request_headers strip', refusedForModel]);
  });

  it('is a broken protocol when its length was declared and trailers come in its place', () => {
    const { fate, trial } = exchange(
      { request: BUFFERED, trailers: true },
      { headers: { ...chatPath, ...model, ...length }, pieces: [], trailers: true },
    );
    expect(fate.failed).toBe('invalid-argument');
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('is not asked for above the size worth the risk, unless the request could not be routed without it', () => {
    const trial = createTrial({ scanBytesMax: 1_000, askForBodyBytesMax: 2_000 });
    const big = { 'content-length': '1001' };
    const pieces = [mute];
    expect(exchange({ request: NONE, allowOverride: true }, { headers: { ...chatPath, ...model, ...big }, pieces }, trial).answers).toEqual([
      headersRouted,
    ]);
    expect(exchange({ request: NONE, allowOverride: true }, { headers: { ...chatPath, ...big }, pieces }, trial).answers[0]).toBe(
      'request_headers strip ask(BUFFERED/NONE skip)',
    );
    const tooBig = { 'content-length': '2001' };
    expect(exchange({ request: NONE, allowOverride: true }, { headers: { ...chatPath, ...tooBig }, pieces }, trial).answers.join()).not.toContain('ask');
    const small = { 'content-length': '1000' };
    expect(exchange({ request: NONE, allowOverride: true }, { headers: { ...chatPath, ...model, ...small }, pieces }, trial).answers[0]).toBe(
      `${headersRouted} ask(BUFFERED/NONE skip)`,
    );
  });

  it.each([
    ['compressed', { 'content-encoding': 'gzip' }, 'body-unusable compressed'],
    ['not JSON', { 'content-type': 'multipart/form-data; boundary=b' }, 'body-unusable not-json'],
  ])('is not asked for when it is %s', (_, more, told) => {
    const { answers, trial } = run({ request: NONE, allowOverride: true }, 'body', 'body', { ...more, ...model });
    expect(answers).toEqual([headersRouted]);
    expect(trial.log).toContain(told);
  });
});

describe('a provisional decision', () => {
  const ask = { request: NONE, allowOverride: true } as const;

  it('goes out with the question for the body, and is counted once whatever comes', () => {
    const trial = createTrial();
    const { call, answers, stream } = exchange(ask, { headers: { ...chatPath, ...model }, pieces: [full] }, trial);
    expect(answers).toEqual([`${headersRouted} ask(BUFFERED/NONE skip)`, 'request_body routed chat']);
    const leases = call.answers.map(({ dynamic_metadata: told }) => told?.fields?.['fairlead']?.structValue?.fields?.['lease']?.stringValue);
    expect(leases).toEqual(['r1.1', 'r1.1']);
    expect(trial.router.requestsInFlight).toBe(1);
    stream.onCancelled();
    expect(trial.log).toEqual(['decided chat', 'answered body 0', 'closed completed']);
  });

  it('stands where Envoy does not allow the question', () => {
    const trial = createTrial();
    const { stream, fate } = exchange({ request: NONE }, { headers: { ...chatPath, ...model }, pieces: [full] }, trial);
    expect(fate.cluster).toBe('chat');
    expect(trial.log).toEqual([]);
    stream.onEnd();
    expect(trial.log).toEqual(['answered headers 0', 'decided chat', 'closed completed']);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('stands from the response on, where that is sent to us', () => {
    const trial = createTrial();
    const { stream, filter } = exchange({ request: NONE, response: STREAMED }, { headers: { ...chatPath, ...model }, pieces: [full] }, trial);
    filter.respond([Buffer.from('a')]);
    expect(trial.log).toEqual(['decided chat', 'answered headers 0', 'released chat finished response-phases']);
    stream.onCancelled();
    expect(trial.log.at(-1)).toBe('closed completed');
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('is withdrawn by a refusal', () => {
    const trial = createTrial();
    const { stream, call } = trial.open();
    stream.onMessage(headersMessage({ ...chatPath, ...model }, mode(NONE)));
    expect(trial.router.requestsInFlight).toBe(1);
    for (const endpoint of trial.fleet.pool('chat')?.endpoints ?? []) endpoint.state = 'not-ready';
    stream.onMessage(bodyMessage(full, true));
    expect(call.take()).toEqual([`${headersRouted} ask(BUFFERED/NONE skip)`, 'refused 503 no_ready_endpoint']);
    expect(trial.router.requestsInFlight).toBe(0);
    stream.onCancelled();
    expect(trial.log).toEqual(['refused no_ready_endpoint', 'answered body 0', 'closed completed']);
  });

  it('is released when the client goes away before the body that was sure to come', () => {
    const trial = createTrial();
    const { say, stream } = raw(trial);
    say(headersMessage({ ...chatPath, ...model }, mode(BUFFERED)));
    expect(trial.router.requestsInFlight).toBe(1);
    stream.onCancelled();
    expect(trial.router.requestsInFlight).toBe(0);
    expect(trial.log).toContain('released chat client-abort ext-proc');
    expect(trial.log.at(-1)).toBe('closed cancelled');
  });
});

describe('holding the headers', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('ends as soon as the facts are known, not at the end of the body', () => {
    const { say, trial } = raw();
    const head = Buffer.from('{"prompt_cache_key":"k","user":"u","model":"embed-small","m');
    const tail = Buffer.from('essages":[]}');
    expect(say(headersMessage(chatPath, mode(FULL_DUPLEX_STREAMED)))).toEqual([]);
    expect(say(bodyMessage(head.subarray(0, 5)))).toEqual([]);
    expect(say(bodyMessage(head.subarray(5)))).toEqual([
      'request_headers routed embeddings',
      'request_body echo 5',
      `request_body echo ${head.length - 5}`,
    ]);
    expect(trial.log).toEqual(['decided embed', 'answered body-early 0']);
    expect(say(bodyMessage(tail))).toEqual([`request_body echo ${tail.length}`]);
    expect(say({ request_trailers: {} })).toEqual(['request_trailers pass']);
  });

  it('ends at the deadline in FULL_DUPLEX_STREAMED, with what was held', () => {
    const trial = createTrial({ decideDeadlineMs: 700 });
    const { say, call } = raw(trial);
    say(headersMessage({ ...chatPath, ...model }, mode(FULL_DUPLEX_STREAMED)), bodyMessage(mute.subarray(0, 50)));
    vi.advanceTimersByTime(699);
    expect(call.take()).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(call.take()).toEqual([headersRouted, 'request_body echo 50']);
    expect(trial.log.at(-1)).toBe('answered deadline 0');
    expect(say(bodyMessage(mute.subarray(50), true))).toEqual([`request_body echo ${mute.length - 50} end`]);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('refuses at the deadline what cannot be routed', () => {
    const trial = createTrial({ decideDeadlineMs: 700 });
    const { say, call } = raw(trial);
    say(headersMessage(chatPath, mode(FULL_DUPLEX_STREAMED)), bodyMessage(mute.subarray(0, 50)));
    vi.advanceTimersByTime(700);
    expect(call.take()).toEqual([refusedForModel]);
    expect(say(bodyMessage(mute.subarray(50), true))).toEqual([]);
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('ends well within the message timeout in STREAMED without waiting', () => {
    const { say, call } = raw();
    say(headersMessage({ ...chatPath, ...model }, mode(STREAMED, NONE, true)), bodyMessage(mute.subarray(0, 50)));
    expect(call.take()).toEqual([]);
    vi.advanceTimersByTime(100);
    expect(call.take()).toEqual([headersRouted, 'request_body pass']);
  });

  it('fires no deadline after the end, whatever ended it', () => {
    for (const end of ['onEnd', 'onCancelled'] as const) {
      const trial = createTrial({ decideDeadlineMs: 700 });
      const { say, call, stream } = raw(trial);
      say(headersMessage({ ...chatPath, ...model }, mode(FULL_DUPLEX_STREAMED)), bodyMessage(mute.subarray(0, 50)));
      stream[end]();
      expect(vi.getTimerCount()).toBe(0);
      vi.advanceTimersByTime(10_000);
      expect(call.take()).toEqual([]);
      expect(call.ended).toBe(end === 'onEnd' ? 'ok' : undefined);
      expect(trial.log).toEqual(['closed cancelled']);
      expect(trial.router.requestsInFlight).toBe(0);
    }
  });

  it('survives a bug at the deadline', () => {
    let breaks = false;
    const trial = createTrial({
      decideDeadlineMs: 700,
      changePolicy: (policy) => ({
        ...policy,
        picker: {
          name: 'broken',
          run: () => {
            if (breaks) throw new Error('bug');
            return { order: [], reason: '', home: undefined };
          },
        },
      }),
    });
    breaks = true;
    const { say, call } = raw(trial);
    say(headersMessage({ ...chatPath, ...model }, mode(FULL_DUPLEX_STREAMED)));
    vi.advanceTimersByTime(700);
    expect(call.take()).toEqual(['refused 503 internal_error']);
    expect(call.ended).toBe('internal');
    expect(trial.log).toEqual(['failed bug', 'closed internal-error']);
  });

  it('keeps no more than the scan limit of a body without facts', () => {
    const trial = createTrial({ scanBytesMax: 1_000 });
    const { say } = raw(trial);
    const filler = Buffer.from(`{"pad":"${'x'.repeat(5_000)}"`);
    expect(say(headersMessage({ ...chatPath, ...model }, mode(FULL_DUPLEX_STREAMED)), bodyMessage(filler.subarray(0, 900)))).toEqual([]);
    expect(say(bodyMessage(filler.subarray(900, 1_800)))).toEqual([headersRouted, 'request_body echo 900', 'request_body echo 900']);
    expect(trial.log).toContain('body-unusable over-limit');
  });
});

describe('FULL_DUPLEX_STREAMED', () => {
  it('hands large pieces back in parts that Envoy takes', () => {
    const body = Buffer.concat([full.subarray(0, -1), Buffer.alloc(150_000, ' '), Buffer.from('}')]);
    const { fate, answers } = exchange({ request: FULL_DUPLEX_STREAMED }, { headers: chatPath, pieces: [body] });
    expect(answers).toEqual([
      'request_headers routed embeddings',
      'request_body echo 62000',
      'request_body echo 62000',
      `request_body echo ${body.length - 124_000} end`,
    ]);
    expect(fate.body?.equals(body)).toBe(true);
  });

  it('hands an empty end back, and no empty piece before it', () => {
    const { say } = raw();
    expect(say(headersMessage(everything, mode(FULL_DUPLEX_STREAMED)), bodyMessage(Buffer.alloc(0)), bodyMessage(Buffer.alloc(0), true))).toEqual([
      headersRouted,
      'request_body echo 0 end',
    ]);
  });

  it.each([
    ['decided early', everything],
    ['held to the end', chatPath],
  ])('hands the final piece back once when it comes twice, %s', (_, headers) => {
    const { say, call } = raw();
    say(headersMessage(headers, mode(FULL_DUPLEX_STREAMED)));
    const [, echo] = say(bodyMessage(full, true));
    expect(echo ?? '').toBe(headers === everything ? '' : `request_body echo ${full.length} end`);
    expect(say(bodyMessage(full, true))).toEqual([]);
    expect(call.ended).toBeUndefined();
  });

  it('hands response pieces back, the final one once, and takes the end for the end of the request', () => {
    const { say, trial, stream } = raw();
    say(headersMessage(everything, mode(FULL_DUPLEX_STREAMED, FULL_DUPLEX_STREAMED), true));
    const status = { headers: { headers: [{ key: ':status', raw_value: Buffer.from('200') }] } };
    expect(say({ response_headers: status })).toEqual(['response_headers pass']);
    expect(say({ response_body: { body: Buffer.alloc(70_000) } })).toEqual(['response_body echo 62000', 'response_body echo 8000']);
    expect(trial.router.requestsInFlight).toBe(1);
    const last = { response_body: { body: Buffer.from('end'), end_of_stream: true } };
    expect(say(last, last)).toEqual(['response_body echo 3 end']);
    expect(trial.router.requestsInFlight).toBe(0);
    stream.onCancelled();
    expect(trial.log.slice(-2)).toEqual(['released chat finished response-phases', 'closed completed']);
  });

  it('takes response trailers for the end', () => {
    const { say, trial } = raw();
    say(headersMessage(everything, mode(FULL_DUPLEX_STREAMED, FULL_DUPLEX_STREAMED), true));
    expect(say({ response_body: { body: Buffer.from('x') } }, { response_trailers: {} })).toEqual(['response_body echo 1', 'response_trailers pass']);
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('asks for nothing: Envoy ignores overrides then', () => {
    const yaml = onePool.replace('name: chat', 'name: chat\n    observe: { firstToken: true }');
    for (const [request, response] of [
      [FULL_DUPLEX_STREAMED, NONE],
      [BUFFERED, FULL_DUPLEX_STREAMED],
    ] as const) {
      const { answers } = exchange({ request, response }, { headers: everything, pieces: undefined }, createTrial({ yaml }));
      expect(answers).toEqual([headersRouted]);
    }
  });
});

describe('the first token', () => {
  const observing = twoPools.replace('name: chat', 'name: chat\n    observe: { firstToken: true }');
  const asked = 'request_headers routed chat ask(NONE/STREAMED skip)';

  it('is asked for, noticed once, and the stream let go after that chunk', () => {
    const trial = createTrial({ yaml: observing });
    const { filter, call, answers, stream } = exchange({ request: NONE, allowOverride: true }, { headers: everything, pieces: [mute] }, trial);
    expect(answers).toEqual([asked]);
    trial.clock.ms += 250;
    filter.respond([Buffer.from('a'), Buffer.from('b')], { headers: false });
    expect(call.answers.map(summarize)).toEqual([asked, 'response_body pass']);
    expect(call.ended).toBe('ok');
    expect(trial.log.slice(-2)).toEqual(['first-token chat 250', 'closed let-go']);
    stream.onCancelled();
    // Its end comes by access log.
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it.each<[string, string, boolean, boolean | undefined]>([
    ['an event stream', 'data: {"choices":[]}\n\n', false, true],
    ['one with a name', 'event: message_start\ndata: {}\n\n', false, true],
    ['one that begins with a comment', ': ping\n\n', false, true],
    ['one that is over with it', 'data: [DONE]\n\n', true, false],
    ['a part of a JSON text', ' {"id":"c', false, false],
    ['who knows what', '\x1f\x8b\x08', false, undefined],
  ])('tells whether the answer is streamed: %s', (_, text, endOfStream, streams) => {
    const { say, trial } = raw(createTrial({ yaml: observing }));
    const noticed = vi.spyOn(trial.router, 'firstToken');
    say(headersMessage(everything, mode(NONE), true), { response_body: { body: Buffer.from(text, 'latin1'), end_of_stream: endOfStream } });
    expect(noticed.mock.calls.map(([, told]) => told)).toEqual([streams]);
  });

  it('waits for a chunk that holds something', () => {
    const { say, call, trial } = raw(createTrial({ yaml: observing }));
    say(headersMessage(everything, mode(NONE), true));
    expect(say({ response_body: {} })).toEqual(['response_body pass']);
    expect(call.ended).toBeUndefined();
    expect(say({ response_body: { body: Buffer.from('x') } })).toEqual(['response_body pass']);
    expect(call.ended).toBe('ok');
    expect(trial.log).toContain('first-token chat 0');
  });

  it('lets go of a response that ends empty', () => {
    const { say, call, trial } = raw(createTrial({ yaml: observing }));
    say(headersMessage(everything, mode(NONE), true));
    say({ response_body: { end_of_stream: true } });
    expect(call.ended).toBe('ok');
    expect(trial.log.filter((line) => line.startsWith('first-token'))).toEqual([]);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('is asked for along with the body, also where another pool may be the one', () => {
    const { say, call, trial } = raw(createTrial({ yaml: observing }));
    expect(say(headersMessage(chatPath, mode(NONE)))).toEqual(['request_headers strip ask(BUFFERED/STREAMED skip)']);
    expect(say(bodyMessage(full, true))).toEqual(['request_body routed embeddings']);
    expect(say({ response_body: { body: Buffer.from('x') } })).toEqual(['response_body pass']);
    expect(call.ended).toBe('ok');
    expect(trial.log.filter((line) => line.startsWith('first-token'))).toEqual([]);
  });

  it('is noticed in response phases that come anyway, which are all answered', () => {
    const { say, call, trial } = raw(createTrial({ yaml: observing }));
    expect(say(headersMessage(everything, mode(NONE, STREAMED), true))).toEqual([headersRouted]);
    expect(say({ response_headers: {} }, { response_body: { body: Buffer.from('a') } }, { response_body: { body: Buffer.from('b') } })).toEqual([
      'response_headers pass',
      'response_body pass',
      'response_body pass',
    ]);
    expect(say({ response_body: { end_of_stream: true } })).toEqual(['response_body pass']);
    expect(call.ended).toBeUndefined();
    expect(trial.log.slice(-2)).toEqual(['first-token chat 0', 'released chat finished response-phases']);
  });

  it('is asked for without declining the trailers, which may be all that comes', () => {
    const { fate } = exchange(
      { request: BUFFERED, allowOverride: true, trailers: true },
      { headers: chatPath, pieces: [], trailers: true },
      createTrial({ yaml: observing }),
    );
    expect(fate.refusedWith).toBe(400);
  });

  it('leaves the response modes as configured when only the body is declined', () => {
    const { say } = raw(createTrial({ yaml: observing }));
    expect(say(headersMessage(everything, mode(BUFFERED, STREAMED)))).toEqual(['request_headers routed chat ask(NONE/STREAMED default)']);
  });
});

describe('response phases', () => {
  it('end the request at response headers that have no body, with the endpoint that served', () => {
    const { say, trial } = raw();
    say(headersMessage(everything, mode(NONE, STREAMED), true));
    const served = { filter_metadata: { 'envoy.lb': toStruct({ 'x-gateway-destination-endpoint-served': '10.0.0.2:8000' }) } };
    say({
      response_headers: { headers: { headers: [{ key: ':status', raw_value: Buffer.from('204') }] }, end_of_stream: true },
      metadata_context: served,
    });
    expect(trial.log.at(-1)).toBe('released chat finished response-phases');
    expect(trial.router.completionsSeen).toBe(true);
  });

  it('that stop short mean that the client went away', () => {
    const { say, trial, stream } = raw();
    say(headersMessage(everything, mode(NONE, STREAMED), true), { response_headers: {} }, { response_body: { body: Buffer.from('a') } });
    stream.onCancelled();
    expect(trial.log.slice(-2)).toEqual(['released chat client-abort ext-proc', 'closed cancelled']);
    expect(trial.router.requestsInFlight).toBe(0);
  });
});

describe('without request headers', () => {
  it.each([
    ['BUFFERED', BUFFERED, [bodyMessage(full, true)], ['request_body routed embeddings']],
    ['BUFFERED with trailers', BUFFERED, [bodyMessage(full), { request_trailers: {} }], ['request_body routed embeddings', 'request_trailers pass']],
    [
      'STREAMED',
      STREAMED,
      [bodyMessage(full.subarray(0, 5)), bodyMessage(full.subarray(5)), bodyMessage(mute, true)],
      ['request_body pass', 'request_body routed embeddings', 'request_body pass'],
    ],
    [
      'FULL_DUPLEX_STREAMED',
      FULL_DUPLEX_STREAMED,
      [bodyMessage(full.subarray(0, 5)), bodyMessage(Buffer.alloc(0)), bodyMessage(full.subarray(5), true)],
      ['request_body echo 5', `request_body echo ${full.length - 5} end told embed`],
    ],
    ['trailers', FULL_DUPLEX_STREAMED, [{ request_trailers: {} }], [refusedForModel]],
  ])('the body and metadata speak: %s', (_, bodyMode, messages: ProcessingRequest[], expected) => {
    const { say, trial } = raw();
    const [first = {}, ...rest] = messages;
    expect(say({ ...first, ...mode(bodyMode) }, ...rest)).toEqual(expected);
    expect(trial.router.requestsInFlight).toBe(expected[0] === refusedForModel ? 0 : 1);
  });

  it('trailers carry the choice as metadata', () => {
    const { say } = raw(createTrial({ yaml: onePool }));
    expect(say({ ...bodyMessage(mute.subarray(0, 9)), ...mode(FULL_DUPLEX_STREAMED) }, { request_trailers: {} })).toEqual([
      'request_body echo 9',
      'request_trailers told chat',
    ]);
  });

  it('responses pass, and nothing is counted', () => {
    const { say, trial, stream } = raw();
    expect(say({ response_headers: {}, ...mode(NONE, STREAMED) }, { response_body: { body: Buffer.from('a'), end_of_stream: true } })).toEqual([
      'response_headers pass',
      'response_body pass',
    ]);
    stream.onEnd();
    expect(trial.router.requestsInFlight).toBe(0);
  });
});

describe('observability mode', () => {
  it('is watched in silence, and nothing is counted', () => {
    const { say, trial, stream, call } = raw();
    const watch = { observability_mode: true };
    expect(
      say(headersMessage(everything, watch), { ...bodyMessage(full, true), ...watch }, { response_headers: {}, ...watch }, { response_trailers: {} }),
    ).toEqual([]);
    stream.onEnd();
    expect(call.ended).toBe('ok');
    expect(trial.log).toEqual(['closed completed']);
    expect(trial.router.requestsInFlight).toBe(0);
  });
});

describe("the client's copies of our headers", () => {
  const spoofed = { 'x-fairlead-cluster': 'elsewhere', 'x-gateway-destination-endpoint': '192.0.2.1:80' };

  it.each([
    ['NONE, asked', { request: NONE, allowOverride: true }],
    ['NONE, not allowed to ask', { request: NONE }],
    ['BUFFERED', { request: BUFFERED }],
    ['BUFFERED_PARTIAL', { request: BUFFERED_PARTIAL }],
    ['FULL_DUPLEX_STREAMED', { request: FULL_DUPLEX_STREAMED }],
    ['STREAMED without waiting', { request: STREAMED, early: true }],
  ] as const)('never lead a request: %s', (_, modes) => {
    for (const facts of ['headers', 'body', 'nowhere'] as const) {
      const { fate } = run(modes, facts, 'body', spoofed);
      expect(fate.cluster).not.toBe('elsewhere');
      expect(fate.endpoints ?? '').not.toContain('192.0.2.1');
    }
  });
});

describe("the gateway's subset", () => {
  const hint = (addresses: string[]): ProcessingRequest => ({
    metadata_context: { filter_metadata: { 'envoy.lb.subset_hint': toStruct({ 'x-gateway-destination-endpoint-subset': addresses }) } },
  });
  it('is kept to, address and port', () => {
    for (const address of ['10.0.0.1:8000', '10.0.0.1:8001', '[fd00::1]:8000']) {
      const { fate } = exchange({ request: NONE }, { headers: everything, metadata: hint([address]).metadata_context });
      expect(fate.endpoints).toBe(address);
    }
  });

  it.each([['empty'], ['unknown']])('that leaves nothing is a 503: %s', (kind) => {
    const { say, trial } = raw();
    const addresses = kind === 'empty' ? [] : ['10.0.0.1:9999', '10.9.9.9:8000'];
    expect(say(headersMessage(everything, { ...mode(NONE), ...hint(addresses) }, true))).toEqual(['refused 503 subset_unavailable']);
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('holds for the decision on the body too', () => {
    const { fate } = exchange(
      { request: BUFFERED },
      { headers: { ...chatPath, ...model }, pieces: [full], metadata: hint(['[fd00::1]:8000', '10.0.0.2:8000']).metadata_context },
    );
    expect(fate.endpoints?.split(',').sort()).toEqual(['10.0.0.2:8000', '[fd00::1]:8000']);
  });
});

describe('refusals', () => {
  it.each([
    ['no route serves the model', twoPools, { ...chatPath, 'x-model': 'unknown' }, 'refused 404 model_not_found'],
    ['no endpoint is ready', twoPools, everything, 'refused 503 no_ready_endpoint'],
    [
      'all are at their limit',
      twoPools.replaceAll(/\{ address: ('10\.0\.0|'\[fd)/g, '{ limits: { requests: 1 }, address: $1'),
      everything,
      'refused 429 overloaded',
    ],
  ])('%s', (why, yaml, headers, expected) => {
    const trial = createTrial({ yaml });
    for (const endpoint of trial.fleet.pool('chat')?.endpoints ?? []) {
      if (expected.includes('no_ready')) endpoint.state = 'not-ready';
      if (expected.includes('overloaded')) endpoint.own.requests = 1;
    }
    const { say, stream, call } = raw(trial);
    expect(say(headersMessage(headers, mode(FULL_DUPLEX_STREAMED), true)), why).toEqual([expected]);
    // Nothing more is said: Envoy would count it as spurious.
    expect(say(bodyMessage(full, true), { request_trailers: {} }, { response_headers: {} }, {})).toEqual([]);
    stream.onCancelled();
    expect(call.ended).toBeUndefined();
    expect(trial.log.at(-1)).toBe('closed completed');
    expect(trial.router.requestsInFlight).toBe(0);
  });
});

describe('broken protocol', () => {
  it.each([
    ['headers twice', [headersMessage(everything, mode(BUFFERED)), headersMessage(everything)]],
    ['headers after the body', [{ ...bodyMessage(full), ...mode(BUFFERED) }, headersMessage(everything)]],
    ['a body after the end of the headers', [headersMessage(everything, mode(FULL_DUPLEX_STREAMED), true), bodyMessage(full)]],
    ['a body after its end', [headersMessage(everything, mode(STREAMED)), bodyMessage(full, true), bodyMessage(full)]],
    ['a body after trailers', [headersMessage(everything, mode(FULL_DUPLEX_STREAMED)), { request_trailers: {} }, bodyMessage(full)]],
    ['trailers after the end of the body', [headersMessage(everything, mode(STREAMED)), bodyMessage(full, true), { request_trailers: {} }]],
  ])('ends with INVALID_ARGUMENT and frees its lease: %s', (_, messages: ProcessingRequest[]) => {
    const trial = createTrial();
    const { say, call, stream } = raw(trial);
    say(...messages);
    expect(call.ended).toBe('invalid-argument');
    expect(trial.router.requestsInFlight).toBe(0);
    expect(trial.log.at(-1)).toBe('closed protocol-error');
    // And nothing more happens.
    const lines = trial.log.length;
    say(headersMessage(everything));
    stream.onEnd();
    stream.onCancelled();
    expect(trial.log).toHaveLength(lines);
  });
});

describe('a bug', () => {
  const brokenFor = (address: string | undefined, trialOptions = {}): { trial: Trial; break: (broken: boolean) => void } => {
    let broken = false;
    const trial = createTrial({
      ...trialOptions,
      changePolicy: (policy) => ({
        ...policy,
        filters: [
          {
            name: 'broken',
            run: (endpoint) => {
              if (broken && (address === undefined || endpoint.address === address)) throw new Error('bug');
              return undefined;
            },
          },
          ...policy.filters,
        ],
      }),
    });
    return { trial, break: (now) => (broken = now) };
  };

  it.each([
    ['on headers', NONE, [headersMessage(everything, {}, true)]],
    ['on headers, provisionally', NONE, [headersMessage({ ...chatPath, ...model })]],
    [
      'in FULL_DUPLEX_STREAMED',
      FULL_DUPLEX_STREAMED,
      [headersMessage(chatPath), bodyMessage(Buffer.from('{"model":"chat-x","prompt_cache_key":"k","user":"u"}'), true)],
    ],
  ])('in deciding is a 503 and the end of this stream alone: %s', (_, bodyMode, messages: ProcessingRequest[]) => {
    const { trial, break: breakIt } = brokenFor(undefined);
    const other = raw(trial);
    other.say(headersMessage(chatPath, mode(BUFFERED)));
    breakIt(true);
    const { say, call } = raw(trial);
    const [first = {}, ...rest] = messages;
    expect(say({ ...first, ...mode(bodyMode) }, ...rest)).toEqual(['refused 503 internal_error']);
    expect(call.ended).toBe('internal');
    expect(trial.log).toContain('failed bug');
    expect(trial.router.requestsInFlight).toBe(0);
    breakIt(false);
    expect(other.say(bodyMessage(full, true))).toEqual(['request_body routed embeddings']);
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('in the second decision frees what the first had reserved', () => {
    const { trial, break: breakIt } = brokenFor(undefined);
    const { say, call } = raw(trial);
    say(headersMessage({ ...chatPath, ...model }, mode(BUFFERED)));
    expect(trial.router.requestsInFlight).toBe(1);
    breakIt(true);
    expect(say(bodyMessage(full, true))).toEqual(['refused 503 internal_error']);
    expect(call.ended).toBe('internal');
    expect(trial.router.requestsInFlight).toBe(0);
    for (const pool of trial.fleet.pools.values())
      for (const { own } of pool.endpoints) expect(own.toLoad()).toEqual({ requests: 0, promptTokens: 0, requestsWaiting: 0, uncachedTokensWaiting: 0 });
  });

  it('after the decision ends the stream with an error, since no refusal is possible any more', () => {
    const trial = createTrial();
    const { say, call, stream } = raw(trial);
    say(headersMessage(everything, mode(NONE, STREAMED), true));
    call.send = () => {
      throw new Error('cannot be written');
    };
    stream.onMessage({ response_headers: {} });
    expect(call.ended).toBe('internal');
    expect(trial.router.requestsInFlight).toBe(0);
    expect(trial.log.slice(-2)).toEqual(['released chat stream-error ext-proc', 'closed internal-error']);
  });

  it.each(['onEnd', 'onCancelled'] as const)('at the very end does not get out: %s', (end) => {
    let armed = false;
    const trial = createTrial({
      onEvent: (line) => {
        if (armed && line.startsWith('released')) throw new Error('bug');
      },
    });
    const { say, stream, call } = raw(trial);
    say(headersMessage(everything, mode(NONE, STREAMED), true));
    armed = true;
    expect(() => stream[end]()).not.toThrow();
    expect(call.ended).toBe(end === 'onEnd' ? 'ok' : undefined);
    expect(trial.log).toContain('failed bug');
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('while failing does not get out either', () => {
    const trial = createTrial({
      onEvent: (line) => {
        if (line.startsWith('released')) throw new Error('bug');
      },
    });
    const { say, call } = raw(trial);
    say(headersMessage(everything, mode(NONE, STREAMED), true));
    expect(() => say(headersMessage(everything))).not.toThrow();
    expect(call.ended).toBe('invalid-argument');
  });
});

describe('facts', () => {
  it('of the body come first where the configuration says so', () => {
    const yaml = `${twoPools}facts: { model: [{ body: model }, { header: x-model }] }\n`;
    const modes = { request: NONE, allowOverride: true } as const;
    const headers = { ...chatPath, ...model, ...session };
    expect(exchange(modes, { headers, pieces: [full] }, createTrial({ yaml })).fate.cluster).toBe('embeddings');
    expect(exchange(modes, { headers, pieces: [mute] }, createTrial({ yaml })).fate.cluster).toBe('chat');
    expect(exchange(modes, { headers }, createTrial({ yaml })).fate.cluster).toBe('chat');
  });

  it('of a body that is not JSON count for nothing', () => {
    const broken = Buffer.from('{"model":"embed-small","user":]');
    const { answers, trial } = exchange({ request: BUFFERED }, { headers: chatPath, pieces: [broken] });
    expect(answers).toEqual(['request_headers strip', refusedForModel]);
    expect(trial.log).toContain('body-unusable malformed');
  });

  it('of a body that stops short count for nothing, also where trailers hide that it was the end', () => {
    const pieces = [Buffer.from('{"prompt_cache_key":"k","model":"embed-small"')];
    for (const trailers of [false, true]) {
      const { answers, trial } = exchange({ request: BUFFERED, trailers }, { headers: chatPath, pieces, trailers });
      expect(answers).toEqual(['request_headers strip', refusedForModel]);
      expect(trial.log).toContain('body-unusable truncated');
    }
  });

  it('of a body that never came are not called truncated', () => {
    const { answers, trial } = exchange({ request: NONE, trailers: true }, { headers: chatPath, pieces: [mute], trailers: true });
    expect(answers).toEqual(['request_headers strip ask(BUFFERED/NONE skip)', refusedForModel]);
    expect(trial.log).toEqual(['refused model_required', 'answered body 0']);
  });

  it('of a request that needs none are not waited for', () => {
    const trial = createTrial({ yaml: onePool.replace('session-affinity', 'round-robin') });
    const { answers } = exchange({ request: NONE, allowOverride: true }, { headers: chatPath, pieces: [mute] }, trial);
    expect(answers).toEqual([headersRouted]);
  });

  it('length: the prompt measured in the body, else the whole body, else what was declared', () => {
    const tokens = (modes: FilterModes, headers: Readonly<Record<string, string>>, pieces: Buffer[]): number | undefined => {
      const { trial } = exchange(modes, { headers: { ...chatPath, ...model, ...headers }, pieces });
      return trial.fleet.pool('chat')?.endpoints.reduce((sum, { own }) => sum + own.promptTokens, 0);
    };
    const padded = Buffer.from(JSON.stringify({ messages: [{ role: 'user', content: 'x'.repeat(396) }], pad: 'y'.repeat(4_000) }));
    expect(tokens({ request: BUFFERED }, {}, [padded])).toBe(100);
    expect(tokens({ request: BUFFERED }, session, [padded])).toBe(1);
    expect(tokens({ request: BUFFERED }, { ...session, 'content-length': '4000' }, [padded])).toBe(1_000);
  });
});
