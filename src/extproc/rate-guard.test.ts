import { describe, expect, it } from 'vitest';
import { RateGuard, unansweredResetRate } from './rate-guard.ts';

describe('a connection', () => {
  it('may reset 5000 calls at once, and no more', () => {
    const guard = new RateGuard(unansweredResetRate, 1_000);
    for (let i = 0; i < 5_000; i += 1) expect(guard.admits(1_000)).toBe(true);
    expect(guard.admits(1_000)).toBe(false);
  });

  it('may reset 500 a second for ever', () => {
    const guard = new RateGuard(unansweredResetRate, 0);
    for (let i = 0; i < 20_000; i += 1) expect(guard.admits(2 * i)).toBe(true);
  });

  it('gains nothing by waiting beyond its burst', () => {
    const guard = new RateGuard(unansweredResetRate, 0);
    for (let i = 0; i < 5_000; i += 1) expect(guard.admits(3_600_000)).toBe(true);
    expect(guard.admits(3_600_000)).toBe(false);
  });
});
