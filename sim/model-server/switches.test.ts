import { describe, expect, it } from 'vitest';
import { parseSwitches } from './switches.ts';

describe('parseSwitches', () => {
  it('takes any part of the switches', () => {
    expect(parseSwitches({})).toEqual({ ok: true, change: {}, restart: undefined });
    const change = { mode: 'reset', failStatus: 429, failRatio: 0.5, slowFactor: 4, healthOk: false, healthHangs: true, resetAfterChunks: 0 };
    expect(parseSwitches(change)).toEqual({ ok: true, change, restart: undefined });
  });

  it('takes an order to restart, beside switches', () => {
    expect(parseSwitches({ restart: {} })).toEqual({ ok: true, change: {}, restart: { downMs: 0, loadMs: 0 } });
    expect(parseSwitches({ healthOk: true, restart: { loadMs: 3_000 } })).toEqual({ ok: true, change: { healthOk: true }, restart: { downMs: 0, loadMs: 3_000 } });
  });

  it.each([
    [{ mode: 'explode' }, 'mode: '],
    [{ failStatus: 200 }, 'failStatus: '],
    [{ failRatio: 1.1 }, 'failRatio: '],
    [{ slowFactor: 0 }, 'slowFactor: '],
    [{ healthOk: 'no' }, 'healthOk: '],
    [{ resetAfterChunks: 1.5 }, 'resetAfterChunks: '],
    [{ healthHangs: 1 }, 'healthHangs: '],
    [{ restart: { loadMs: -1 } }, 'restart.loadMs: '],
    [{ restart: { now: true } }, 'restart: '],
    [{ moed: 'ok' }, 'Unrecognized key: "moed"'],
    ['ok', 'Invalid input'],
  ])('refuses %j', (input, problem) => {
    const result = parseSwitches(input);
    expect(result).toEqual({ ok: false, problems: [expect.stringContaining(problem) as string] });
  });

  it('names all problems at once', () => {
    const result = parseSwitches({ mode: 1, failRatio: -1, extra: true });
    expect(result.ok ? [] : result.problems).toHaveLength(3);
  });
});
