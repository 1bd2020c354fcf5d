import type { Policy } from '../core/policy.ts';
import type { FactNeed, RequestFacts } from '../core/request-facts.ts';
import type { Shadow } from './shadow.ts';
import type { ShiftSchedule } from './weight-shift.ts';

/** A pool as routing sees it. */
export interface RoutedPool {
  readonly name: string;
  /** Envoy's name for it: the value of the cluster header. */
  readonly cluster: string;
  readonly policy: Policy;
  /** Whether the first token of each response is to be noticed. */
  readonly observeFirstToken: boolean;
  /** A second policy that is scored on the pool's requests and decides nothing. */
  readonly shadow?: Shadow | undefined;
}

/** A pool that a route leads to. */
export interface RouteTarget {
  readonly pool: RoutedPool;
  /** Relative share of the route's requests; 0: none. */
  readonly weight: number;
  /** Model that the pool serves these requests with: the request's own is rewritten to it. Undefined: the request keeps its model. */
  readonly model?: string | undefined;
}

/** Moves the requests of one pool of a route over to another. */
export interface WeightShift extends ShiftSchedule {
  /** Name of the pool that gives; one of the route's targets. */
  readonly from: string;
  readonly to: RouteTarget;
}

/** A count of tokens that matches from `min` to `max`, both included. */
export interface TokenRange {
  readonly min: number;
  readonly max: number;
}

/** Looks at the first value of one header; undefined where the request lacks it. */
export interface HeaderMatcher {
  /** In lower case. */
  readonly name: string;
  readonly matches: (value: string | undefined) => boolean;
}

/** Where matching requests go. A matcher left out matches everything, also where the fact is missing; a matcher that is there does not match a missing fact. */
export interface Route {
  /** Unique in its table. */
  readonly name: string;
  readonly matchesModel: ((model: string) => boolean) | undefined;
  readonly matchesPath: ((path: string) => boolean) | undefined;
  readonly matchesTenant?: ((tenant: string) => boolean) | undefined;
  /** All of them must match. */
  readonly headers?: readonly HeaderMatcher[] | undefined;
  readonly promptTokens?: TokenRange | undefined;
  readonly maxTokens?: TokenRange | undefined;
  readonly targets: readonly RouteTarget[];
  /** Moves the share of one target over to another as time passes. */
  readonly shift?: WeightShift | undefined;
  /** Where to go, in this order, when the target has nobody who can take the request. Their weights mean nothing. */
  readonly fallback?: readonly RouteTarget[] | undefined;
  /** Facts that the policies of all these pools choose by. */
  readonly needs: ReadonlySet<FactNeed>;
}

/** All routes; the first that matches counts. */
export interface RoutingTable {
  readonly routes: readonly Route[];
  /** Facts that any route's policies choose by. */
  readonly needs: ReadonlySet<FactNeed>;
  /** Headers that routes and their pools' policies look at, in lower case. */
  readonly headers?: ReadonlySet<string> | undefined;
  /** Whether any target has requests served by another model than they name. */
  readonly rewrites?: boolean;
  /** Whether any route has fallbacks. */
  readonly fallsBack?: boolean;
}

/** Everywhere a route can lead; one pool may come more than once. */
export function targetsOf({ targets, shift, fallback = [] }: Pick<Route, 'targets' | 'shift' | 'fallback'>): RouteTarget[] {
  return [...targets, ...(shift === undefined ? [] : [shift.to]), ...fallback];
}

/** All pools that a route can lead to; one may come more than once. */
export function poolsOf(route: Pick<Route, 'targets' | 'shift' | 'fallback'>): RoutedPool[] {
  return targetsOf(route).map(({ pool }) => pool);
}

/** What a route is found by. In `missingFacts` an undefined fact is one that may still turn up; in `matchRoute` it is absent for good. */
export interface KnownFacts extends Pick<RequestFacts, 'path' | 'model' | 'session'>, Partial<Pick<RequestFacts, 'tenant' | 'promptTokens' | 'maxTokens' | 'headers'>> {}

/** The route of a request, or why it has none. */
export type RouteMatch =
  | { readonly kind: 'route'; readonly route: Route }
  /** `model_required`: a model would have been enough; `model_not_found`: it names one, and no route takes it; `route_not_found`: all else. */
  | { readonly kind: 'none'; readonly code: 'model_required' | 'model_not_found' | 'route_not_found' };

