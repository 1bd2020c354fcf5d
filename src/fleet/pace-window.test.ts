import { describe, expect, it } from 'vitest';
import { PaceWindow } from './pace-window.ts';

describe('the pace', () => {
  it('is what was observed against what was expected, from so many samples on', () => {
    const window = new PaceWindow();
    for (let i = 0; i < 7; i += 1) window.add(300, 100, i);
    expect(window.pace(8, 7)).toBeUndefined();
    window.add(300, 100, 8);
    expect(window.pace(8, 8)).toBeCloseTo(3);
  });

  it('follows a change within some samples', () => {
    const window = new PaceWindow();
    for (let i = 0; i < 50; i += 1) window.add(100, 100, i);
    for (let i = 0; i < 16; i += 1) window.add(1_000, 100, 50 + i);
    expect(window.pace(8, 66)).toBeGreaterThan(7);
  });

  it('knows nothing after a while, and begins anew', () => {
    const window = new PaceWindow();
    for (let i = 0; i < 20; i += 1) window.add(1_000, 100, i);
    expect(window.pace(8, 70_000)).toBeUndefined();
    for (let i = 0; i < 8; i += 1) window.add(100, 100, 70_000 + i);
    expect(window.pace(8, 70_010)).toBeCloseTo(1);
  });

  it('takes no nonsense', () => {
    const window = new PaceWindow();
    for (const [observed, expected] of [[Number.NaN, 1], [1, 0], [-1, 1], [1, Number.NaN]] as const) window.add(observed, expected, 0);
    expect(window.pace(0, 0)).toBeUndefined();
  });
});
