import { beforeEach, describe, expect, it } from 'vitest';
import { LateSteps } from './late-steps.ts';

let late: LateSteps;
beforeEach(() => {
  late = new LateSteps();
});
const counts = (nowMs: number): number[] => [late.steps(nowMs), late.requests(nowMs)];

describe('late steps', () => {
  it('are counted in a row, with how it was before the first of them', () => {
    late.late(1.5, 1_000);
    late.late(9, 1_600);
    expect(counts(1_600)).toEqual([2, 2]);
    expect(late.usualPace).toBe(1.5);
    late.clear();
    expect(counts(1_700)).toEqual([0, 0]);
    expect(late.usualPace).toBeUndefined();
  });

  it('have several requests each: first tokens at the same moment are of one step', () => {
    expect(late.isOfLast(1_000, true)).toBe(false);
    late.late(1, 1_000);
    expect(late.isOfLast(1_030, true)).toBe(true);
    // One that came just before the step's end did not wait for it.
    expect(late.isOfLast(1_040, false)).toBe(true);
    expect(late.isOfLast(1_051, true)).toBe(false);
    expect(counts(1_060)).toEqual([1, 2]);
  });

  it('are forgotten in time', () => {
    late.late(1, 1_000);
    expect(counts(11_000)).toEqual([1, 1]);
    expect(counts(11_001)).toEqual([0, 0]);
    late.late(3, 20_000);
    expect(counts(20_000)).toEqual([1, 1]);
    expect(late.usualPace).toBe(3);
  });
});
