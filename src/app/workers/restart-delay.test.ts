import { describe, expect, it } from 'vitest';
import { RestartDelay } from './restart-delay.ts';

describe('the wait before a worker is replaced', () => {
  it('doubles up to its bound while workers end soon, and is short again after one that served for long', () => {
    const delay = new RestartDelay();
    const soon = Array.from({ length: 9 }, () => delay.after(59_999));
    expect(soon).toEqual([100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
    expect([delay.after(60_000), delay.after(0)]).toEqual([100, 200]);
  });
});
