import { describe, expect, it } from 'vitest';
import { ratingOf, timesTypical, typicalMs } from './measured-latency.ts';

describe('measured latency', () => {
  it('takes the geometric mean of what is known for typical', () => {
    expect(typicalMs([100, undefined, 400])).toBeCloseTo(200);
    expect(typicalMs([undefined])).toBeUndefined();
    expect(typicalMs([])).toBeUndefined();
    expect(typicalMs([0, 1])).toBe(1);
  });

  it('takes what is unknown for typical', () => {
    expect(timesTypical(undefined, 100)).toBe(1);
    expect(timesTypical(50, undefined)).toBe(1);
    expect(timesTypical(50, 100)).toBe(0.5);
  });

  it('rates from 0 to 1, the usual a half', () => {
    expect(ratingOf(1, 0)).toBe(0.5);
    expect(ratingOf(0, 0)).toBe(1);
    expect(ratingOf(Infinity, 0)).toBe(0);
    expect(ratingOf(1, 1)).toBe(0);
  });
});
