import { isServing } from '../fleet/endpoint-health.ts';
import type { FleetView } from '../fleet/fleet-view.ts';
import type { Route, RoutingTable } from './routing-table.ts';
import type { TargetChoiceInput } from './target-choice.ts';
import { shiftedShare } from './weight-shift.ts';

/** What the targets' shares depend on beside the route. */
type Shares = Pick<TargetChoiceInput, 'wallMs' | 'weights'>;

/** Whether requests that are to go to a pool are served by somebody. */
export interface PoolCoverage {
  readonly pool: string;
  /** Endpoints that take requests, of all. */
  readonly taking: number;
  readonly endpoints: number;
  /** Pools that stand in for it while it takes nothing itself, by the routes that lead to it. */
  readonly standIns: readonly { readonly route: string; readonly pool: string }[];
  /** Routes that lead to it and that nobody serves. */
  readonly unserved: readonly string[];
}

/**
 * How each pool is covered: by itself; else by the first fallback, on every route that leads to it, that takes requests. A pool that no
 * route leads to as a target leaves nobody unserved.
 */
export function findCoverage(fleet: FleetView, table: RoutingTable, shares: Shares): PoolCoverage[] {
  const taking = new Map([...fleet.pools].map(([name, { endpoints }]) => [name, endpoints.filter(({ state }) => takesRequests(state)).length]));
  return [...fleet.pools].map(([name, { endpoints }]) => {
    const own = taking.get(name) ?? 0;
    const routes = own > 0 ? [] : table.routes.filter((route) => leadsTo(route, name, shares));
    const covered = routes.map(({ name: route, fallback = [] }) => ({ route, pool: fallback.find(({ pool }) => (taking.get(pool.name) ?? 0) > 0)?.pool.name }));
    return {
      pool: name,
      taking: own,
      endpoints: endpoints.length,
      standIns: covered.flatMap(({ route, pool }) => (pool === undefined ? [] : [{ route, pool }])),
      unserved: covered.flatMap(({ route, pool }) => (pool === undefined ? [route] : [])),
    };
  });
}

/** A slow endpoint takes requests where no other can, and a half-open one a few. */
function takesRequests(state: Parameters<typeof isServing>[0]): boolean {
  return isServing(state) || state === 'slow' || state === 'half-open';
}

/** Whether a route sends any request to a pool first, as it stands now: a shift that has not begun sends nothing yet, one that is over leaves nothing behind. */
function leadsTo({ name, targets, shift }: Route, pool: string, { weights, wallMs }: Shares): boolean {
  const overlay = weights?.of(name);
  const hasWeight = (of: string): boolean => targets.some((target, i) => target.pool.name === of && (overlay?.weights?.[i] ?? target.weight) > 0);
  if (shift === undefined) return hasWeight(pool);
  const moved = overlay?.shiftShare ?? shiftedShare(shift, wallMs);
  if (moved > 0 && pool === shift.to.pool.name && hasWeight(shift.from)) return true;
  return hasWeight(pool) && !(moved >= 1 && pool === shift.from);
}
