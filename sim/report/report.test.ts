import { describe, expect, it } from 'vitest';
import type { RequestOutcome } from '../outcomes.ts';
import type { SimulationResult } from '../simulation.ts';
import { toHtml } from './html.ts';
import { toJsonLine } from './json.ts';
import { quantile, type RunSummary, summarise } from './summary.ts';
import { formatTable } from './table.ts';

const outcome = (more: Partial<RequestOutcome>): RequestOutcome => ({
  arrivalMs: 0,
  promptTokens: 100,
  outputTokens: 11,
  session: undefined,
  address: 'a:1',
  turnedAwayBy: undefined,
  reason: 'in-turn',
  ttftMs: 10,
  durationMs: 110,
  cachedTokens: 0,
  sent: 1,
  ending: 'finished',
  ...more,
});

const result = (requests: readonly RequestOutcome[], counts: readonly number[] = [2, 2]): SimulationResult => ({
  requests,
  endpoints: counts.map((count, i) => ({ address: `${'ab'[i] ?? 'c'}:1`, weight: 1, requests: count, busyMs: 500 })),
  samples: [{ atMs: 0, inFlight: [1, 2] }, { atMs: 1_000, inFlight: [0, 3] }],
  durationMs: 2_000,
  messages: 0,
  violations: [],
  changes: [],
  violationCount: 0,
  explanation: undefined,
});

const options = { policy: 'sticky', speed: 2, routers: 3, objectiveMs: 25 };
const sum = (requests: readonly RequestOutcome[], counts?: readonly number[]): RunSummary => summarise(result(requests, counts), options);

describe('summarise', () => {
  it('counts reuse and times over what was served only', () => {
    const { reuse, ttftMs, tpotMs, requests, withinObjective, goodputPerSecond, unfinished, reasons } = sum([
      outcome({ ttftMs: 10, cachedTokens: 50 }),
      outcome({ ttftMs: 30, durationMs: 130, promptTokens: 300, cachedTokens: 150 }),
      outcome({ ttftMs: undefined, durationMs: undefined, promptTokens: 10_000, ending: 'refused: overloaded', reason: undefined, address: undefined }),
    ]);
    expect(reuse).toBe(0.5);
    expect(ttftMs).toEqual({ mean: 20, p50: 20, p90: 28, p99: expect.closeTo(29.8, 9) as number });
    expect(tpotMs).toBe(10);
    expect(requests).toBe(3);
    expect(withinObjective).toBeCloseTo(1 / 3, 9);
    expect(goodputPerSecond).toBe(0.5);
    expect([...unfinished]).toEqual([['refused: overloaded', 1]]);
    expect([...reasons]).toEqual([['in-turn', 2]]);
  });

  it('tells imbalance per weight: standard deviation over mean', () => {
    expect(sum([], [3, 3]).loadCv).toBe(0);
    expect(sum([], [1, 3]).loadCv).toBe(0.5);
    const { endpoints, ...rest } = result([], [1, 3]);
    expect(summarise({ ...rest, endpoints: endpoints.map((endpoint, i) => ({ ...endpoint, weight: i === 0 ? 1 : 3 })) }, options).loadCv).toBe(0);
  });

  it('tells how many further turns stayed', () => {
    const turn = (session: string, address: string): RequestOutcome => outcome({ session, address });
    expect(sum([turn('s', 'a'), turn('s', 'a'), turn('t', 'a'), turn('s', 'b'), turn('t', 'a')]).sameEndpoint).toBeCloseTo(2 / 3, 9);
    expect(sum([outcome({})]).sameEndpoint).toBeUndefined();
  });

  it('sums up nothing as nothing', () => {
    expect(sum([])).toMatchObject({ requests: 0, reuse: 0, ttftMs: { mean: 0, p50: 0, p90: 0, p99: 0 }, goodputPerSecond: 0 });
    expect(quantile([], 0.5)).toBe(0);
  });
});

describe('the outputs', () => {
  const many = Array.from({ length: 50 }, (_, i) => outcome({ arrivalMs: i * 100, ttftMs: 5 + i * 7, cachedTokens: i }));

  it('are, in JSON, the fields that scripts rely on, and no other', () => {
    expect(JSON.parse(toJsonLine(sum(many)))).toEqual({
      policy: 'sticky',
      endpoints: 2,
      speed: 2,
      routers: 3,
      requests: 50,
      reuse: 0.245,
      ttftMs: { mean: 176.5, p50: 176.5, p90: expect.closeTo(313.7, 9) as number, p99: expect.closeTo(344.57, 9) as number },
      loadCv: 0,
    });
    expect(Object.keys(JSON.parse(toJsonLine(sum(many))) as object)).toEqual(['policy', 'endpoints', 'speed', 'routers', 'requests', 'reuse', 'ttftMs', 'loadCv']);
  });

  it('compare policies with the first in the table', () => {
    const table = formatTable([{ ...sum(many), policy: 'round-robin' }, { ...sum(many.map((request) => ({ ...request, ttftMs: (request.ttftMs ?? 0) / 2 }))), policy: 'sticky' }], 25);
    const [head, first, second] = table.split('\n');
    expect(head).toContain('of round-robin');
    expect(first).toContain('1.000');
    expect(second).toContain('0.500');
    expect(formatTable([sum([outcome({ ending: 'endpoint-failed' })])], 25)).toContain('1 endpoint-failed');
  });

  it('are, as a page, whole in themselves and safe against what names hold', () => {
    const html = toHtml({
      title: 'of <script>alert(1)</script>',
      settings: [['trace', '"a" & b']],
      assumptions: ['<b>'],
      objectiveMs: 25,
      runs: ['round-robin', 'sticky'].map((policy) => ({ summary: { ...sum(many), policy }, requests: many, samples: result([]).samples, addresses: ['a:1', 'b:1'] })),
    });
    expect(html).not.toMatch(/<script|src=|href=|url\(|@import/);
    expect(html).toContain('&#60;script&#62;');
    expect(html).not.toContain('NaN');
    expect(html).not.toContain('Infinity');
    // Distribution, reuse, load for each policy, reasons.
    expect(html.match(/<svg /g)).toHaveLength(5);
    expect(html.match(/<svg /g)?.length).toBe(html.match(/<\/svg>/g)?.length);
    expect(html).toContain('@media print');
    expect(html).toContain('in-turn');
  });

  it('are a page also where nothing was served', () => {
    const html = toHtml({ title: 't', settings: [], assumptions: [], objectiveMs: 25, runs: [{ summary: sum([]), requests: [], samples: [], addresses: ['a:1'] }] });
    expect(html).not.toContain('NaN');
    expect(html).not.toContain('Infinity');
  });
});
