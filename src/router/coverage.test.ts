import { describe, expect, it } from 'vitest';
import { endpointStates } from '../core/fleet-snapshot.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { findCoverage, type PoolCoverage } from './coverage.ts';
import { RouteWeights } from './route-weights.ts';
import type { Route, RoutedPool, RoutingTable } from './routing-table.ts';

const target = (name: string, weight = 1): Route['targets'][number] => ({ pool: { name } as RoutedPool, weight });
const route = (name: string, targets: Route['targets'], rest: Partial<Route> = {}): Route => ({
  name,
  matchesModel: undefined,
  matchesPath: undefined,
  targets,
  needs: new Set(),
  ...rest,
});
const tableOf = (...routes: Route[]): RoutingTable => ({ routes, needs: new Set() });

/** Pools of two endpoints; of those named nobody takes requests. */
function fleetOf(dead: readonly string[]): FleetView {
  const fleet = new FleetView(['a', 'b', 'c'].map((name) => ({ name, endpoints: [1, 2].map((i) => ({ address: `10.0.0.${i}:80`, weight: 1, labels: {}, requestsMax: undefined })) })));
  for (const name of dead) for (const endpoint of fleet.pool(name)!.endpoints) endpoint.state = 'ejected';
  return fleet;
}

const now = { wallMs: 1_000 };
const of = (name: string, coverage: readonly PoolCoverage[]): PoolCoverage => coverage.find(({ pool }) => pool === name)!;

describe('a pool', () => {
  it('covers itself while one endpoint takes requests, in whatever way', () => {
    for (const state of endpointStates) {
      const fleet = fleetOf(['a']);
      fleet.pool('a')!.endpoints[0]!.state = state;
      const takes = ['ready', 'warming', 'slow', 'half-open'].includes(state);
      expect([state, of('a', findCoverage(fleet, tableOf(route('r', [target('a')])), now))]).toMatchObject([state, { taking: takes ? 1 : 0, endpoints: 2, unserved: takes ? [] : ['r'] }]);
    }
  });

  it('is covered by the first fallback that takes requests, on every route that leads to it', () => {
    const table = tableOf(route('r', [target('a')], { fallback: [target('b'), target('c')] }), route('s', [target('a')], { fallback: [target('c')] }));
    expect(of('a', findCoverage(fleetOf(['a', 'b']), table, now))).toMatchObject({
      standIns: [
        { route: 'r', pool: 'c' },
        { route: 's', pool: 'c' },
      ],
      unserved: [],
    });
  });

  it('leaves a route unserved that has no fallback, or none that takes requests', () => {
    const table = tableOf(route('r', [target('a')], { fallback: [target('b')] }), route('s', [target('a')]));
    expect(of('a', findCoverage(fleetOf(['a']), table, now))).toMatchObject({ standIns: [{ route: 'r', pool: 'b' }], unserved: ['s'] });
    expect(of('a', findCoverage(fleetOf(['a', 'b']), table, now)).unserved).toEqual(['r', 's']);
  });

  it('is of no account where no request is sent to it first', () => {
    const table = tableOf(route('r', [target('b'), target('a', 0)], { fallback: [target('a')] }));
    expect(of('a', findCoverage(fleetOf(['a']), table, now))).toMatchObject({ standIns: [], unserved: [] });
    expect(of('c', findCoverage(fleetOf(['c']), table, now)).unserved).toEqual([]);
  });

  it('counts as a target by the weights in force and by shifts', () => {
    const shifted = route('r', [target('b'), target('a', 0)], { shift: { from: 'b', to: target('c'), startMs: 0, durationMs: 1 } });
    expect(of('c', findCoverage(fleetOf(['c']), tableOf(shifted), now)).unserved).toEqual(['r']);
    const weights = new RouteWeights(tableOf(shifted));
    weights.set('r', { targets: [{ pool: 'a', weight: 5 }] });
    expect(of('a', findCoverage(fleetOf(['a']), tableOf(shifted), { ...now, weights })).unserved).toEqual(['r']);
  });

  it('counts as a target of a shift from its beginning, and no longer once all has moved away', () => {
    const table = tableOf(route('r', [target('a')], { shift: { from: 'a', to: target('b'), startMs: 1_000, durationMs: 1_000 } }));
    const unservedAt = (wallMs: number): string[] => findCoverage(fleetOf(['a', 'b']), table, { wallMs }).flatMap(({ pool, unserved }) => (unserved.length > 0 ? [pool] : []));
    expect([1_000, 1_001, 1_999, 2_000].map(unservedAt)).toEqual([['a'], ['a', 'b'], ['a', 'b'], ['b']]);
    const weights = new RouteWeights(table);
    weights.set('r', { shiftShare: 0 });
    expect(of('b', findCoverage(fleetOf(['b']), table, { wallMs: 2_000, weights })).unserved).toEqual([]);
  });
});
