import { describe, expect, it } from 'vitest';
import { compileGlob } from '../core/glob.ts';
import type { FactNeed } from '../core/request-facts.ts';
import { type KnownFacts, matchRoute, missingFacts, poolsOf, type Route, type RoutedPool, type RoutingTable } from './routing-table.ts';

/** Routes as `path model`, first to last; `*` alone is no matcher, as the configuration compiles it. */
function table(...written: readonly (readonly [path: string, model: string, ...needs: FactNeed[]])[]): RoutingTable {
  return tableOf(...written.map(([path, model, ...needs]) => ({ path, model, needs })));
}

type Written = Partial<Omit<Route, 'needs'>> & { readonly path?: string; readonly model?: string; readonly needs?: readonly FactNeed[] };

function tableOf(...written: readonly Written[]): RoutingTable {
  const routes = written.map(
    ({ path = '*', model = '*', needs = [], ...rest }): Route => ({
      name: `${path} ${model}`,
      matchesPath: path === '*' ? undefined : compileGlob(path),
      matchesModel: model === '*' ? undefined : compileGlob(model),
      targets: [],
      ...rest,
      needs: new Set(needs),
    }),
  );
  return { routes, needs: new Set(routes.flatMap(({ needs }) => [...needs])) };
}

function known(facts: Partial<KnownFacts> = {}): KnownFacts {
  return { path: '/', model: undefined, session: undefined, ...facts };
}

function match(routes: RoutingTable, facts: Partial<KnownFacts>): string {
  const found = matchRoute(routes, known(facts));
  return found.kind === 'route' ? found.route.name : found.code;
}

function missing(routes: RoutingTable, facts: Partial<KnownFacts>): string[] {
  return [...missingFacts(routes, known(facts))].sort();
}

describe('matchRoute', () => {
  const routes = table(['/v1/embeddings', '*'], ['*', 'gpt-*'], ['/v1/chat/*', 'llama'], ['/v1/*', '*']);

  it.each([
    ['/v1/embeddings', undefined, '/v1/embeddings *'],
    ['/v1/embeddings', 'gpt-4', '/v1/embeddings *'],
    ['/v1/chat/completions', 'gpt-4', '* gpt-*'],
    ['/other', 'gpt-4', '* gpt-*'],
    ['/v1/chat/completions', 'llama', '/v1/chat/* llama'],
    ['/v1/completions', 'llama', '/v1/* *'],
    ['/v1/completions', 'mistral', '/v1/* *'],
    // Without a model those that ask for one are out.
    ['/v1/chat/completions', undefined, '/v1/* *'],
    ['/other', undefined, 'model_required'],
    ['/other', 'mistral', 'model_not_found'],
  ])('%s with model %s: %s', (path, model, expected) => {
    expect(match(routes, { path, model })).toBe(expected);
  });

  it('takes the first of several that match', () => {
    expect(match(table(['*', 'a*'], ['*', 'ab']), { model: 'ab' })).toBe('* a*');
    expect(match(table(['*', 'ab'], ['*', 'a*']), { model: 'ab' })).toBe('* ab');
  });

  it('takes an empty model for one that is named', () => {
    expect(match(table(['*', 'm']), { model: '' })).toBe('model_not_found');
  });

  it('without routes: none', () => {
    expect(match(table(), { model: 'm' })).toBe('model_not_found');
    expect(match(table(['/a', '*']), {})).toBe('route_not_found');
  });

  it('looks at headers, all of them', () => {
    const tiers = tableOf(
      { name: 'both', headers: [{ name: 'x-tier', matches: (value) => value === 'small' }, { name: 'x-beta', matches: (value) => value !== undefined }] },
      { name: 'absent', headers: [{ name: 'x-tier', matches: (value) => value === undefined }] },
    );
    const headers = (...pairs: [string, string][]): Partial<KnownFacts> => ({ headers: new Map(pairs) });
    expect(match(tiers, headers(['x-tier', 'small'], ['x-beta', '']))).toBe('both');
    expect(match(tiers, headers(['x-tier', 'small']))).toBe('route_not_found');
    expect(match(tiers, headers(['x-beta', '1']))).toBe('absent');
    expect(match(tiers, {})).toBe('absent');
  });

  it.each([
    [undefined, 'rest'],
    [9, 'rest'],
    [10, 'range'],
    [20, 'range'],
    [21, 'rest'],
  ])('%s tokens: route %s, both ends of a range included', (tokens, expected) => {
    for (const fact of ['promptTokens', 'maxTokens'] as const) {
      const ranged = tableOf({ name: 'range', [fact]: { min: 10, max: 20 } }, { name: 'rest' });
      expect([fact, match(ranged, { [fact]: tokens })]).toEqual([fact, expected]);
    }
  });

  it('looks at the tenant; none matches no pattern', () => {
    const tenants = tableOf({ name: 'acme', matchesTenant: compileGlob('acme-*') }, { name: 'rest' });
    expect(match(tenants, { tenant: 'acme-1' })).toBe('acme');
    expect(match(tenants, { tenant: 'other' })).toBe('rest');
    expect(match(tenants, {})).toBe('rest');
  });
});

