import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AffinityKey, createAffinityHasher } from '../core/hash.ts';
import { RouteWeights } from './route-weights.ts';
import type { Route, RoutedPool, RouteTarget, WeightShift } from './routing-table.ts';
import { chooseTarget } from './target-choice.ts';
import { shiftedShare } from './weight-shift.ts';

const hash = createAffinityHasher('for-the-tests');
const sessions = Array.from({ length: 10_000 }, (_, i) => hash('tenant', `session ${i}`));

function target(pool: string, weight: number, model?: string): RouteTarget {
  return { pool: { name: pool } as RoutedPool, weight, model };
}

function routeTo(targets: readonly RouteTarget[], more: Partial<Route> = {}): Route {
  return { name: 'r', matchesModel: undefined, matchesPath: undefined, needs: new Set(), targets, ...more };
}

function poolOf(route: Route, key: AffinityKey | undefined, { draw = 0.5, wallMs = 0, weights }: { draw?: number; wallMs?: number; weights?: RouteWeights } = {}): string {
  return chooseTarget(route, { key, draw, wallMs, weights })?.target.pool.name ?? 'none';
}

/** The share of all sessions that each pool gets. */
function shares(route: Route, options: Parameters<typeof poolOf>[2] = {}): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const key of sessions) {
    const pool = poolOf(route, key, options);
    counts[pool] = (counts[pool] ?? 0) + 1;
  }
  return Object.fromEntries(Object.entries(counts).map(([pool, count]) => [pool, count / sessions.length]));
}

