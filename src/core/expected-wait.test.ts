import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expectedTtftMs, levelAfter, tokensPerMsDefault, waitingTokens } from './expected-wait.ts';
import { type EndpointSnapshot, idleEndpoint } from './fleet-snapshot.ts';

const endpoint = (changes: Partial<EndpointSnapshot>): EndpointSnapshot => ({ ...idleEndpoint('10.0.0.1:80'), ...changes });

describe('waitingTokens', () => {
  it.each<[string, Partial<EndpointSnapshot>, number, number]>([
    ['nothing, where nobody waits', {}, 1_000, 0],
    ['all of it, the moment the head begins', { uncachedTokensWaiting: 1_000, headTokens: 600, headSinceMs: 500 }, 500, 1_000],
    ['less what was done since then', { uncachedTokensWaiting: 1_000, headTokens: 600, headSinceMs: 500 }, 510, 900],
    ['never less by more than nine tenths of the head', { uncachedTokensWaiting: 1_000, headTokens: 600, headSinceMs: 500 }, 1e9, 460],
    ['less by more where the endpoint is faster', { uncachedTokensWaiting: 1_000, headTokens: 600, headSinceMs: 500, weight: 3 }, 510, 700],
    ['by nothing where the clock runs behind the one that told', { uncachedTokensWaiting: 1_000, headTokens: 600, headSinceMs: 500 }, 400, 1_000],
    ['all, while the size of the head is unknown', { uncachedTokensWaiting: 1_000, headTokens: 0, headSinceMs: 0 }, 1e6, 1_000],
    ['never below nothing, where line and load disagree', { uncachedTokensWaiting: 100, headTokens: 600, headSinceMs: 0 }, 1e6, 0],
  ])('is %s', (_case, changes, nowMs, tokens) => {
    expect(waitingTokens(endpoint(changes), 10, nowMs)).toBeCloseTo(tokens, 9);
  });

  it('falls with time, to a tenth of the head and what is behind it, and grows with what waits', () => {
    const sizes = fc.record({ head: fc.nat({ max: 100_000 }), behind: fc.nat({ max: 1_000_000 }), rate: fc.double({ min: 0.1, max: 200, noNaN: true }), ms: fc.nat({ max: 100_000 }), laterMs: fc.nat({ max: 100_000 }) });
    fc.assert(
      fc.property(sizes, ({ head, behind, rate, ms, laterMs }) => {
        const waits = endpoint({ requestsWaiting: 2, uncachedTokensWaiting: head + behind, headTokens: head, headSinceMs: 0 });
        const now = waitingTokens(waits, rate, ms);
        expect(now).toBeLessThanOrEqual(head + behind);
        expect(waitingTokens(waits, rate, ms + laterMs)).toBeLessThanOrEqual(now);
        expect(waitingTokens(waits, rate, ms + laterMs)).toBeGreaterThanOrEqual(behind + 0.1 * head - 1e-6);
        expect(waitingTokens({ ...waits, uncachedTokensWaiting: head + behind + 1 }, rate, ms)).toBeGreaterThan(now);
      }),
    );
  });
});

describe('expectedTtftMs', () => {
  it('is the time for what waits and for the prompt itself, at the speed of the endpoint', () => {
    const busy = { uncachedTokensWaiting: 4_500, headTokens: 4_500, headSinceMs: 1_000 };
    expect(expectedTtftMs(endpoint({}), 900, 45, 0)).toBeCloseTo(20, 9);
    expect(expectedTtftMs(endpoint(busy), 900, 45, 1_000)).toBeCloseTo(120, 9);
    expect(expectedTtftMs(endpoint(busy), 900, 45, 1_040)).toBeCloseTo(80, 9);
    expect(expectedTtftMs(endpoint({ ...busy, weight: 2 }), 900, 45, 1_000)).toBeCloseTo(60, 9);
    expect(tokensPerMsDefault).toBe(45);
  });
});

describe('levelAfter', () => {
  const level = (tokens: number, ...columns: readonly (readonly [waiting: number, weight: number])[]): number =>
    levelAfter(
      tokens,
      { at: Int32Array.from(columns, (_, i) => i), columns: { weights: Float64Array.from(columns, ([, weight]) => weight) } },
      columns.map(([waiting]) => waiting),
    );

  it.each<[string, number, readonly (readonly [number, number])[], number]>([
    ['one endpoint takes all', 100, [[50, 1]], 150],
    ['equal ones share', 100, [[50, 1], [50, 1]], 100],
    ['the least loaded takes all while it stays below the others', 100, [[0, 1], [200, 1], [900, 1]], 100],
    ['then the next takes part', 500, [[0, 1], [300, 1], [600, 1]], 400],
    ['then all', 900, [[0, 1], [300, 1], [600, 1]], 600],
    ['by weight', 400, [[0, 3], [100, 1]], 125],
    ['nothing poured: as high as the lowest', 0, [[700, 1], [300, 2]], 150],
  ])('%s', (_case, tokens, columns, height) => {
    expect(level(tokens, ...columns)).toBeCloseTo(height, 9);
    expect(level(tokens, ...[...columns].reverse())).toBeCloseTo(height, 9);
  });

  it('is where what was poured has just gone in', () => {
    const columns = fc.array(fc.tuple(fc.nat({ max: 100_000 }), fc.constantFrom(0.5, 1, 3)), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(columns, fc.integer({ min: 1, max: 1_000_000 }), (all, tokens) => {
        const height = level(tokens, ...all);
        const taken = all.reduce((sum, [waiting, weight]) => sum + Math.max(0, height * weight - waiting), 0);
        expect(taken).toBeCloseTo(tokens, 3);
      }),
    );
  });
});
