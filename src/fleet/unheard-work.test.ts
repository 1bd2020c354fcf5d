import { describe, expect, it } from 'vitest';
import { UnheardWork } from './unheard-work.ts';

describe('UnheardWork', () => {
  it('is nothing where no other router is heard of', () => {
    const work = new UnheardWork();
    for (let atMs = 0; atMs < 1_000; atMs += 10) work.sent(atMs);
    expect(work.tokens).toBe(0);
  });

  it('becomes what the others turn out to have sent at the moment of each own dispatch', () => {
    const work = new UnheardWork();
    for (let burst = 0; burst < 500; burst += 1) {
      work.sent(burst * 100);
      work.heard(3_000, burst * 100 + 1);
      work.heard(5_000, burst * 100 + 4);
    }
    expect(work.tokens).toBeGreaterThan(7_900);
    expect(work.tokens).toBeLessThanOrEqual(8_000);
  });

  it('leaves out what was heard of before, and what comes later than 5 ms', () => {
    const work = new UnheardWork();
    for (let burst = 0; burst < 100; burst += 1) {
      work.heard(9_000, burst * 100 - 1);
      work.sent(burst * 100);
      work.heard(9_000, burst * 100 + 5.1);
    }
    expect(work.tokens).toBe(0);
  });

  it('counts for each of several own dispatches what came after it', () => {
    const work = new UnheardWork();
    work.sent(0);
    work.heard(640, 2);
    work.sent(3);
    work.heard(640, 7);
    // The first heard 640 within its time, the second 640 in its own: a 64th of what is missing, twice.
    work.sent(100);
    expect(work.tokens).toBeCloseTo(10 + (640 - 10) / 64, 9);
  });

  it('falls when the bursts are over', () => {
    const work = new UnheardWork();
    for (let burst = 0; burst < 500; burst += 1) {
      work.sent(burst * 100);
      work.heard(8_000, burst * 100 + 1);
    }
    for (let i = 0; i < 500; i += 1) work.sent(100_000 + i * 100);
    expect(work.tokens).toBeLessThan(80);
  });
});
