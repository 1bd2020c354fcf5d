import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readAccessLogEntry } from '../../src/extproc/access-log.ts';
import { BodySendMode, type ProcessingRequest, type ProcessingResponse, toStruct } from '../../src/extproc/messages.ts';
import { decodeProcessingRequest, encodeProcessingRequest } from '../../src/extproc/proto.ts';
import { EnvoyFilterModel, type FilterModes } from '../envoy-filter-model.ts';
import { createTrial, onePool, received, type RecordedCall, type Trial, twoPools } from '../stream-under-test.ts';

const { NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED } = BodySendMode;
const anyMode = fc.constantFrom(...Object.values(BodySendMode));
const observing = twoPools.replace('name: chat', 'name: chat\n    observe: { firstToken: true }');

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** Cuts a body at the given places (fractions). */
function cut(body: Buffer, places: readonly number[]): Buffer[] {
  const at = [0, ...places.map((place) => Math.floor(place * body.length)).sort((a, b) => a - b), body.length];
  return at.slice(1).map((end, i) => body.subarray(at[i] ?? 0, end));
}

const places = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 });
const padding = fc.oneof({ weight: 4, arbitrary: fc.nat(300) }, { weight: 1, arbitrary: fc.constantFrom(62_000, 130_000) });

/** A JSON body; the keys in any order. */
const jsonBody = fc
  .record({
    model: fc.constantFrom(undefined, 'chat-large', 'embed-small', 'unknown'),
    user: fc.constantFrom(undefined, 'u-1', 'u-2'),
    prompt_cache_key: fc.constantFrom(undefined, 'k-1'),
    pad: padding.map((bytes) => 'x'.repeat(bytes)),
    order: fc.shuffledSubarray(['model', 'user', 'prompt_cache_key', 'pad'] as const, { minLength: 4 }),
  })
  .map(({ order, ...fields }) => ({
    model: fields.model,
    body: Buffer.from(JSON.stringify(Object.fromEntries(order.map((name) => [name, fields[name]])))),
  }));

const headerFacts = fc.record({
  model: fc.constantFrom(undefined, undefined, 'chat-large', 'embed-small'),
  session: fc.constantFrom(undefined, 's-1', 's-2'),
  spoofs: fc.boolean(),
  declares: fc.boolean(),
});

function headersOf({ model, session, spoofs }: { model: string | undefined; session: string | undefined; spoofs: boolean }): Record<string, string> {
  return {
    ':path': '/v1/chat/completions',
    ...(model !== undefined && { 'x-model': model }),
    ...(session !== undefined && { 'x-session-id': session }),
    ...(spoofs && { 'x-fairlead-cluster': 'elsewhere', 'x-gateway-destination-endpoint': '192.0.2.1:80' }),
  };
}

const modes: fc.Arbitrary<FilterModes> = fc.record({
  request: fc.constantFrom(NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED),
  response: fc.constantFrom(NONE, STREAMED, BUFFERED, FULL_DUPLEX_STREAMED),
  early: fc.boolean(),
  allowOverride: fc.boolean(),
  trailers: fc.boolean(),
  partialBytesMax: fc.constantFrom(10, 100, 1_000_000),
});

function leasesOf(answers: readonly ProcessingResponse[]): string[] {
  return answers.flatMap(({ dynamic_metadata: told }) => told?.fields?.['fairlead']?.structValue?.fields?.['lease']?.stringValue ?? []);
}

function expectNothingCounted(trial: Trial): void {
  expect(trial.router.requestsInFlight).toBe(0);
  for (const pool of trial.fleet.pools.values()) {
    for (const { own } of pool.endpoints) expect(own.toLoad()).toEqual({ requests: 0, promptTokens: 0, requestsWaiting: 0, uncachedTokensWaiting: 0 });
  }
}

function expectNothingNegative(trial: Trial): void {
  for (const pool of trial.fleet.pools.values()) {
    for (const { own } of pool.endpoints) for (const count of Object.values(own.toLoad())) expect(count).toBeGreaterThanOrEqual(0);
  }
}

/** Envoy's access log tells the end of each request that was told a lease, in any number of records. */
function reportEnds(trial: Trial, leases: readonly string[]): void {
  for (const lease of leases) {
    const report = readAccessLogEntry({ common_properties: { metadata: { filter_metadata: { fairlead: toStruct({ lease }) } } } });
    if (report !== undefined) trial.router.observe(report.lease, report.completion);
  }
}

