import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readAccessLogEntry } from '../../src/extproc/access-log.ts';
import { BodySendMode, toStruct } from '../../src/extproc/messages.ts';
import { EnvoyFilterModel, type Fate, type FilterModes, type ModelRequest } from '../envoy-filter-model.ts';
import { createTrial, type Trial } from '../stream-under-test.ts';

const { NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED } = BodySendMode;

// What the header marks, and what asks for it by name, goes to `small`, which serves another model; so does what `big` cannot take.
const yaml = `
affinity: { secret: for-the-tests }
pools:
  - { name: big, policy: { preset: session-affinity }, observe: { firstToken: true }, endpoints: [{ address: '10.0.0.1:80' }] }
  - { name: small, policy: { preset: session-affinity }, endpoints: [{ address: '10.0.0.2:80' }] }
routes:
  - { match: { headers: { x-tier: small } }, targets: [{ pool: small, model: small }] }
  - { match: { model: asks-for-small }, targets: [{ pool: small, model: small }] }
  - { match: { model: short, promptTokens: { max: 20 } }, targets: [{ pool: small, model: small }] }
  - { targets: [{ pool: big }], fallback: [{ pool: small, model: small }] }
`;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const modes: fc.Arbitrary<FilterModes> = fc.record({
  request: fc.constantFrom(NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED),
  response: fc.constantFrom(NONE, STREAMED, FULL_DUPLEX_STREAMED),
  early: fc.boolean(),
  allowOverride: fc.boolean(),
  trailers: fc.boolean(),
  partialBytesMax: fc.constantFrom(30, 1_000_000),
});

const body = fc
  .record({
    model: fc.constantFrom('"asks-for-small"', '"short"', '"other"', '"small"', '"o\\u0074her"', '7', undefined),
    again: fc.constantFrom(undefined, undefined, undefined, undefined, '"other"'),
    pad: fc.constantFrom(0, 30, 300, 70_000),
    padFirst: fc.boolean(),
    breaks: fc.constantFrom(false, false, false, false, true),
  })
  .map(({ model, again: named, pad, padFirst, breaks }) => {
    const again = model === undefined ? undefined : named;
    const padding = `"messages":[{"model":"inner","content":"${'é'.repeat(pad)}"}]`;
    const fields = [model === undefined ? [] : [`"model": ${model}`], [padding]];
    if (padFirst) fields.reverse();
    const all = [...fields.flat(), ...(again === undefined ? [] : [`"model":${again}`])];
    const text = `{${all.join(', ')}${breaks ? '' : '}'}`;
    const isSound = model !== undefined && model !== '7' && again === undefined && !breaks;
    const rewritten = model === undefined ? text : text.replace(`"model": ${model}`, '"model": "small"');
    return { bytes: Buffer.from(text), isSound, isCut: breaks, asSmall: Buffer.from(rewritten) };
  });

const places = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 });

function cut(bytes: Buffer, at: readonly number[]): Buffer[] {
  const ends = [0, ...at.map((place) => Math.floor(place * bytes.length)).sort((a, b) => a - b), bytes.length];
  return ends.slice(1).map((end, i) => bytes.subarray(ends[i] ?? 0, end));
}

function expectNothingCounted(trial: Trial): void {
  expect(trial.router.requestsInFlight).toBe(0);
  for (const pool of trial.fleet.pools.values()) {
    for (const { own } of pool.endpoints) expect(Object.values(own.toLoad()).every((count) => count === 0)).toBe(true);
  }
}

