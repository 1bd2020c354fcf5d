import { describe, expect, it } from 'vitest';
import { RequestDuration } from './request-duration.ts';

function learned(...durationsMs: number[]): RequestDuration {
  const duration = new RequestDuration();
  for (const durationMs of durationsMs) duration.learn(durationMs);
  return duration;
}

describe('RequestDuration', () => {
  it('knows nothing at first', () => {
    expect(new RequestDuration().known).toBe(false);
    expect(new RequestDuration().longMs).toBe(60_000);
  });

  it('takes the first as the mean, with half of it as deviation', () => {
    const duration = learned(20_000);
    expect(duration.known).toBe(true);
    expect(duration.longMs).toBe(20_000 + 16 * 10_000);
  });

  it('follows RFC 6298: deviation by 1/4 before mean by 1/8', () => {
    // deviation 10 000 + (|36 000 − 20 000| − 10 000)/4 = 11 500; mean 20 000 + 16 000/8 = 22 000
    expect(learned(20_000, 36_000).longMs).toBe(22_000 + 16 * 11_500);
  });

  it('is at least a minute, however short requests are', () => {
    expect(learned(...new Array<number>(100).fill(50)).longMs).toBe(60_000);
  });

  it('settles near the mean when all take the same', () => {
    expect(learned(...new Array<number>(200).fill(90_000)).longMs).toBeCloseTo(90_000, 0);
  });

  it('is exceeded by hardly any request of a long-tailed kind', () => {
    // Lognormal around 20 s with σ = 1, drawn by a fixed generator (Park & Miller).
    let state = 12_345;
    const draw = (): number => {
      state = (state * 48_271) % 2_147_483_647;
      return state / 2_147_483_647;
    };
    const duration = new RequestDuration();
    let exceeded = 0;
    for (let i = 0; i < 5_000; i += 1) {
      const normal = Math.sqrt(-2 * Math.log(draw())) * Math.cos(2 * Math.PI * draw());
      const durationMs = 20_000 * Math.exp(normal);
      if (i > 100 && durationMs > duration.longMs) exceeded += 1;
      duration.learn(durationMs);
    }
    // Mean + 4 deviations, as TCP does it, would be exceeded by one in twenty.
    expect(exceeded / 4_900).toBeLessThan(0.005);
  });
});
