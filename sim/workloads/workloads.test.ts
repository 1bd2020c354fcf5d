import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SeededRng } from '../clock/seeded-rng.ts';
import { sliceWorkload, spreadArrivals } from './adjustments.ts';
import { parseAzure } from './azure.ts';
import { parseDecisionLog } from './decision-log.ts';
import { parseEnvoyAccessLog } from './envoy-access-log.ts';
import { type GeneratorName, generators, generateWorkload } from './generated.ts';
import { parseMooncake } from './mooncake.ts';
import { findTrace, readWorkload, traceFormats, tracesFolder } from './trace-source.ts';
import { type Workload, type WorkloadOutcome, wholeBlocks } from './workload.ts';

function workloadOf(outcome: WorkloadOutcome): Workload {
  if (!outcome.ok) throw new Error(outcome.message);
  return outcome.workload;
}

const lines = (...rows: object[]): string => rows.map((row) => JSON.stringify(row)).join('\n');

describe('mooncake', () => {
  it('reads times, lengths, whole blocks and sessions, in order of arrival', () => {
    const { requests, assumptions } = workloadOf(
      parseMooncake(
        't',
        lines(
          { timestamp: 3_000, input_length: 1_100, output_length: 7, hash_ids: [0, 9, 10], extra: { prompt_cache_key: 's1' } },
          { timestamp: 0, input_length: 513, output_length: 1, hash_ids: [0, 1], extra: { prompt_cache_key: 's0' } },
        ),
      ),
    );
    expect(requests.map(({ arrivalMs, promptTokens, outputTokens, blockHashes, session }) => [arrivalMs, promptTokens, outputTokens, blockHashes, session])).toEqual([
      [0, 513, 1, [0], 's0'],
      [3_000, 1_100, 7, [0, 9], 's1'],
    ]);
    expect(assumptions).toEqual([]);
  });

  it('infers sessions from chains, and takes no common system prompt for one', () => {
    const turn = (timestamp: number, ...hash_ids: number[]) => ({ timestamp, input_length: hash_ids.length * 512, output_length: 1, hash_ids });
    const { requests, assumptions } = workloadOf(parseMooncake('t', lines(turn(0, 0, 1), turn(1, 0, 2), turn(2, 0, 1, 3, 4), turn(3, 0, 2, 5), turn(4, 0, 1, 3, 4, 6))));
    const [first, second, third, fourth, fifth] = requests.map(({ session }) => session);
    expect(third).toBe(first);
    expect(fifth).toBe(first);
    expect(fourth).toBe(second);
    expect(second).not.toBe(first);
    expect(assumptions).toHaveLength(1);
  });

  it.each(['{"timestamp": 0}', 'nonsense', '{"timestamp":0,"input_length":5,"output_length":1,"hash_ids":["a"]}', '{"timestamp":0,"input_length":0,"output_length":1,"hash_ids":[]}'])(
    'refuses %s with its line',
    (row) => {
      expect(parseMooncake('trace', `\n${row}`)).toMatchObject({ ok: false, message: expect.stringContaining('trace, line 2') as string });
    },
  );
});

describe('azure', () => {
  it('reads times finer than a millisecond, and shares no blocks', () => {
    const { requests } = workloadOf(parseAzure('t', 'TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,1374,44\r\n2023-11-16 18:15:46.6810900,1024,1\r\n'));
    expect(requests.map(({ arrivalMs }) => arrivalMs)).toEqual([0, expect.closeTo(0.5, 3)]);
    expect(requests.map(({ promptTokens, outputTokens }) => [promptTokens, outputTokens])).toEqual([[1_374, 44], [1_024, 1]]);
    expect(new Set(requests.flatMap(({ blockHashes }) => blockHashes)).size).toBe(4);
  });

  it('refuses other columns and broken rows, with the line', () => {
    expect(parseAzure('t', 'a,b\n1,2')).toMatchObject({ ok: false, message: expect.stringContaining('line 1') as string });
    expect(parseAzure('t', 'TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1')).toMatchObject({ ok: false, message: expect.stringContaining('line 2') as string });
  });
});

