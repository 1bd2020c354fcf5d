import { describe, expect, it } from 'vitest';
import { RouteWeights } from './route-weights.ts';
import type { Route, RoutedPool, RouteTarget, RoutingTable } from './routing-table.ts';

const target = (pool: string, weight: number, model?: string): RouteTarget => ({ pool: { name: pool } as RoutedPool, weight, model });
const tableOf = (targets: readonly RouteTarget[], name = 'r', more: Partial<Route> = {}): RoutingTable => ({
  routes: [{ name, matchesModel: undefined, matchesPath: undefined, targets, needs: new Set(), ...more }],
  needs: new Set(),
});
const shift = { from: 'a', to: target('b', 0), startMs: 0, durationMs: 1 };

describe('weights that operators set, when the configuration is replaced', () => {
  it('stay with their targets, wherever these stand now; new targets have their own', () => {
    const weights = new RouteWeights(tableOf([target('a', 1), target('b', 2), target('b', 3, 'm')]));
    weights.set('r', { targets: [{ pool: 'a', weight: 10 }, { pool: 'b', model: 'm', weight: 30 }] });
    expect(weights.reconfigure(tableOf([target('b', 7, 'm'), target('new', 5), target('a', 7), target('b', 7)]))).toEqual([]);
    expect(weights.of('r')).toEqual({ weights: [30, 5, 10, 2], shiftShare: undefined });
  });

  it('keep two targets that are the same apart', () => {
    const weights = new RouteWeights(tableOf([target('a', 1), target('a', 2)]));
    weights.reconfigure(tableOf([target('b', 1), target('a', 1)]));
    expect(weights.of('r')).toBeUndefined();
    expect(weights.set('r', { targets: [{ pool: 'a', weight: 0 }] })).toBeUndefined();
    expect(weights.reconfigure(tableOf([target('a', 4), target('a', 5), target('b', 9)]))).toEqual([]);
    expect(weights.of('r')?.weights).toEqual([0, 5, 1]);
  });

  it('are dropped with their route, with the last of their targets, and where nothing would be left to choose', () => {
    const dropped = (next: RoutingTable): readonly string[] => {
      const weights = new RouteWeights(tableOf([target('a', 1), target('b', 1)]));
      weights.set('r', { targets: [{ pool: 'a', weight: 0 }] });
      const names = weights.reconfigure(next);
      expect(weights.of('r')).toBeUndefined();
      return names;
    };
    expect(dropped(tableOf([target('a', 1)], 'another'))).toEqual(['r']);
    expect(dropped(tableOf([target('c', 1)]))).toEqual(['r']);
    expect(dropped(tableOf([target('a', 1)]))).toEqual(['r']);
  });

  it('keep a share of a shift as long as there is a shift', () => {
    const weights = new RouteWeights(tableOf([target('a', 1)], 'r', { shift }));
    weights.set('r', { shiftShare: 0.25 });
    weights.reconfigure(tableOf([target('a', 2)], 'r', { shift }));
    expect(weights.of('r')).toEqual({ weights: undefined, shiftShare: 0.25 });
    expect(weights.reconfigure(tableOf([target('a', 2)]))).toEqual(['r']);
    expect(weights.of('r')).toBeUndefined();
  });

  it('can be set for the routes that there are now', () => {
    const weights = new RouteWeights(tableOf([target('a', 1)]));
    weights.reconfigure(tableOf([target('a', 1)], 's'));
    expect([weights.has('r'), weights.has('s')]).toEqual([false, true]);
    expect(weights.set('r', { shiftShare: 1 })).toBe('no route is named r');
  });
});
