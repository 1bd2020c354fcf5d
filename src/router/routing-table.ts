import type { Policy } from '../core/policy.ts';
import type { FactNeed } from '../core/request-facts.ts';

/** A pool as routing sees it. */
export interface RoutedPool {
  readonly name: string;
  /** Envoy's name for it: the value of the cluster header. */
  readonly cluster: string;
  readonly policy: Policy;
  /** Whether the first token of each response is to be noticed. */
  readonly observeFirstToken: boolean;
}

/** Where matching requests go. A matcher left out matches everything, a missing model included. */
export interface Route {
  readonly name: string;
  readonly matchesModel: ((model: string) => boolean) | undefined;
  readonly matchesPath: ((path: string) => boolean) | undefined;
  readonly targets: readonly { readonly pool: RoutedPool; readonly weight: number }[];
  /** Facts that the targets' policies choose by. */
  readonly needs: ReadonlySet<FactNeed>;
}

/** All routes; the first that matches counts. */
export interface RoutingTable {
  readonly routes: readonly Route[];
  /** Facts that any route's policies choose by. */
  readonly needs: ReadonlySet<FactNeed>;
}

/** The route of a request, or what is missing to tell. */
export type RouteMatch = { readonly kind: 'route'; readonly route: Route } | { readonly kind: 'needs-model' } | { readonly kind: 'none' };

/** Finds the first route that matches path and model. Where that hangs on a model not known yet, says so. */
export function matchRoute(table: RoutingTable, path: string, model: string | undefined): RouteMatch {
  let hangsOnModel = false;
  for (const route of table.routes) {
    if (route.matchesPath !== undefined && !route.matchesPath(path)) continue;
    if (route.matchesModel === undefined) return hangsOnModel ? { kind: 'needs-model' } : { kind: 'route', route };
    if (model === undefined) hangsOnModel = true;
    else if (route.matchesModel(model)) return { kind: 'route', route };
  }
  return hangsOnModel ? { kind: 'needs-model' } : { kind: 'none' };
}

/** The route for a request that has no model: the first whose model matcher takes everything. */
export function matchRouteWithoutModel(table: RoutingTable, path: string): Route | undefined {
  return table.routes.find((route) => route.matchesModel === undefined && (route.matchesPath === undefined || route.matchesPath(path)));
}

/** Facts still wanted before deciding, given what is known. */
export function missingFacts(
  table: RoutingTable,
  known: { readonly path: string; readonly model: string | undefined; readonly session: string | undefined },
): ReadonlySet<FactNeed> {
  const match = matchRoute(table, known.path, known.model);
  // While the route hangs on the model, any route may become the one.
  const missing = new Set<FactNeed>(match.kind === 'route' ? match.route.needs : match.kind === 'needs-model' ? table.needs : []);
  if (match.kind === 'needs-model') missing.add('model');
  if (known.model !== undefined) missing.delete('model');
  if (known.session !== undefined) missing.delete('session');
  return missing;
}