describe('envoy-access-log', () => {
  const record = (second: number, more: object) => ({ start_time: `2026-01-01T00:00:0${second}.500Z`, response_code: 200, bytes_received: 8_192, bytes_sent: 400, path: '/v1/chat/completions?x=1', ...more });

  it('reckons lengths from bytes, and grows the prompts of a session', () => {
    const { requests, assumptions } = workloadOf(
      parseEnvoyAccessLog(
        't',
        lines(
          record(2, { session: 'a', bytes_received: 16_384 }),
          record(1, { session: 'a', model: 'm', tenant: '-' }),
          record(3, { session: null }),
          record(4, { bytes_sent: 2_200, content_type: 'text/event-stream; charset=utf-8' }),
        ),
      ),
    );
    const [first, second, alone, streamed] = requests;
    expect(first).toMatchObject({ arrivalMs: 0, promptTokens: 2_048, outputTokens: 100, session: 'a', model: 'm', tenant: undefined, path: '/v1/chat/completions' });
    expect(second).toMatchObject({ arrivalMs: 1_000, promptTokens: 4_096 });
    expect(second?.blockHashes.slice(0, 4)).toEqual(first?.blockHashes);
    expect(alone?.blockHashes.some((block) => second?.blockHashes.includes(block))).toBe(false);
    expect(streamed?.outputTokens).toBe(10);
    expect(assumptions.join()).toContain('2 of 4 requests name a session');
  });

  it('keeps sessions of two tenants apart, takes told token counts, leaves out what no model served', () => {
    const { requests, assumptions } = workloadOf(
      parseEnvoyAccessLog(
        't',
        lines(record(1, { session: 'a', tenant: 'x', prompt_tokens: 1_024, output_tokens: 3 }), record(2, { session: 'a', tenant: 'y' }), record(3, { response_code: 503 }), record(4, { bytes_received: 0 })),
      ),
    );
    expect(requests).toHaveLength(2);
    expect(requests[0]).toMatchObject({ promptTokens: 1_024, outputTokens: 3 });
    expect(requests[1]?.blockHashes[0]).not.toBe(requests[0]?.blockHashes[0]);
    expect(assumptions.join()).toContain('2 records left out');
  });

  it('refuses what is no log, and a log without sizes', () => {
    expect(parseEnvoyAccessLog('t', '[2026-01-01] "GET /"')).toMatchObject({ ok: false, message: expect.stringContaining('line 1') as string });
    expect(parseEnvoyAccessLog('t', lines({ start_time: '2026-01-01T00:00:00Z' }))).toMatchObject({ ok: false, message: expect.stringContaining('bytes_received') as string });
  });
});

describe('decision-log', () => {
  const at = (second: number): string => `2026-01-01T00:00:0${second}.000Z`;

  it('joins decisions and completions, keeps prefixes, and asks refused requests again', () => {
    const { requests } = workloadOf(
      parseDecisionLog(
        't',
        lines(
          { event: 'decision', time: at(1), lease: 'r.1', session: 'k', promptTokens: 1_030, stream: true, prefixHashes: [9_007_199_254_740_001, 5], model: 'm' },
          { event: 'completion', time: at(2), lease: 'r.1', responseBytes: 2_200 },
          { event: 'refusal', time: at(3), session: 'k', promptTokens: 1_600, prefixHashes: [9_007_199_254_740_001, 6, 7] },
          { event: 'decision', time: at(4), lease: 'r.2', reckonedTokens: 700 },
          { event: 'refusal', time: at(5) },
        ),
      ),
    );
    expect(requests.map(({ arrivalMs, promptTokens, outputTokens }) => [arrivalMs, promptTokens, outputTokens])).toEqual([
      [0, 1_030, 10],
      [2_000, 1_600, 200],
      [3_000, 700, 200],
    ]);
    expect(requests[0]?.blockHashes[0]).toBe(requests[1]?.blockHashes[0]);
    expect(requests[0]?.blockHashes[1]).not.toBe(requests[1]?.blockHashes[1]);
    expect(requests[2]?.blockHashes.some((block) => requests[0]?.blockHashes.includes(block))).toBe(false);
  });

  it('refuses other lines', () => {
    expect(parseDecisionLog('t', '{"event":1}')).toMatchObject({ ok: false, message: expect.stringContaining('line 1') as string });
  });
});

describe('readers', () => {
  it('never throw, whatever they are given', () => {
    fc.assert(
      fc.property(fc.constantFrom(...Object.values(traceFormats)), fc.oneof(fc.string(), fc.json(), fc.array(fc.jsonValue()).map((rows) => rows.map((row) => JSON.stringify(row)).join('\n'))), (read, text) => {
        expect(typeof read('t', text).ok).toBe('boolean');
      }),
    );
  });
});

