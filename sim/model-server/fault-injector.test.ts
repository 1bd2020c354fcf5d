import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FaultInjector } from './fault-injector.ts';

const outcomes = (faults: FaultInjector, count: number): unknown[] => Array.from({ length: count }, () => faults.next());

describe('FaultInjector', () => {
  it('does nothing by default', () => {
    expect(outcomes(new FaultInjector(), 3)).toEqual([undefined, undefined, undefined]);
    expect(new FaultInjector().cutsBefore(100, 101)).toBe(false);
  });

  it('fails exactly the share it is told', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 100 }), (percent) => {
        const faults = new FaultInjector({ failRatio: percent / 100 });
        expect(outcomes(faults, 100).filter((outcome) => outcome !== undefined)).toHaveLength(percent);
      }),
    );
  });

  it('starts counting anew when the share changes', () => {
    const faults = new FaultInjector({ failRatio: 0.5 });
    expect(faults.next()).toBeUndefined();
    faults.change({ failRatio: 0.5, failStatus: 500 });
    expect(outcomes(faults, 2)).toEqual([undefined, expect.objectContaining({ status: 500 })]);
  });

  it('fails or hangs every request in those modes, and goes back', () => {
    const faults = new FaultInjector({ mode: 'fail', failStatus: 418 });
    expect(outcomes(faults, 2)).toEqual([expect.objectContaining({ status: 418 }), expect.objectContaining({ status: 418 })]);
    faults.change({ mode: 'hang' });
    expect(outcomes(faults, 2)).toEqual(['hang', 'hang']);
    faults.change({ mode: 'ok' });
    expect(faults.next()).toBeUndefined();
  });

  it('cuts an answer after the chunks it is told, a shorter one before its last', () => {
    const faults = new FaultInjector({ mode: 'reset', resetAfterChunks: 2 });
    expect([0, 1, 2].map((index) => faults.cutsBefore(index, 10))).toEqual([false, false, true]);
    expect([0, 1].map((index) => faults.cutsBefore(index, 2))).toEqual([false, true]);
    expect(faults.cutsBefore(0, 1)).toBe(true);
  });
});