describe('a request through Envoy', () => {
  it('is decided or refused, whatever the modes and wherever the body is cut; and no answer is spurious', () => {
    fc.assert(
      fc.property(modes, headerFacts, fc.option(jsonBody), places, fc.boolean(), (filterModes, facts, json, at, trailers) => {
        const trial = createTrial({ yaml: observing });
        const opened = trial.open();
        const pieces = json === null ? undefined : cut(json.body, at);
        const headers = headersOf(facts);
        if (facts.declares) headers['content-length'] = String(json?.body.length ?? 0);
        const filter = new EnvoyFilterModel(filterModes, opened);
        let fate = filter.request({ headers, pieces, trailers: trailers && (json !== null || !facts.declares) });

        const { request, early, allowOverride } = filterModes;
        if (fate.waits === true) {
          // Only a body that is never heard of is waited for: Envoy keeps trailers until the headers are answered.
          expect([request, early, trailers, pieces]).toEqual([STREAMED, true, true, undefined]);
          vi.advanceTimersByTime(100);
          fate = filter.fate();
        }
        const isAsked =
          request === NONE && early !== true && filterModes.response !== FULL_DUPLEX_STREAMED && json !== null && facts.model === undefined;
        const readsBody =
          json !== null &&
          (request === BUFFERED ||
            request === FULL_DUPLEX_STREAMED ||
            (request === STREAMED && early === true) ||
            (isAsked && allowOverride === true));
        const model = facts.model ?? (readsBody ? json.model : undefined);
        const isHeardAgain = trailers && filterModes.trailers === true;
        if (isAsked && allowOverride !== true) expect(fate.cluster ?? fate.refusedWith).toBe(isHeardAgain ? 400 : 'none');
        else if (request === BUFFERED_PARTIAL && facts.model === undefined && json !== null) {
          // Only as far as the limit went.
          if (fate.cluster === undefined) expect([400, 404]).toContain(fate.refusedWith);
          else expect(fate.cluster).toBe(json.model === 'chat-large' ? 'chat' : 'embeddings');
        } else if (model === undefined && trailers && json === null && !facts.declares && isAskedForNothing(request, filterModes)) {
          // No body phase and no trailer phase: nobody asked again after the headers.
          expect(fate.cluster ?? fate.refusedWith).toBeOneOf(['none', 400]);
        } else if (model === undefined) expect(fate).toEqual({ refusedWith: 400 });
        else if (model === 'unknown') expect(fate).toEqual({ refusedWith: 404 });
        else {
          expect(fate.cluster).toBe(model === 'chat-large' ? 'chat' : 'embeddings');
          expect(fate.endpoints).not.toContain('192.0.2.1');
          expect(fate.body?.equals(json?.body ?? Buffer.alloc(0))).toBe(true);
        }

        if (fate.cluster !== undefined && fate.cluster !== 'none') {
          expect(trial.router.requestsInFlight).toBe(1);
          const before = opened.call.answers.length;
          filter.respond([Buffer.from('a'), Buffer.alloc(70_000), Buffer.alloc(0)]);
          if (filter.responseMode === FULL_DUPLEX_STREAMED) {
            const echoed = opened.call.answers
              .slice(before)
              .flatMap((answer) => answer.response_body?.response?.body_mutation?.streamed_response ?? []);
            expect(echoed.reduce((sum, { body }) => sum + (body?.length ?? 0), 0)).toBe(70_001);
            expect(echoed.map(({ end_of_stream: end }) => end === true)).toEqual(echoed.map((_, i) => i === echoed.length - 1));
          }
        } else expect(trial.router.requestsInFlight).toBe(0);
        opened.stream.onCancelled();
        reportEnds(trial, leasesOf(opened.call.answers));
        expectNothingCounted(trial);
        expect(trial.log.filter((line) => line.startsWith('failed'))).toEqual([]);
        expect(trial.log.filter((line) => line.startsWith('closed'))).toHaveLength(1);
      }),
      { numRuns: 400 },
    );
  });
});

/** Whether a request with trailers alone is not heard of again after its headers. */
function isAskedForNothing(request: number, { early, response, trailers }: FilterModes): boolean {
  if (request === NONE) return early !== true && response !== FULL_DUPLEX_STREAMED;
  return (request === BUFFERED || request === BUFFERED_PARTIAL) && trailers !== true;
}

/** One thing that happens to a stream. */
type Event =
  | { readonly kind: 'message'; readonly message: ProcessingRequest }
  | { readonly kind: 'wait'; readonly ms: number }
  | { readonly kind: 'break' | 'mend' };