describe('generated', () => {
  const names = Object.keys(generators) as GeneratorName[];

  it.each(names)('%s: repeats itself, comes in order, and its blocks fit its lengths', (name) => {
    const make = (seed: number): Workload => generateWorkload(name, { rng: new SeededRng(seed), requests: 300 });
    const { requests } = make(1);
    expect(make(1).requests).toEqual(requests);
    expect(make(2).requests).not.toEqual(requests);
    expect(requests).toHaveLength(300);
    for (const [i, { arrivalMs, promptTokens, outputTokens, blockHashes, outputBlockHashes }] of requests.entries()) {
      expect(arrivalMs).toBeGreaterThanOrEqual(requests[i - 1]?.arrivalMs ?? 0);
      expect(blockHashes).toHaveLength(wholeBlocks(promptTokens));
      expect(blockHashes.length + outputBlockHashes.length).toBe(wholeBlocks(promptTokens + outputTokens));
    }
  });

  it('lets a next turn begin with the whole turn before it', () => {
    const { requests } = generateWorkload('multi-turn', { rng: new SeededRng(3), requests: 400 });
    const last = new Map<string, (typeof requests)[number]>();
    let turns = 0;
    for (const request of requests) {
      const before = last.get(request.session ?? '');
      if (before !== undefined) {
        turns += 1;
        const text = [...before.blockHashes, ...before.outputBlockHashes];
        expect(request.blockHashes.slice(0, text.length)).toEqual(text);
      }
      last.set(request.session ?? '', request);
    }
    expect(turns).toBeGreaterThan(50);
  });

  it('has agents as they were reported: long contexts, nine tenths reused in 96 % of the turns', () => {
    const { requests } = generateWorkload('agents', { rng: new SeededRng(1), requests: 4_000 });
    const prompts = requests.map(({ promptTokens }) => promptTokens).sort((a, b) => a - b);
    expect(Math.abs(prompts[2_000]! / 195_000 - 1)).toBeLessThan(0.25);
    const last = new Map<string, number>();
    let turns = 0;
    let reusing = 0;
    for (const { session = '', promptTokens, outputTokens } of requests) {
      const before = last.get(session);
      if (before !== undefined) {
        turns += 1;
        if (before / promptTokens >= 0.9) reusing += 1;
      }
      last.set(session, promptTokens + outputTokens);
    }
    expect(reusing / turns).toBeGreaterThan(0.93);
    expect(reusing / turns).toBeLessThan(0.99);
  });

  it('spikes eight times as high, for a tenth of the time', () => {
    const { requests } = generateWorkload('spike', { rng: new SeededRng(1), requests: 8_000 });
    const endMs = requests.at(-1)!.arrivalMs;
    const between = (from: number, to: number): number => requests.filter(({ arrivalMs }) => arrivalMs >= from * endMs && arrivalMs < to * endMs).length;
    expect(between(0.4, 0.5) / between(0.2, 0.3)).toBeGreaterThan(6.5);
    expect(between(0.4, 0.5) / between(0.2, 0.3)).toBeLessThan(9.5);
    expect(between(0.6, 0.7) / between(0.2, 0.3)).toBeLessThan(1.3);
  });

  it('shares system prompts between sessions, and nothing else', () => {
    const { requests } = generateWorkload('shared-prompts', { rng: new SeededRng(1), requests: 500 });
    const firstBlocks = new Set(requests.map(({ blockHashes }) => blockHashes[0]));
    expect(firstBlocks.size).toBe(6);
    const owners = new Map<number, Set<string>>();
    for (const { session = '', blockHashes } of requests) for (const block of blockHashes.slice(32)) owners.set(block, (owners.get(block) ?? new Set()).add(session));
    expect([...owners.values()].every((sessions) => sessions.size === 1)).toBe(true);
  });
});