describe('missingFacts', () => {
  it('is what the route needs and nobody knows', () => {
    const routes = table(['/a', '*', 'session', 'promptTokens'], ['/b', '*']);
    expect(missing(routes, { path: '/a' })).toEqual(['promptTokens', 'session']);
    expect(missing(routes, { path: '/a', session: 's' })).toEqual(['promptTokens']);
    expect(missing(routes, { path: '/b' })).toEqual([]);
  });

  it('is the model, and what any route needs that may still be the one, while the route hangs on the model', () => {
    const routes = table(['*', 'gpt-*', 'promptTokens'], ['*', '*', 'session'], ['*', '*', 'prefix']);
    expect(missing(routes, {})).toEqual(['model', 'promptTokens', 'session']);
    expect(missing(routes, { model: 'gpt-4' })).toEqual(['promptTokens']);
    expect(missing(routes, { model: 'llama' })).toEqual(['session']);
    expect(missing(routes, { model: 'llama', session: 's' })).toEqual([]);
  });

  it('does not wait for the model where the first matching route takes any, or no matching path asks for one', () => {
    expect(missing(table(['*', '*'], ['*', 'm']), {})).toEqual([]);
    expect(missing(table(['/a', 'm'], ['*', '*']), { path: '/b' })).toEqual([]);
  });

  it('does not ask for a model that is known', () => {
    expect(missing(table(['*', '*', 'model']), { model: 'gpt-4' })).toEqual([]);
  });

  it('asks for a model that the policy chooses by, though the route does not', () => {
    expect(missing(table(['*', '*', 'model']), {})).toEqual(['model']);
  });

  it('is nothing where nothing matches: it will be refused', () => {
    expect(missing(table(['/a', '*', 'session']), { path: '/b' })).toEqual([]);
  });

  it('is every fact that a route hangs on, unless another fact rules the route out', () => {
    const strict = tableOf(
      { name: 'strict', model: 'm', matchesTenant: compileGlob('acme'), promptTokens: { min: 0, max: 9 }, maxTokens: { min: 0, max: 9 }, headers: [{ name: 'x', matches: (value) => value === '1' }] },
      { name: 'rest' },
    );
    const headers = new Map([['x', '1']]);
    expect(missing(strict, {})).toEqual([]);
    expect(missing(strict, { headers })).toEqual(['maxTokens', 'measuredPrompt', 'model', 'tenant']);
    expect(missing(strict, { headers, promptTokens: 5, tenant: 'acme' })).toEqual(['maxTokens', 'model']);
    expect(missing(strict, { headers, promptTokens: 10 })).toEqual([]);
    expect(missing(strict, { headers, maxTokens: 10 })).toEqual([]);
    expect(missing(strict, { headers, tenant: 'other' })).toEqual([]);
    expect(missing(strict, { headers, model: 'm', promptTokens: 5, tenant: 'acme', maxTokens: 5 })).toEqual([]);
  });
});

it('poolsOf: targets, where they shift to, and fallbacks', () => {
  const pool = (name: string): RoutedPool => ({ name }) as RoutedPool;
  const to = { pool: pool('green'), weight: 0 };
  const shift = { from: 'blue', to, startMs: 0, durationMs: 1 };
  const route = { targets: [{ pool: pool('blue'), weight: 1 }], shift, fallback: [{ pool: pool('us'), weight: 0 }] };
  expect(poolsOf(route).map(({ name }) => name)).toEqual(['blue', 'green', 'us']);
  expect(poolsOf({ targets: route.targets, shift: undefined, fallback: undefined }).map(({ name }) => name)).toEqual(['blue']);
});