const bytes = fc.oneof(
  { weight: 3, arbitrary: fc.constant(Buffer.alloc(0)) },
  { weight: 6, arbitrary: jsonBody.map(({ body }) => body.subarray(0, 400)) },
  { weight: 3, arbitrary: fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array)) },
  { weight: 1, arbitrary: fc.constantFrom(Buffer.alloc(70_000, '{'), Buffer.alloc(62_000, ' ')) },
);
const end = fc.boolean();
const metadata = fc.option(
  fc.constantFrom<ProcessingRequest>(
    { metadata_context: { filter_metadata: { 'envoy.lb.subset_hint': toStruct({ 'x-gateway-destination-endpoint-subset': [] }) } } },
    { metadata_context: { filter_metadata: { 'envoy.lb.subset_hint': toStruct({ 'x-gateway-destination-endpoint-subset': ['10.0.0.1:8001'] }) } } },
    { metadata_context: { filter_metadata: { 'envoy.lb': toStruct({ 'x-gateway-destination-endpoint-served': '10.0.0.2:8000' }) } } },
  ),
);
const anyHeaders = headerFacts.map((facts) => ({
  headers: Object.entries(headersOf(facts)).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })),
}));
const anyMessage: fc.Arbitrary<ProcessingRequest> = fc
  .tuple(
    fc.oneof(
      {
        weight: 2,
        arbitrary: fc.record({ headers: anyHeaders, end_of_stream: end }).map((request_headers): ProcessingRequest => ({ request_headers })),
      },
      { weight: 6, arbitrary: fc.record({ body: bytes, end_of_stream: end }).map((request_body): ProcessingRequest => ({ request_body })) },
      { weight: 1, arbitrary: fc.constant<ProcessingRequest>({ request_trailers: {} }) },
      { weight: 2, arbitrary: fc.record({ end_of_stream: end }).map((response_headers): ProcessingRequest => ({ response_headers })) },
      { weight: 4, arbitrary: fc.record({ body: bytes, end_of_stream: end }).map((response_body): ProcessingRequest => ({ response_body })) },
      { weight: 1, arbitrary: fc.constant<ProcessingRequest>({ response_trailers: {} }) },
      {
        weight: 1,
        arbitrary: fc.constantFrom<ProcessingRequest>({}, { request_headers: {}, request_body: {} }, { request_body: {}, response_trailers: {} }),
      },
    ),
    metadata,
  )
  .map(([message, context]) => ({ ...message, ...context }));
const anyEvents: fc.Arbitrary<Event[]> = fc.array(
  fc.oneof(
    { weight: 16, arbitrary: anyMessage.map((message): Event => ({ kind: 'message', message })) },
    { weight: 1, arbitrary: fc.constantFrom<Event>({ kind: 'wait', ms: 99 }, { kind: 'wait', ms: 10_000 }) },
    { weight: 1, arbitrary: fc.constantFrom<Event>({ kind: 'break' }, { kind: 'mend' }) },
  ),
  { maxLength: 14 },
);
const anyStream = fc.record({
  request: anyMode,
  response: anyMode,
  early: end,
  observes: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
  // Most begin as they should, so that the fuzz gets beyond the first message.
  starts: fc.option(
    fc.record({ headers: anyHeaders, end_of_stream: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: end }) }),
    { freq: 6 },
  ),
  events: anyEvents,
  ending: fc.constantFrom('onEnd', 'onCancelled'),
});

/** What was said to a stream, and what it may therefore say. */
function expectAnswersInOrder(told: readonly ProcessingRequest[], call: RecordedCall, isDuplex: boolean, isResponseDuplex: boolean): void {
  const { answers } = call;
  const refusedAt = answers.findIndex((answer) => answer.immediate_response !== undefined);
  if (refusedAt !== -1) expect(refusedAt).toBe(answers.length - 1);
  const count = (phase: keyof ProcessingResponse & keyof ProcessingRequest): [answers: number, messages: number] => [
    answers.filter((answer) => answer[phase] !== undefined).length,
    told.filter((message) => message[phase] !== undefined).length,
  ];
  for (const phase of ['request_headers', 'request_body', 'request_trailers', 'response_headers', 'response_body', 'response_trailers'] as const) {
    if ((phase === 'request_body' && isDuplex) || (phase === 'response_body' && isResponseDuplex)) continue;
    const [answered, messages] = count(phase);
    expect(answered, phase).toBeLessThanOrEqual(messages);
  }
  // The headers' answer is the first of the request side where headers came first.
  if (told[0]?.request_headers !== undefined) {
    const first = answers.find((answer) => answer.request_headers ?? answer.request_body ?? answer.request_trailers);
    if (first !== undefined) expect(first.request_headers).toBeDefined();
    expect(count('request_headers')[0]).toBeLessThanOrEqual(1);
  }
  for (const [phase, duplex] of [
    ['request_body', isDuplex],
    ['response_body', isResponseDuplex],
  ] as const) {
    const streamed = answers.flatMap((answer) => answer[phase]?.response?.body_mutation?.streamed_response ?? []);
    if (!duplex) {
      expect(streamed).toEqual([]);
      continue;
    }
    for (const { body } of streamed) expect(body?.length ?? 0).toBeLessThanOrEqual(62_000);
    const sent: Buffer[] = [];
    let ended = false;
    for (const { [phase]: body } of told) {
      if (body === undefined || ended) continue;
      sent.push(body.body ?? Buffer.alloc(0));
      ended = body.end_of_stream === true;
    }
    const echoed = Buffer.concat(streamed.map(({ body }) => body ?? Buffer.alloc(0)));
    const whole = Buffer.concat(sent);
    expect(echoed.equals(whole.subarray(0, echoed.length))).toBe(true);
    const ends = streamed.map(({ end_of_stream: last }) => last === true);
    expect(ends.slice(0, -1)).not.toContain(true);
    // Whole, unless the stream was refused, broken, or held to its end.
    const isComplete = echoed.length === whole.length && ends.at(-1) === true;
    if (ends.at(-1) === true) expect(ended && isComplete).toBe(true);
  }
}

