import { compileGlob } from '../core/glob.ts';
import type { Policy } from '../core/policy.ts';
import type { FactNeed } from '../core/request-facts.ts';
import { createResidencyGuard, type Residency } from '../router/guards.ts';
import { type HeaderMatcher, poolsOf, type Route, type RoutedPool, type RouteTarget, type RoutingTable, targetsOf, type WeightShift } from '../router/routing-table.ts';
import type { Problem } from './problem.ts';
import { toPath } from './problem.ts';
import type { Config, RouteConfig } from './schema.ts';

/** Takes what is wrong, and where. */
export type Report = (segments: readonly PropertyKey[], message: string) => void;

/** Filters that stand beside a policy's own: those in front look first. */
export interface Guards {
  readonly before?: Policy['filters'];
  readonly after?: Policy['filters'];
}

/** A pool whose policy, and the one that shadows it, have these filters as well. */
export function withGuards(pool: RoutedPool, { before = [], after = [] }: Guards): RoutedPool {
  if (before.length + after.length === 0) return pool;
  const guarded = (policy: Policy): Policy => ({ ...policy, filters: [...before, ...policy.filters, ...after] });
  return { ...pool, policy: guarded(pool.policy), ...(pool.shadow && { shadow: { ...pool.shadow, policy: guarded(pool.shadow.policy) } }) };
}

/** Builds the routes. What is wrong with them is told to `problem`; what is only doubtful goes to `warnings`. */
export function compileRoutes(settings: Config, pools: ReadonlyMap<string, RoutedPool>, problem: Report, warnings: Problem[]): RoutingTable {
  const first = settings.pools[0]?.name ?? '';
  if (settings.routes === undefined && settings.pools.length > 1) {
    warnings.push({ path: 'routes', message: `absent: all requests go to the first pool (${first}), the others get none` });
  }
  const written: readonly RouteConfig[] = settings.routes ?? [{ match: { model: '*', path: '*' }, targets: [{ pool: first, weight: 100 }] }];
  const names = new Set<string>();
  const routes = written.map((route, index) => {
    const compiled = compileRoute(route, ['routes', index], nameOf(route, index, names, problem), pools, problem);
    warnings.push(...doubtsAbout(compiled, route, index, settings));
    return compiled;
  });
  const catchAll = routes.findIndex(takesEverything);
  if (catchAll !== -1 && catchAll < routes.length - 1) {
    warnings.push({ path: toPath(['routes', catchAll + 1]), message: `never reached, nor any after it: route ${catchAll} takes every request; put it last` });
  }
  return {
    routes,
    needs: new Set(routes.flatMap(({ needs }) => [...needs])),
    headers: new Set(routes.flatMap((route) => [...(route.headers ?? []).map(({ name }) => name), ...poolsOf(route).flatMap(headersOf)])),
    rewrites: routes.some((route) => targetsOf(route).some(({ model }) => model !== undefined)),
    fallsBack: routes.some(({ fallback }) => fallback !== undefined),
  };
}

/** Headers that a pool's policies look at. */
function headersOf({ policy, shadow }: RoutedPool): string[] {
  return [...(policy.headers ?? []), ...(shadow?.policy.headers ?? [])];
}

function takesEverything({ matchesModel, matchesPath, matchesTenant, headers = [], promptTokens, maxTokens }: Route): boolean {
  return headers.length === 0 && [matchesModel, matchesPath, matchesTenant, promptTokens, maxTokens].every((matcher) => matcher === undefined);
}

function nameOf({ name, match }: RouteConfig, index: number, taken: Set<string>, problem: Report): string {
  if (name !== undefined && taken.has(name)) problem(['routes', index, 'name'], `${name} is taken by an earlier route`);
  const plain = name ?? `${match.path} ${match.model}`;
  const unique = taken.has(plain) ? `${plain} #${index}` : plain;
  taken.add(unique);
  return unique;
}

