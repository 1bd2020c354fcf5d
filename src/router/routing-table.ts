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

const noHeaders: ReadonlyMap<string, string> = new Map();
const nothing: readonly FactNeed[] = [];

/** What the choice of a route hangs on: nothing (it matches), undefined (it does not, whatever turns up), or the facts that are missing. */
function openFacts(route: Route, known: KnownFacts): readonly FactNeed[] | undefined {
  if (route.matchesPath !== undefined && !route.matchesPath(known.path)) return undefined;
  for (const { name, matches } of route.headers ?? []) if (!matches((known.headers ?? noHeaders).get(name))) return undefined;
  let open = nothing;
  if (route.matchesModel !== undefined) {
    if (known.model === undefined) open = [...open, 'model'];
    else if (!route.matchesModel(known.model)) return undefined;
  }
  if (route.matchesTenant !== undefined) {
    if (known.tenant === undefined) open = [...open, 'tenant'];
    else if (!route.matchesTenant(known.tenant)) return undefined;
  }
  if (route.promptTokens !== undefined) {
    if (known.promptTokens === undefined) open = [...open, 'measuredPrompt'];
    else if (!isWithin(known.promptTokens, route.promptTokens)) return undefined;
  }
  if (route.maxTokens !== undefined) {
    if (known.maxTokens === undefined) open = [...open, 'maxTokens'];
    else if (!isWithin(known.maxTokens, route.maxTokens)) return undefined;
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
    if (open === undefined) continue;
    if (open.length === 0) return { kind: 'route', route };
    wantsModel ||= open.includes('model');
  }
  return { kind: 'none', code: wantsModel ? 'model_required' : facts.model === undefined ? 'route_not_found' : 'model_not_found' };
}

/** Routes that may still become the one, whatever the facts that are missing turn out to be. */
export function routesStillOpen(table: RoutingTable, known: KnownFacts): readonly Route[] {
  const routes: Route[] = [];
  for (const route of table.routes) {
    const open = openFacts(route, known);
    if (open !== undefined) routes.push(route);
    if (open?.length === 0) break;
  }
  return routes;
}

/**
 * Facts still wanted before deciding, given what is known: those that the choice of the route hangs on, and those that the policies of
 * every route which may still become the one choose by.
 */
export function missingFacts(table: RoutingTable, known: KnownFacts): ReadonlySet<FactNeed> {
  const missing = new Set<FactNeed>();
  for (const route of table.routes) {
    const open = openFacts(route, known);
    if (open === undefined) continue;
    for (const fact of open) missing.add(fact);
    for (const fact of route.needs) missing.add(fact);
    if (open.length === 0) break;
  }
  if (known.model !== undefined) missing.delete('model');
  if (known.session !== undefined) missing.delete('session');
  if (known.tenant !== undefined) missing.delete('tenant');
  if (known.maxTokens !== undefined) missing.delete('maxTokens');
  return missing;
}
