import { describe, expect, it } from 'vitest';
import { Breaker, type BreakerSettings } from './breaker.ts';

const settings: BreakerSettings = {
  consecutiveFailures: 3,
  failureShare: 0.5,
  requestsMin: 10,
  windowMs: 10_000,
  backOffMs: 1_000,
  backOffMsMax: 8_000,
  trials: 2,
};
const make = (): Breaker => new Breaker(settings);

describe('a closed breaker', () => {
  it('trips on failures in a row, and a success begins the row anew', () => {
    const breaker = make();
    expect([true, true, false, true, true].map((failed, i) => breaker.ended(String(i), failed, i))).toEqual(Array(5).fill(undefined));
    expect(breaker.ended('x', true, 6)).toBe('trip');
    // Whether it may open is for the pool to say: until it does, it stays closed, and says so again.
    expect(breaker.state).toBe('closed');
    expect(breaker.ended('y', true, 7)).toBe('trip');
  });

  it('trips on three in a row where it stands out, and asks only then', () => {
    const breaker = new Breaker({ ...settings, consecutiveFailures: 5 });
    let asked = 0;
    const standsOut = (answer: boolean) => (): boolean => {
      asked += 1;
      return answer;
    };
    expect([0, 1].map((i) => breaker.ended(String(i), true, i, standsOut(true)))).toEqual([undefined, undefined]);
    expect(asked).toBe(0);
    expect(breaker.ended('2', true, 2, standsOut(false))).toBeUndefined();
    expect(breaker.ended('3', true, 3, standsOut(true))).toBe('trip');
    expect(asked).toBe(2);
    expect(breaker.recent(3)).toEqual({ requests: 4, failed: 4 });
    expect(breaker.recent(20_000)).toEqual({ requests: 0, failed: 0 });
  });

  it('trips on the share that failed, once there are requests enough', () => {
    const breaker = make();
    const pattern = [true, true, false];
    const news = Array.from({ length: 12 }, (_, i) => breaker.ended(String(i), pattern[i % 3] === true, i * 100));
    expect(news.slice(0, 9)).toEqual(Array(9).fill(undefined));
    expect(news[9]).toBe('trip');
  });

  it('forgets what lies behind the window', () => {
    const breaker = make();
    for (let i = 0; i < 9; i += 1) breaker.ended(String(i), i % 3 !== 2, i);
    for (let i = 0; i < 9; i += 1) expect(breaker.ended(`later ${i}`, i % 3 === 0, 20_000 + i)).toBeUndefined();
  });

  it('works with a clock that is below zero', () => {
    const breaker = make();
    for (let i = 0; i < 2; i += 1) expect(breaker.ended(String(i), true, -500 + i)).toBeUndefined();
    expect(breaker.ended('last', true, -400)).toBe('trip');
  });
});

describe('an open breaker', () => {
  it('waits, then takes so many trials at a time', () => {
    const breaker = make();
    breaker.open('open', 100);
    expect(breaker.verdict).toEqual({ state: 'open', untilMs: 1_100, strikes: 1 });
    expect(breaker.trialsFree).toBe(0);
    expect(breaker.tick(1_099)).toBe(false);
    expect(breaker.tick(1_100)).toBe(true);
    expect(breaker.state).toBe('half-open');
    expect(breaker.trialsFree).toBe(2);
    breaker.dispatched('a');
    expect(breaker.trialsFree).toBe(1);
    breaker.dispatched('b');
    expect(breaker.trialsFree).toBe(0);
    breaker.forgot('a');
    expect(breaker.trialsFree).toBe(1);
  });

  it('closes on so many trials that succeed, opens on one that fails; what was sent before says nothing', () => {
    const breaker = make();
    breaker.open('open', 0);
    expect(breaker.ended('earlier', true, 10)).toBeUndefined();
    breaker.tick(1_000);
    expect(breaker.ended('earlier too', true, 1_010)).toBeUndefined();
    breaker.dispatched('a');
    breaker.dispatched('b');
    expect(breaker.ended('a', false, 1_020)).toBeUndefined();
    expect(breaker.ended('b', false, 1_030)).toBe('trials-passed');
    breaker.close(1_030);
    expect(breaker.verdict).toEqual({ state: 'closed', untilMs: undefined, strikes: 1 });

    breaker.open('slow', 2_000);
    breaker.tick(4_000);
    breaker.dispatched('c');
    expect(breaker.ended('c', true, 4_010)).toBe('trial-failed');
  });

  it('waits twice as long each time, up to the longest, and time forgives', () => {
    const breaker = make();
    const waits: number[] = [];
    let nowMs = 0;
    for (let i = 0; i < 6; i += 1) {
      breaker.open('open', nowMs);
      waits.push((breaker.verdict.untilMs ?? 0) - nowMs);
      nowMs = breaker.verdict.untilMs ?? 0;
      breaker.tick(nowMs);
    }
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
    breaker.close(nowMs);
    for (let i = 1; i <= 6; i += 1) breaker.tick(nowMs + i * 8_000);
    expect(breaker.verdict.strikes).toBe(0);
    breaker.open('open', nowMs + 60_000);
    expect(breaker.verdict.untilMs).toBe(nowMs + 61_000);
  });

  it('takes the word of another router, bounded by its own settings', () => {
    const breaker = make();
    breaker.take({ state: 'open', untilMs: 1e9, strikes: 1e9 }, 0);
    expect(breaker.verdict).toEqual({ state: 'open', untilMs: 8_000, strikes: 16 });
    breaker.take({ state: 'closed', untilMs: undefined, strikes: 2 }, 10);
    expect(breaker.state).toBe('closed');
  });
});