/** Sends one request through a filter; whatever became of it, it ends, and nothing stays counted. */
function send(filterModes: FilterModes, request: ModelRequest, bigIsReady: boolean): { fate: Fate; log: readonly string[] } {
  const trial = createTrial({ yaml });
  if (!bigIsReady) trial.fleet.pool('big')?.endpoints[0]?.setState('not-ready', 0);
  const opened = trial.open();
  const filter = new EnvoyFilterModel(filterModes, opened);
  let fate = filter.request(request);
  if (fate.waits === true) {
    vi.advanceTimersByTime(10_000);
    fate = filter.fate();
  }
  if (fate.cluster !== undefined && fate.cluster !== 'none') filter.respond([Buffer.from('a'), Buffer.from('b')]);
  opened.stream.onCancelled();
  for (const { dynamic_metadata: told } of opened.call.answers) {
    const lease = told?.fields?.['fairlead']?.structValue?.fields?.['lease']?.stringValue;
    if (lease === undefined) continue;
    const report = readAccessLogEntry({ common_properties: { metadata: { filter_metadata: { fairlead: toStruct({ lease }) } } } });
    if (report !== undefined) trial.router.observe(report.lease, report.completion);
  }
  expectNothingCounted(trial);
  expect(trial.log.filter((line) => line.startsWith('failed'))).toEqual([]);
  expect(trial.log.filter((line) => line.startsWith('decided')).length).toBeLessThanOrEqual(1);
  return { fate, log: trial.log };
}

describe('a request whose model may be rewritten', () => {
  it('never reaches a pool under a model that the pool does not serve, and is changed in nothing else', () => {
    fc.assert(
      fc.property(
        modes,
        body,
        places,
        fc.record({ tier: fc.boolean(), model: fc.constantFrom(undefined, 'm', 'asks-for-small'), session: fc.boolean(), declares: fc.boolean(), compressed: fc.constantFrom(false, false, false, true), trailers: fc.boolean() }),
        fc.boolean(),
        (filterModes, { bytes, isSound, isCut, asSmall }, at, facts, bigIsReady) => {
          const headers: Record<string, string> = {
            ':path': '/v1/chat/completions',
            ...(facts.tier && { 'x-tier': 'small' }),
            ...(facts.model !== undefined && { 'x-model': facts.model }),
            ...(facts.session && { 'x-session-id': 's' }),
            ...(facts.declares && { 'content-length': String(bytes.length) }),
            ...(facts.compressed && { 'content-encoding': 'gzip' }),
          };
          const { fate } = send(filterModes, { headers, pieces: cut(bytes, at), trailers: facts.trailers }, bigIsReady);
          // Then nobody says that the body is over: one that stops short goes on as the client cut it, and the model server will not take it.
          const isEndUntold = filterModes.request === STREAMED && facts.trailers && filterModes.trailers !== true;
          if (fate.cluster === 'small' && isCut && isEndUntold) {
            expect(fate.body?.equals(asSmall) === true || fate.body?.equals(bytes)).toBe(true);
          } else if (fate.cluster === 'small') {
            expect(isSound && !facts.compressed).toBe(true);
            expect(fate.body?.toString()).toBe(asSmall.toString());
          } else if (fate.cluster === 'big') {
            expect(facts.tier || !bigIsReady).toBe(false);
            expect(fate.body?.equals(bytes)).toBe(true);
          }
          expect(fate.waits).toBeUndefined();

          // Where the whole body is shown, a sound one is never turned away.
          const { request, response, early, allowOverride, partialBytesMax = 0 } = filterModes;
          const isShown =
            request === NONE
              ? allowOverride === true && early !== true && response !== FULL_DUPLEX_STREAMED
              : request !== BUFFERED_PARTIAL || (bytes.length <= partialBytesMax && !facts.trailers);
          if (facts.tier && isSound && isShown && !facts.compressed) expect(fate.cluster).toBe('small');
        },
      ),
      { numRuns: 500 },
    );
  });

  it('without a body goes on as it is', () => {
    fc.assert(
      fc.property(modes, fc.boolean(), (filterModes, trailers) => {
        const headers = { ':path': '/v1/chat/completions', 'x-tier': 'small', 'x-model': 'm', 'x-session-id': 's', ...(!trailers && { 'content-length': '0' }) };
        const { fate } = send(filterModes, { headers, pieces: undefined, trailers }, true);
        // Trailers without a body and without a length look like a body to come; in NONE that is asked for, and nobody asks again.
        if (trailers && filterModes.request === NONE) expect(fate.cluster ?? fate.refusedWith ?? fate.failed).toBeOneOf(['small', 'none', 503, 'invalid-argument']);
        else expect(fate.cluster).toBe('small');
      }),
      { numRuns: 100 },
    );
  });
});