describe('adjustments', () => {
  const workload = (...times: number[]): Workload => ({
    name: 'w',
    assumptions: [],
    requests: times.map((arrivalMs, promptTokens) => ({ arrivalMs, promptTokens, outputTokens: 1, blockHashes: [], outputBlockHashes: [], session: undefined, model: undefined, tenant: undefined, path: '/' })),
  });

  it('cuts by time and by number, and begins at 0', () => {
    expect(sliceWorkload(workload(0, 10, 50, 60, 100), { from: 0.1, to: 0.6, requestsMax: 9 }).requests.map(({ arrivalMs }) => arrivalMs)).toEqual([0, 40]);
    expect(sliceWorkload(workload(0, 10, 100), { from: 0, to: 1, requestsMax: 2 }).requests).toHaveLength(2);
    expect(sliceWorkload(workload(0, 10, 100), { from: 0, to: 1, requestsMax: 9 }).requests).toHaveLength(3);
  });

  it('spreads a stamp over the time until the next, and keeps the order', () => {
    const spread = spreadArrivals(workload(0, 0, 0, 0, 1_000, 5_000, 5_000), new SeededRng(1)).requests;
    expect(spread.map(({ promptTokens }) => promptTokens)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    const times = spread.map(({ arrivalMs }) => arrivalMs);
    expect([...times].sort((a, b) => a - b)).toEqual(times);
    expect(new Set(times.slice(0, 4)).size).toBe(4);
    expect(times[3]).toBeLessThan(1_000);
    expect(times.slice(4)).toEqual([1_000, 5_000, 5_000]);
  });
});

describe('readWorkload', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'fairlead-traces-'));
    const mooncake = lines({ timestamp: 0, input_length: 5, output_length: 1, hash_ids: [1] });
    writeFileSync(path.join(folder, 'mine.jsonl.gz'), gzipSync(mooncake));
    writeFileSync(path.join(folder, 'plain.csv'), 'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,1\n');
    writeFileSync(path.join(folder, 'access.log'), lines({ start_time: '2026-01-01T00:00:00Z', bytes_received: 10 }));
    writeFileSync(path.join(folder, 'decisions.log'), lines({ event: 'decision', time: '2026-01-01T00:00:00Z', lease: 'a.1', promptTokens: 4 }));
    writeFileSync(path.join(folder, 'broken.jsonl.gz'), Buffer.from([0x1f, 0x8b, 1, 2, 3]));
    writeFileSync(path.join(folder, 'text.log'), 'hello\n');
    writeFileSync(path.join(folder, 'empty.csv'), 'TIMESTAMP,ContextTokens,GeneratedTokens\n');
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const read = (trace: string): WorkloadOutcome => readWorkload({ trace, format: undefined, folder, seed: 1, requestsMax: undefined });

  it.each(['mine', 'plain', 'access.log', 'decisions.log'])('finds %s and its format', (name) => {
    expect(workloadOf(read(name)).requests).toHaveLength(1);
    expect(workloadOf(read(findTrace(folder, name)!)).requests).toHaveLength(1);
  });

  it.each([
    ['nowhere', 'FAIRLEAD_TRACES'],
    ['generated:nothing', 'multi-turn'],
    ['broken', 'cannot be read'],
    ['text.log', '--format'],
    ['empty', 'no request'],
  ])('says what is wrong with %s', (name, cause) => {
    expect(read(name)).toMatchObject({ ok: false, message: expect.stringContaining(cause) as string });
  });

  it('looks where it is told, else beside the project', () => {
    expect(tracesFolder('/a/project', { FAIRLEAD_TRACES: '/elsewhere' })).toBe('/elsewhere');
    expect(tracesFolder('/a/project', {})).toBe('/a/shared/traces');
    expect(tracesFolder('/a/project', { FAIRLEAD_TRACES: '' })).toBe('/a/shared/traces');
  });
});

const publicTrace = findTrace(tracesFolder(path.resolve(import.meta.dirname, '../..')), 'mooncake-conversation');
describe.skipIf(publicTrace === undefined)('inferred sessions of the public trace (skipped where it is not there)', () => {
  it('are those that its keys tell', () => {
    const text = readWorkload({ trace: publicTrace!, format: undefined, folder: '', seed: 1, requestsMax: undefined });
    const told = workloadOf(text).requests;
    const stripped = told.map(({ arrivalMs, promptTokens, outputTokens, blockHashes }) => ({ timestamp: arrivalMs, input_length: promptTokens, output_length: outputTokens, hash_ids: blockHashes }));
    const inferred = workloadOf(parseMooncake('t', lines(...stripped))).requests;
    // Pairs of a request and the one before it in its session: told and inferred must mostly agree.
    const follows = (requests: Workload['requests']): (number | undefined)[] => {
      const last = new Map<string, number>();
      return requests.map(({ session = '' }, i) => {
        const before = last.get(session);
        last.set(session, i);
        return before;
      });
    };
    const [a, b] = [follows(told), follows(inferred)];
    const agreeing = a.filter((before, i) => before === b[i]).length;
    expect(agreeing / a.length).toBeGreaterThan(0.9);
  });
});