describe('a split by weight', () => {
  it.each([
    [{ a: 95, b: 5 }],
    [{ a: 50, b: 50 }],
    [{ a: 1, b: 2, c: 7 }],
    [{ a: 99.5, b: 0.5 }],
  ])('%j is kept within 1 % over 10 000 sessions', (weights) => {
    const total = Object.values(weights).reduce((sum, weight) => sum + weight, 0);
    const got = shares(routeTo(Object.entries(weights).map(([pool, weight]) => target(pool, weight))));
    for (const [pool, weight] of Object.entries(weights)) expect(Math.abs((got[pool] ?? 0) - weight / total)).toBeLessThan(0.01);
  });

  it('keeps a session where it is, whatever the draw and the order of the targets', () => {
    const targets = [target('a', 60), target('b', 30), target('c', 10)];
    for (const key of sessions.slice(0, 500)) {
      const home = poolOf(routeTo(targets), key, { draw: 0 });
      expect(poolOf(routeTo(targets), key, { draw: 0.99 })).toBe(home);
      expect(poolOf(routeTo(targets.toReversed()), key)).toBe(home);
    }
  });

  it('is drawn anew for each route: those in the small part of one are not those of another', () => {
    const [one, other] = ['one', 'other'].map((name) => routeTo([target('a', 90), target('b', 10)], { name }));
    const inBoth = sessions.filter((key) => poolOf(one!, key) === 'b' && poolOf(other!, key) === 'b');
    expect(inBoth.length / sessions.length).toBeLessThan(0.02);
    expect(inBoth.length).toBeGreaterThan(0);
  });

  it('of requests without a session follows the draw, and leaves a draw that is even again', () => {
    const route = routeTo([target('a', 75), target('b', 25)]);
    expect(chooseTarget(route, { key: undefined, draw: 0.375, wallMs: 0 })).toMatchObject({ target: { pool: { name: 'a' } }, draw: 0.5 });
    expect(chooseTarget(route, { key: undefined, draw: 0.875, wallMs: 0 })).toMatchObject({ target: { pool: { name: 'b' } }, draw: 0.5 });
    expect(chooseTarget(route, { key: undefined, draw: 0, wallMs: 0 })).toMatchObject({ target: { pool: { name: 'a' } }, draw: 0 });
  });

  it('never takes a target of weight 0, and nobody where all are 0', () => {
    expect(shares(routeTo([target('a', 0), target('b', 1), target('c', 0)]))).toEqual({ b: 1 });
    expect(poolOf(routeTo([target('a', 0), target('b', 0)]), sessions[0])).toBe('none');
    expect(poolOf(routeTo([target('a', 0), target('b', 0)]), undefined)).toBe('none');
    expect(poolOf(routeTo([target('a', 0)]), sessions[0])).toBe('none');
  });

  it('tells two targets of one pool apart by model, and equal ones by their number', () => {
    const route = routeTo([target('a', 1, 'large'), target('a', 1, 'small'), target('a', 1, 'small')]);
    const counts = [0, 0, 0];
    for (const key of sessions) counts[route.targets.indexOf(chooseTarget(route, { key, draw: 0, wallMs: 0 })!.target)]! += 1;
    for (const count of counts) expect(Math.abs(count / sessions.length - 1 / 3)).toBeLessThan(0.02);
  });

  it('changed moves sessions only to targets whose share grew', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 20 })), { minLength: 2, maxLength: 5 }), (pairs) => {
        fc.pre(pairs.some(([before]) => before > 0) && pairs.some(([, after]) => after > 0));
        const of = (at: 0 | 1): Route => routeTo(pairs.map((pair, i) => target(String(i), pair[at])));
        for (const key of sessions.slice(0, 200)) {
          const [from, to] = [Number(poolOf(of(0), key)), Number(poolOf(of(1), key))];
          if (from === to) continue;
          // Relative to where it was, the target has gained.
          expect(pairs[to]![1] * pairs[from]![0]).toBeGreaterThanOrEqual(pairs[to]![0] * pairs[from]![1]);
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe('a shift', () => {
  const startMs = Date.parse('2026-03-01T22:00:00Z');
  const shift: WeightShift = { from: 'blue', to: target('green', 0), startMs, durationMs: 3_600_000 };
  const route = routeTo([target('blue', 100)], { shift });

  it.each([
    [-1, 0],
    [0, 0],
    [900_000, 0.25],
    [3_599_999, 0.9999997],
    [3_600_000, 1],
    [1e12, 1],
  ])('%d ms after its start has moved %d of it', (sinceMs, share) => {
    expect(shiftedShare(shift, startMs + sinceMs)).toBeCloseTo(share, 6);
  });

  it('without a duration is done at once', () => {
    const atOnce = { ...shift, durationMs: 0 };
    expect(shiftedShare(atOnce, startMs - 1)).toBe(0);
    expect(shiftedShare(atOnce, startMs)).toBe(1);
  });

  it('goes from 0 to 100 % without moving a session twice, and is at its schedule within 1 % all the way', () => {
    const moved = new Array<boolean>(sessions.length).fill(false);
    for (let minute = -1; minute <= 61; minute += 1) {
      const wallMs = startMs + minute * 60_000;
      let count = 0;
      sessions.forEach((key, i) => {
        const isGreen = poolOf(route, key, { wallMs }) === 'green';
        if (moved[i] === true) expect(isGreen).toBe(true);
        moved[i] = isGreen;
        if (isGreen) count += 1;
      });
      expect(Math.abs(count / sessions.length - Math.min(1, Math.max(0, minute / 60)))).toBeLessThan(0.01);
    }
  });

  it('is the same on every router whose clock says the same', () => {
    const other = routeTo([target('blue', 100)], { shift: { ...shift, to: target('green', 0) } });
    for (const key of sessions.slice(0, 300)) expect(poolOf(other, key, { wallMs: startMs + 1_234_567 })).toBe(poolOf(route, key, { wallMs: startMs + 1_234_567 }));
  });

  it('of one target of several leaves the others alone', () => {
    const split = routeTo([target('blue', 80), target('canary', 20)], { shift });
    const before = sessions.filter((key) => poolOf(split, key, { wallMs: startMs - 1 }) === 'canary');
    const after = sessions.filter((key) => poolOf(split, key, { wallMs: startMs + 4e6 }) === 'canary');
    expect(after).toEqual(before);
    expect(shares(split, { wallMs: startMs + 4e6 })).toEqual({ canary: before.length / sessions.length, green: 1 - before.length / sessions.length });
  });

  it('of requests without a session follows the draw', () => {
    const half = { wallMs: startMs + 1_800_000, key: undefined };
    expect(chooseTarget(route, { ...half, draw: 0.25 })).toMatchObject({ target: { pool: { name: 'green' } }, draw: 0.5 });
    expect(chooseTarget(route, { ...half, draw: 0.75 })).toMatchObject({ target: { pool: { name: 'blue' } }, draw: 0.5 });
  });

  it('is where an operator puts it, as long as that holds', () => {
    const table = { routes: [route], needs: new Set<never>() };
    const weights = new RouteWeights(table);
    const wallMs = startMs + 1_800_000;
    expect(weights.set('r', { shiftShare: 0 })).toBeUndefined();
    expect(shares(route, { wallMs, weights })).toEqual({ blue: 1 });
    let before = sessions.filter((key) => poolOf(route, key, { wallMs, weights }) === 'green');
    for (const share of [0.1, 0.5, 1]) {
      weights.set('r', { shiftShare: share });
      const now = new Set(sessions.filter((key) => poolOf(route, key, { wallMs, weights }) === 'green'));
      expect(before.every((key) => now.has(key))).toBe(true);
      expect(Math.abs(now.size / sessions.length - share)).toBeLessThan(0.01);
      before = [...now];
    }
    weights.reset('r');
    expect(Math.abs((shares(route, { wallMs, weights })['green'] ?? 0) - 0.5)).toBeLessThan(0.01);
  });
});

describe('RouteWeights', () => {
  const route = routeTo([target('blue', 100), target('green', 0), target('two', 1, 'x'), target('two', 1, 'y')]);
  const make = (): RouteWeights => new RouteWeights({ routes: [route], needs: new Set() });

  it('replaces the weights of those named and keeps the others', () => {
    const weights = make();
    expect(weights.of('r')).toBeUndefined();
    expect(weights.set('r', { targets: [{ pool: 'green', weight: 25 }] })).toBeUndefined();
    expect(weights.set('r', { targets: [{ pool: 'two', model: 'y', weight: 0 }] })).toBeUndefined();
    expect(weights.of('r')).toEqual({ weights: [100, 25, 1, 0], shiftShare: undefined });
    expect(weights.has('r')).toBe(true);
    weights.reset('r');
    expect(weights.of('r')).toBeUndefined();
  });

  it('moves sessions only towards the target that grows', () => {
    const weights = make();
    let green = new Set<AffinityKey>();
    for (const weight of [1, 10, 100, 10_000]) {
      weights.set('r', { targets: [{ pool: 'green', weight }] });
      const now = new Set(sessions.filter((key) => poolOf(route, key, { weights }) === 'green'));
      for (const key of green) expect(now.has(key)).toBe(true);
      green = now;
    }
    expect(green.size).toBeGreaterThan(9_700);
  });

  it.each<[string, string, Parameters<RouteWeights['set']>[1]]>([
    ['no route is named q', 'q', {}],
    ['the weight of blue must be a number, 0 or more', 'r', { targets: [{ pool: 'blue', weight: -1 }] }],
    ['the weight of blue must be a number, 0 or more', 'r', { targets: [{ pool: 'blue', weight: Infinity }] }],
    ['red is no target of this route', 'r', { targets: [{ pool: 'red', weight: 1 }] }],
    ['two with model z is no target of this route', 'r', { targets: [{ pool: 'two', model: 'z', weight: 1 }] }],
    ['several targets of this route are two; name the model as well, or give them pools of their own', 'r', { targets: [{ pool: 'two', weight: 1 }] }],
    [
      'at least one target must have a weight above 0',
      'r',
      { targets: [{ pool: 'blue', weight: 0 }, { pool: 'two', model: 'x', weight: 0 }, { pool: 'two', model: 'y', weight: 0 }] },
    ],
    ['this route has no shift', 'r', { shiftShare: 1 }],
  ])('refuses: %s', (wrong, name, change) => {
    const weights = make();
    expect(weights.set(name, change)).toBe(wrong);
    expect(weights.of(name)).toBeUndefined();
  });

  it('refuses a share outside 0 to 1', () => {
    const shifting = routeTo([target('blue', 1)], { shift: { from: 'blue', to: target('green', 0), startMs: 0, durationMs: 1 } });
    const weights = new RouteWeights({ routes: [shifting], needs: new Set() });
    for (const shiftShare of [-0.1, 1.1, NaN]) expect(weights.set('r', { shiftShare })).toBe('shiftShare must be a number from 0 to 1');
  });
});
