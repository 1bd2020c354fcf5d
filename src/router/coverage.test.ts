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

const of = (name: string, coverage: readonly PoolCoverage[]): PoolCoverage => coverage.find(({ pool }) => pool === name)!;

describe('a pool', () => {
  it('covers itself while one endpoint takes requests, in whatever way', () => {
    for (const state of endpointStates) {
      const fleet = fleetOf(['a']);
      fleet.pool('a')!.endpoints[0]!.state = state;
      const takes = ['ready', 'warming', 'slow', 'half-open'].includes(state);
      expect([state, of('a', findCoverage(fleet, tableOf(route('r', [target('a')]))))]).toMatchObject([state, { taking: takes ? 1 : 0, endpoints: 2, unserved: takes ? [] : ['r'] }]);
    }
  });

  it('is covered by the first fallback that takes requests, on every route that leads to it', () => {
    const table = tableOf(route('r', [target('a')], { fallback: [target('b'), target('c')] }), route('s', [target('a')], { fallback: [target('c')] }));
    expect(of('a', findCoverage(fleetOf(['a', 'b']), table))).toMatchObject({
      standIns: [
        { route: 'r', pool: 'c' },
        { route: 's', pool: 'c' },
      ],
      unserved: [],
    });
  });

  it('leaves a route unserved that has no fallback, or none that takes requests', () => {
    const table = tableOf(route('r', [target('a')], { fallback: [target('b')] }), route('s', [target('a')]));
    expect(of('a', findCoverage(fleetOf(['a']), table))).toMatchObject({ standIns: [{ route: 'r', pool: 'b' }], unserved: ['s'] });
    expect(of('a', findCoverage(fleetOf(['a', 'b']), table)).unserved).toEqual(['r', 's']);
  });

  it('is of no account where no request is sent to it first', () => {
    const table = tableOf(route('r', [target('b'), target('a', 0)], { fallback: [target('a')] }));
    expect(of('a', findCoverage(fleetOf(['a']), table))).toMatchObject({ standIns: [], unserved: [] });
    expect(of('c', findCoverage(fleetOf(['c']), table)).unserved).toEqual([]);
  });

  it('counts as a target by the weights in force and by shifts', () => {
    const shifted = route('r', [target('b'), target('a', 0)], { shift: { from: 'b', to: target('c'), startMs: 0, durationMs: 1 } });
    expect(of('c', findCoverage(fleetOf(['c']), tableOf(shifted))).unserved).toEqual(['r']);
    const weights = new RouteWeights(tableOf(shifted));
    weights.set('r', { targets: [{ pool: 'a', weight: 5 }] });
    expect(of('a', findCoverage(fleetOf(['a']), tableOf(shifted), weights)).unserved).toEqual(['r']);
  });
});
