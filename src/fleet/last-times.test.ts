import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { keptMax, LastTimes } from './last-times.ts';

const step = fc.oneof(
  { weight: 20, arbitrary: fc.record({ kind: fc.constant('add' as const), ms: fc.oneof(fc.nat({ max: 50 }), fc.constantFrom(-1, NaN, Infinity, 0)) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('many' as const), count: fc.constantFrom(10, keptMax, keptMax + 1, 600) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('drop' as const), behind: fc.nat({ max: 400 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('ask' as const) }) },
);

describe('LastTimes', () => {
  it('has the tail of what is kept, whenever it was asked for before', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const times = new LastTimes();
        let kept: { ms: number; atMs: number }[] = [];
        let nowMs = 0;
        const add = (ms: number): void => {
          nowMs += 1;
          times.add(ms, nowMs);
          if (ms >= 0 && ms < Infinity) kept = [...kept, { ms, atMs: nowMs }].slice(-keptMax);
        };
        for (const it of steps) {
          if (it.kind === 'add') add(it.ms);
          else if (it.kind === 'many') for (let i = 0; i < it.count; i += 1) add((i * 7) % 31);
          else if (it.kind === 'drop') {
            times.dropUntil(nowMs - it.behind);
            kept = kept.filter(({ atMs }) => atMs > nowMs - it.behind);
          } else {
            const sorted = kept.map(({ ms }) => ms).sort((a, b) => a - b);
            const rank = (percent: number): number | undefined => sorted[Math.ceil((percent * sorted.length) / 100) - 1];
            if (sorted.length === 0) expect(times.tail).toBeUndefined();
            else expect(times.tail).toMatchObject({ p95: rank(95), p99: rank(99) });
          }
          expect(times.count).toBe(kept.length);
          expect(times.oldestMs).toBe(kept[0]?.atMs ?? Infinity);
        }
      }),
    );
  });

  it('forgets its mean with the last of them', () => {
    const times = new LastTimes();
    for (let i = 0; i < 20; i += 1) times.add(1_000, i);
    times.dropUntil(19);
    times.add(10, 30);
    expect(times.tail?.mean).toBe(10);
  });
});
