import { describe, expect, it } from 'vitest';
import { SeededRng } from './seeded-rng.ts';

const draws = (rng: SeededRng, count: number): number[] => Array.from({ length: count }, () => rng.draw());

describe('SeededRng', () => {
  it('repeats itself for a seed and a stream, and for no other', () => {
    expect(draws(new SeededRng(7), 20)).toEqual(draws(new SeededRng(7), 20));
    expect(draws(new SeededRng(7), 20)).not.toEqual(draws(new SeededRng(8), 20));
    expect(draws(new SeededRng(7).stream('a'), 20)).not.toEqual(draws(new SeededRng(7).stream('b'), 20));
  });

  it('gives a stream that does not depend on what was drawn elsewhere', () => {
    const rng = new SeededRng(3);
    draws(rng, 5);
    expect(draws(rng.stream('x'), 5)).toEqual(draws(new SeededRng(3).stream('x'), 5));
  });

  it.each([0, 1, 2 ** 31, 2 ** 40 + 1, -5])('is even for seed %i', (seed) => {
    const all = draws(new SeededRng(seed), 20_000);
    const counts = new Array<number>(10).fill(0);
    for (const draw of all) counts[Math.floor(draw * 10)]! += 1;
    for (const count of counts) expect(Math.abs(count - 2_000)).toBeLessThan(250);
  });

  it('has the means and medians that it says', () => {
    const rng = new SeededRng(1);
    const mean = Array.from({ length: 20_000 }, () => rng.exponential(5)).reduce((a, b) => a + b) / 20_000;
    expect(mean).toBeCloseTo(5, 0);
    const sorted = Array.from({ length: 20_001 }, () => rng.logNormal(100, 1)).sort((a, b) => a - b);
    expect(sorted[10_000]! / 100).toBeGreaterThan(0.94);
    expect(sorted[10_000]! / 100).toBeLessThan(1.06);
  });
});