function compileRoute(
  { match, targets: written, shift, fallback = [], residency }: RouteConfig,
  at: readonly PropertyKey[],
  name: string,
  pools: ReadonlyMap<string, RoutedPool>,
  problem: Report,
): Route {
  const guard = residency && createResidencyGuard(compileResidency(residency, [...at, 'residency'], problem));
  const find = (pool: string, path: readonly PropertyKey[]): RoutedPool | undefined => {
    const found = pools.get(pool);
    if (found === undefined) problem([...at, ...path], `no pool is named ${pool}; expected one of: ${[...pools.keys()].join(', ')}`);
    return found && withGuards(found, { before: guard === undefined ? [] : [guard] });
  };
  const toTarget = (target: { pool: string; model?: string | undefined; weight?: number }, path: readonly PropertyKey[]): RouteTarget[] => {
    const pool = find(target.pool, path);
    return pool === undefined ? [] : [{ pool, weight: target.weight ?? 0, model: target.model }];
  };

  const targets = written.flatMap((target, index) => toTarget(target, ['targets', index, 'pool']));
  if (!written.some(({ weight }) => weight > 0)) problem([...at, 'targets'], 'expected a weight above 0');
  for (const fact of ['promptTokens', 'maxTokens'] as const) {
    const range = match[fact];
    if (range?.max !== undefined && range.max < range.min) problem([...at, 'match', fact, 'max'], `expected min (${range.min}) or more`);
  }

  const targetPools = new Set(written.map(({ pool }) => pool));
  let compiledShift: WeightShift | undefined;
  if (shift !== undefined) {
    if (!targetPools.has(shift.from)) problem([...at, 'shift', 'from'], `expected a pool among the targets: ${[...targetPools].join(', ')}`);
    if (shift.to.pool === shift.from) problem([...at, 'shift', 'to'], 'expected another pool than from');
    const [to] = toTarget(shift.to, ['shift', 'to']);
    if (to !== undefined) compiledShift = { from: shift.from, to, startMs: Date.parse(shift.start), durationMs: shift.durationMinutes * 60_000 };
  }
  const seen = new Set<string>();
  const fallbacks = fallback.flatMap((target, index) => {
    if (seen.has(target.pool)) problem([...at, 'fallback', index], `${target.pool} is named twice`);
    if (targetPools.size === 1 && targetPools.has(target.pool) && shift === undefined) {
      problem([...at, 'fallback', index], `${target.pool} is the target itself; expected another pool`);
    }
    seen.add(target.pool);
    return toTarget(target, ['fallback', index]);
  });

  const route = {
    name,
    matchesModel: match.model === '*' ? undefined : compileGlob(match.model),
    matchesPath: match.path === '*' ? undefined : compileGlob(match.path),
    matchesTenant: match.tenant === undefined ? undefined : compileGlob(match.tenant),
    headers: Object.entries(match.headers ?? {}).map(([header, wanted]) => compileHeader(header, wanted)),
    promptTokens: match.promptTokens && { min: match.promptTokens.min, max: match.promptTokens.max ?? Infinity },
    maxTokens: match.maxTokens && { min: match.maxTokens.min, max: match.maxTokens.max ?? Infinity },
    targets,
    shift: compiledShift,
    fallback: fallbacks.length === 0 ? undefined : fallbacks,
  };
  const needs = new Set<FactNeed>(poolsOf(route).flatMap(({ policy }) => [...policy.needs]));
  if (residency?.tenants !== undefined) needs.add('tenant');
  return { ...route, needs };
}

function compileHeader(name: string, wanted: string | boolean): HeaderMatcher {
  if (typeof wanted === 'boolean') return { name, matches: (value) => (value !== undefined) === wanted };
  const glob = compileGlob(wanted);
  return { name, matches: (value) => value !== undefined && glob(value) };
}

function compileResidency({ label, values, tenants }: NonNullable<RouteConfig['residency']>, at: readonly PropertyKey[], problem: Report): Residency {
  if (values === undefined && tenants === undefined) problem(at, 'expected values, tenants, or both');
  const standard = values && new Set(values);
  const rules = Object.entries(tenants ?? {}).map(([glob, allowed]) => ({ matches: compileGlob(glob), allowed: new Set(allowed) }));
  return {
    label,
    allowed: (tenant) => (tenant === undefined ? undefined : rules.find(({ matches }) => matches(tenant))?.allowed) ?? standard,
  };
}

/** What is allowed but hardly meant. */
function doubtsAbout(route: Route, { residency, fallback = [], targets, shift }: RouteConfig, index: number, { pools }: Config): Problem[] {
  const doubts: Problem[] = [];
  const rewriting = [...targets, ...fallback, ...(shift === undefined ? [] : [shift.to])].find(({ model }) => model !== undefined);
  if (rewriting !== undefined) {
    doubts.push({
      path: toPath(['routes', index]),
      message:
        `requests to ${rewriting.pool} get their model rewritten, so Envoy has to show their bodies: with request_body_mode NONE it needs allow_mode_override; ` +
        'those that cannot be rewritten are refused',
    });
  }
  if (residency?.values !== undefined && residency.tenants === undefined) {
    const { label, values } = residency;
    for (const { name } of poolsOf(route)) {
      const pool = pools.find((candidate) => candidate.name === name);
      // Nobody knows yet what a file will say.
      if (pool?.discovery?.file !== undefined) continue;
      const labels = pool?.endpoints.map((endpoint) => ({ ...pool.labels, ...endpoint.labels })) ?? [];
      if (labels.some((own) => values.includes(own[label] ?? ''))) continue;
      doubts.push({
        path: toPath(['routes', index, 'residency']),
        message: `no endpoint of pool ${name} has a label ${label} of ${values.join(', ')}: none of them will ever be chosen`,
      });
    }
  }
  return doubts;
}