describe('any messages in any order', () => {
  it('never throw, answer at most once, and leave nothing counted', () => {
    fc.assert(
      fc.property(fc.constantFrom(twoPools, observing, onePool), fc.array(anyStream, { minLength: 1, maxLength: 3 }), (yaml, streams) => {
        let broken = false;
        const trial = createTrial({
          yaml,
          changePolicy: (policy) => ({
            ...policy,
            filters: [
              ...policy.filters,
              {
                name: 'broken',
                run: () => {
                  if (broken) throw new Error('injected');
                  return undefined;
                },
              },
            ],
          }),
        });
        const leases: string[] = [];
        for (const { request, response, early, observes, starts, events, ending } of streams) {
          broken = false;
          let brokeOnce = false;
          const logged = trial.log.length;
          const { stream, call } = trial.open();
          const told: ProcessingRequest[] = [];
          const configured: ProcessingRequest = observes
            ? { observability_mode: true }
            : {
                protocol_config: { request_body_mode: request, response_body_mode: response, send_body_without_waiting_for_header_response: early },
              };
          const tell = (message: ProcessingRequest): void => {
            const whole = told.length === 0 ? { ...message, ...configured } : message;
            // Of its own, since the bytes of one that was received are spoiled by the next.
            if (call.ended === undefined) told.push(decodeProcessingRequest(encodeProcessingRequest(whole)));
            stream.onMessage(received(whole));
          };
          if (starts !== null) tell({ request_headers: starts });
          for (const event of events) {
            if (event.kind === 'message') tell(event.message);
            else if (event.kind === 'wait') vi.advanceTimersByTime(event.ms);
            else broken = event.kind === 'break';
            brokeOnce ||= broken;
            expectNothingNegative(trial);
          }

          // Before anything ends the stream: headers that came have their answer, or wait for a body that is still coming.
          const isOver = call.ended !== undefined || call.answers.some((answer) => answer.immediate_response !== undefined);
          if (observes) expect(call.answers).toEqual([]);
          else if (told[0]?.request_headers !== undefined && !isOver) {
            const isAnswered = call.answers.some((answer) => answer.request_headers !== undefined);
            const isComplete = told.some(
              (message) => (message.request_headers ?? message.request_body)?.end_of_stream === true || message.request_trailers !== undefined,
            );
            if (isComplete) expect(isAnswered).toBe(true);
            if (isAnswered && request === FULL_DUPLEX_STREAMED) {
              const bodies = told.flatMap(({ request_body: body }) => body ?? []);
              const lastAt = bodies.findIndex(({ end_of_stream: last }) => last === true);
              const expected = lastAt === -1 ? bodies : bodies.slice(0, lastAt + 1);
              const streamed = call.answers.flatMap((answer) => answer.request_body?.response?.body_mutation?.streamed_response ?? []);
              expect(streamed.reduce((sum, { body }) => sum + (body?.length ?? 0), 0)).toBe(
                expected.reduce((sum, { body }) => sum + (body?.length ?? 0), 0),
              );
              expect(streamed.some(({ end_of_stream: last }) => last === true)).toBe(lastAt !== -1);
            }
          }
          expectAnswersInOrder(told, call, request === FULL_DUPLEX_STREAMED, response === FULL_DUPLEX_STREAMED);

          stream[ending]();
          stream.onCancelled();
          stream.onMessage({ request_body: {} });
          vi.advanceTimersByTime(20_000);
          expectNothingNegative(trial);
          const log = trial.log.slice(logged);
          expect(log.filter((line) => line.startsWith('closed'))).toHaveLength(1);
          expect(log.filter((line) => line.startsWith('answered')).length).toBeLessThanOrEqual(1);
          // No bug but those that were injected: a send after the end would show here as well.
          expect(log.filter((line) => line.startsWith('failed') && !(brokeOnce && line === 'failed injected'))).toEqual([]);
          leases.push(...leasesOf(call.answers));
        }
        reportEnds(trial, leases);
        trial.clock.ms += 1_000_000;
        trial.router.expire();
        expectNothingCounted(trial);
      }),
      { numRuns: 800 },
    );
  });
});
