import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LatencyWindow, type RequestOutcome, toTpotMs } from './latency-window.ts';

const answered: RequestOutcome = { kind: 'answered', firstByteMs: undefined, tpotMs: undefined };
const failed: RequestOutcome = { kind: 'failed' };
const givenUp = (afterMs: number, firstByteMs?: number): RequestOutcome => ({ kind: 'given-up', afterMs, firstByteMs });

/** Requests that were answered, one after the other, 1 ms apart from `fromMs` on. */
function answer(window: LatencyWindow, ttftsMs: readonly number[], fromMs = 0, name = 'r'): void {
  ttftsMs.forEach((ttftMs, i) => {
    window.firstToken(`${name}.${i}`, ttftMs, fromMs + i);
    window.ended(`${name}.${i}`, answered, fromMs + i);
  });
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

describe('LatencyWindow', () => {
  it('knows nothing at first', () => {
    expect(new LatencyWindow().snapshot(0)).toBeUndefined();
    expect(new LatencyWindow().latest).toBeUndefined();
  });

  it.each([
    [1, { p95: 1, p99: 1 }],
    [2, { p95: 2, p99: 2 }],
    [19, { p95: 19, p99: 19 }],
    [20, { p95: 19, p99: 20 }],
    [100, { p95: 95, p99: 99 }],
    [101, { p95: 96, p99: 100 }],
    [200, { p95: 190, p99: 198 }],
    // Of more than 256 the last count: 45 to 300.
    [300, { p95: 44 + 244, p99: 44 + 254 }],
  ])('takes the tail of %i by nearest rank', (count, tail) => {
    const window = new LatencyWindow();
    // Falling, so that the order of arrival is not the order of size.
    answer(window, count > 256 ? upTo(count) : upTo(count).reverse());
    expect(window.latest).toMatchObject({ samples: Math.min(count, 256), ttftMs: tail, failureShare: 0 });
  });

  it('weighs the mean towards the last requests, and the first few evenly', () => {
    const window = new LatencyWindow();
    answer(window, [100, 200, 300]);
    expect(window.latest?.ttftMs?.mean).toBeCloseTo(200);
    answer(window, new Array<number>(100).fill(1_000), 10, 'slow');
    // 103 measurements: a plain mean would say 976; the exponential one has all but forgotten the first three.
    expect(window.latest?.ttftMs?.mean).toBeGreaterThan(995);
    answer(window, [0], 200, 'fast');
    expect(window.latest?.ttftMs?.mean).toBeCloseTo((1_000 * 15) / 16, -1);
  });

  it('leaves out the times of requests that failed, and tells their share', () => {
    const window = new LatencyWindow();
    answer(window, [500, 500, 500]);
    for (let i = 0; i < 9; i += 1) {
      window.firstToken(`f.${i}`, 1, 10 + i);
      window.ended(`f.${i}`, failed, 10 + i);
    }
    expect(window.latest).toEqual({ samples: 3, ttftMs: { mean: 500, p95: 500, p99: 500 }, tpotMs: undefined, failureShare: 0.75 });
  });

  it('has no times of an endpoint that only fails', () => {
    const window = new LatencyWindow();
    window.ended('a', failed, 5);
    expect(window.latest).toEqual({ samples: 0, ttftMs: undefined, tpotMs: undefined, failureShare: 1 });
  });

  it('believes a first piece only when its request ended well, or did not end for two seconds', () => {
    const window = new LatencyWindow();
    window.firstToken('page', 3, 1_000);
    window.firstToken('stream', 400, 1_000);
    expect(window.snapshot(1_000)).toBeUndefined();
    window.ended('page', failed, 1_200);
    expect(window.snapshot(2_999)).toMatchObject({ samples: 0, failureShare: 1 });
    expect(window.snapshot(3_000)).toMatchObject({ samples: 1, ttftMs: { mean: 400 } });
    // It breaks later: its first token came when it came.
    window.ended('stream', failed, 5_000);
    expect(window.snapshot(5_000)).toMatchObject({ samples: 1, ttftMs: { mean: 400 }, failureShare: 1 });
  });

  it('takes 4xx for neither fast nor failed', () => {
    const window = new LatencyWindow();
    answer(window, [500]);
    window.firstToken('bad', 1, 10);
    window.ended('bad', { kind: 'refused' }, 11);
    expect(window.latest).toMatchObject({ samples: 1, ttftMs: { mean: 500 }, failureShare: 0 });
  });

  it('counts a client that lost patience as what it waited at least, one that left early not at all', () => {
    const window = new LatencyWindow();
    window.ended('nothing-known', givenUp(9_000), 0);
    expect(window.latest).toBeUndefined();
    answer(window, [500]);
    window.ended('early', givenUp(100), 10);
    expect(window.latest).toMatchObject({ samples: 1 });
    window.ended('late', givenUp(1_500), 11);
    expect(window.latest).toMatchObject({ samples: 2, ttftMs: { mean: 1_000, p99: 1_500 }, failureShare: 0 });
    window.firstToken('reading', 700, 12);
    window.ended('reading', givenUp(30_000), 12);
    expect(window.latest).toMatchObject({ samples: 3, ttftMs: { p99: 1_500 } });
  });

  it('takes the first byte for the first token only where first tokens are never noticed', () => {
    const blind = new LatencyWindow();
    blind.ended('a', { kind: 'answered', firstByteMs: 40, tpotMs: undefined }, 0);
    expect(blind.latest).toMatchObject({ samples: 1, ttftMs: { mean: 40 } });
    const noticing = new LatencyWindow();
    answer(noticing, [500]);
    noticing.ended('b', { kind: 'answered', firstByteMs: 40, tpotMs: undefined }, 1);
    expect(noticing.latest).toMatchObject({ samples: 1, ttftMs: { mean: 500 } });
    // A client that reads for a while and leaves has its first byte; that its first token took so long is known only where one is noticed.
    blind.ended('c', givenUp(60_000, 60), 2);
    expect(blind.latest).toMatchObject({ samples: 2, ttftMs: { p99: 60 } });
    noticing.ended('d', givenUp(60_000, 60), 2);
    expect(noticing.latest).toMatchObject({ samples: 2, ttftMs: { p99: 60_000 } });
  });

  it('keeps times per output token apart', () => {
    const window = new LatencyWindow();
    window.firstToken('a', 100, 0);
    window.ended('a', { kind: 'answered', firstByteMs: 1, tpotMs: 12 }, 1);
    window.ended('b', { kind: 'answered', firstByteMs: 1, tpotMs: 20 }, 2);
    expect(window.latest).toMatchObject({ samples: 1, ttftMs: { mean: 100 }, tpotMs: { mean: 16, p95: 20 } });
  });

  it('forgets after five minutes, to the millisecond, and then knows nothing again', () => {
    const window = new LatencyWindow();
    answer(window, [100, 900], 1_000);
    expect(window.snapshot(300_999)).toMatchObject({ samples: 2 });
    expect(window.snapshot(301_000)).toMatchObject({ samples: 1, ttftMs: { p95: 900 } });
    window.advance(301_001);
    expect(window.latest).toBeUndefined();
    answer(window, [700], 400_000);
    expect(window.latest).toMatchObject({ samples: 1, ttftMs: { mean: 700, p99: 700 } });
  });

  it('gives the same snapshot until something changes', () => {
    const window = new LatencyWindow();
    answer(window, [100]);
    const before = window.latest;
    window.advance(1_000);
    expect(window.latest).toBe(before);
    window.ended('b', failed, 1_001);
    expect(window.latest).not.toBe(before);
  });

  it('gives a first token back once', () => {
    const window = new LatencyWindow();
    window.firstToken('a', 100, 0);
    expect(window.takeFirstToken('a')).toBe(100);
    expect(window.takeFirstToken('a')).toBeUndefined();
    window.ended('a', answered, 1);
    expect(window.snapshot(10_000)).toMatchObject({ samples: 0 });
  });

  it('counts a first token once, also when its request ends after it was believed', () => {
    const window = new LatencyWindow();
    window.firstToken('a', 100, 0);
    expect(window.snapshot(2_000)).toMatchObject({ samples: 1 });
    expect(window.firstTokenOf('a')).toBe(100);
    window.ended('a', { kind: 'answered', firstByteMs: 3, tpotMs: 10 }, 9_000);
    expect(window.latest).toMatchObject({ samples: 1, ttftMs: { mean: 100 }, tpotMs: { mean: 10 } });
    expect(window.firstTokenOf('a')).toBeUndefined();
    window.firstToken('b', 200, 9_000);
    window.snapshot(20_000);
    window.ended('b', givenUp(60_000), 69_000);
    expect(window.latest).toMatchObject({ samples: 2, ttftMs: { p99: 200 } });
  });

  it('ignores times that are none', () => {
    const window = new LatencyWindow();
    for (const ms of [Number.NaN, -1, Infinity]) window.firstToken('a', ms, 0);
    window.ended('b', { kind: 'answered', firstByteMs: Number.NaN, tpotMs: undefined }, 0);
    expect(window.snapshot(10_000)).toMatchObject({ samples: 0 });
  });

  it('holds what a plain look at the last 256 measurements of five minutes would find', () => {
    const step = fc.record({ afterMs: fc.nat({ max: 30_000 }), ttftMs: fc.nat({ max: 10_000 }), fails: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
        const window = new LatencyWindow();
        let nowMs = 0;
        const all = steps.map(({ afterMs, ttftMs, fails }, i) => {
          nowMs += afterMs;
          window.firstToken(String(i), ttftMs, nowMs);
          window.ended(String(i), fails ? failed : answered, nowMs);
          return { atMs: nowMs, ttftMs, fails };
        });
        const isFresh = ({ atMs }: { atMs: number }): boolean => atMs > nowMs - 300_000;
        const fresh = all.slice(-256).filter(isFresh);
        const good = all.filter(({ fails }) => !fails).slice(-256).filter(isFresh).map(({ ttftMs }) => ttftMs);
        const snapshot = window.snapshot(nowMs);
        expect(snapshot?.samples ?? 0).toBe(good.length);
        if (good.length > 0) {
          expect(snapshot?.ttftMs?.p99).toBe(good.sort((a, b) => a - b)[Math.ceil(0.99 * good.length) - 1]);
        }
        if (fresh.length > 0) expect(snapshot?.failureShare).toBe(fresh.filter(({ fails }) => fails).length / fresh.length);
      }),
      { numRuns: 50 },
    );
  });
});

describe('toTpotMs', () => {
  it.each([
    ['256 bytes a token', 256 * 101, 1_500, 500, 10],
    ['a response of few tokens', 256 * 7, 1_500, 500, undefined],
    ['one that came all at once', 100_000, 502, 500, undefined],
    ['one that ended before its first token was noticed', 100_000, 499, 500, undefined],
    ['no size', undefined, 1_500, 500, undefined],
    ['no end', 25_600, undefined, 500, undefined],
    ['no first token', 25_600, 1_500, undefined, undefined],
    ['a size of no meaning', Number.NaN, 1_500, 500, undefined],
  ])('%s', (_name, bytes, answerMs, ttftMs, expected) => {
    expect(toTpotMs(bytes, answerMs, ttftMs)).toBe(expected);
  });
});