/** Each fact's bit: sets of facts are numbers here, so that asking what a request lacks makes no garbage. */
const bits: Readonly<Record<FactNeed, number>> = {
  model: 1,
  session: 2,
  tenant: 4,
  promptTokens: 8,
  measuredPrompt: 16,
  prefix: 32,
  maxTokens: 64,
  stream: 128,
};

function toBits(needs: Iterable<FactNeed>): number {
  let all = 0;
  for (const need of needs) all |= bits[need];
  return all;
}

/** The set of each number of bits. */
const sets: readonly ReadonlySet<FactNeed>[] = Array.from(
  { length: 256 },
  (_, all) => new Set((Object.keys(bits) as FactNeed[]).filter((need) => (all & bits[need]) !== 0)),
);

const noHeaders: ReadonlyMap<string, string> = new Map();
/** Of a route that does not match, whatever turns up. */
const out = -1;

/** What the choice of a route hangs on, in bits: nothing (0, it matches), the facts that are missing, or `out`. */
function openFacts(route: Route, known: KnownFacts): number {
  if (route.matchesPath !== undefined && !route.matchesPath(known.path)) return out;
  if (route.headers !== undefined) {
    for (const { name, matches } of route.headers) if (!matches((known.headers ?? noHeaders).get(name))) return out;
  }
  let open = 0;
  if (route.matchesModel !== undefined) {
    if (known.model === undefined) open |= bits.model;
    else if (!route.matchesModel(known.model)) return out;
  }
  if (route.matchesTenant !== undefined) {
    if (known.tenant === undefined) open |= bits.tenant;
    else if (!route.matchesTenant(known.tenant)) return out;
  }
  if (route.promptTokens !== undefined) {
    if (known.promptTokens === undefined) open |= bits.measuredPrompt;
    else if (!isWithin(known.promptTokens, route.promptTokens)) return out;
  }
  if (route.maxTokens !== undefined) {
    if (known.maxTokens === undefined) open |= bits.maxTokens;
    else if (!isWithin(known.maxTokens, route.maxTokens)) return out;
  }
  return open;
}

function isWithin(tokens: number, { min, max }: TokenRange): boolean {
  return tokens >= min && tokens <= max;
}

/** Finds the first route that matches all that is known. A missing fact is taken as absent for good. */
export function matchRoute(table: RoutingTable, facts: KnownFacts): RouteMatch {
  let wantsModel = false;
  for (const route of table.routes) {
    const open = openFacts(route, facts);
    if (open === out) continue;
    if (open === 0) return { kind: 'route', route };
    wantsModel ||= (open & bits.model) !== 0;
  }
  return { kind: 'none', code: wantsModel ? 'model_required' : facts.model === undefined ? 'route_not_found' : 'model_not_found' };
}

/** Whether any pool of the routes that may still become the one, whatever the facts that are missing turn out to be, is such a pool. */
export function somePoolStillOpen(table: RoutingTable, known: KnownFacts, isSuch: (pool: RoutedPool) => boolean): boolean {
  for (const route of table.routes) {
    const open = openFacts(route, known);
    if (open === out) continue;
    const { targets, shift, fallback } = route;
    for (const { pool } of targets) if (isSuch(pool)) return true;
    if (shift !== undefined && isSuch(shift.to.pool)) return true;
    if (fallback !== undefined) for (const { pool } of fallback) if (isSuch(pool)) return true;
    if (open === 0) break;
  }
  return false;
}

/**
 * Facts still wanted before deciding, given what is known: those that the choice of the route hangs on, and those that the policies of
 * every route which may still become the one choose by. The sets are shared: equal ones are the same.
 */
export function missingFacts(table: RoutingTable, known: KnownFacts): ReadonlySet<FactNeed> {
  let missing = 0;
  for (const route of table.routes) {
    const open = openFacts(route, known);
    if (open === out) continue;
    missing |= open | toBits(route.needs);
    if (open === 0) break;
  }
  if (known.model !== undefined) missing &= ~bits.model;
  if (known.session !== undefined) missing &= ~bits.session;
  if (known.tenant !== undefined) missing &= ~bits.tenant;
  if (known.maxTokens !== undefined) missing &= ~bits.maxTokens;
  return sets[missing] ?? new Set();
}

/** Those facts without one of them. */
export function withoutFact(missing: ReadonlySet<FactNeed>, fact: FactNeed): ReadonlySet<FactNeed> {
  return sets[toBits(missing) & ~bits[fact]] ?? new Set();
}
