import { describe, expect, it } from 'vitest';
import { compileGlob } from '../core/glob.ts';
import type { FactNeed } from '../core/request-facts.ts';
import { matchRoute, matchRouteWithoutModel, missingFacts, type Route, type RoutingTable } from './routing-table.ts';

/** Routes as `path model`, first to last; `*` alone is no matcher, as the configuration compiles it. */
function table(...written: readonly (readonly [path: string, model: string, ...needs: FactNeed[]])[]): RoutingTable {
  const routes = written.map(
    ([path, model, ...needs]): Route => ({
      name: `${path} ${model}`,
      matchesPath: path === '*' ? undefined : compileGlob(path),
      matchesModel: model === '*' ? undefined : compileGlob(model),
      targets: [],
      needs: new Set(needs),
    }),
  );
  return { routes, needs: new Set(routes.flatMap(({ needs }) => [...needs])) };
}

function match(routes: RoutingTable, path: string, model: string | undefined): string {
  const found = matchRoute(routes, path, model);
  return found.kind === 'route' ? found.route.name : found.kind;
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
    // Without the model it may be the second, the third or the last.
    ['/v1/chat/completions', undefined, 'needs-model'],
    ['/other', undefined, 'needs-model'],
    ['/other', 'mistral', 'none'],
  ])('%s with model %s: %s', (path, model, expected) => {
    expect(match(routes, path, model)).toBe(expected);
  });

  it('takes the first of several that match', () => {
    expect(match(table(['*', 'a*'], ['*', 'ab']), '/', 'ab')).toBe('* a*');
    expect(match(table(['*', 'ab'], ['*', 'a*']), '/', 'ab')).toBe('* ab');
  });

  it('does not wait for the model where no matching path asks for one', () => {
    expect(match(table(['/a', 'm'], ['*', '*']), '/b', undefined)).toBe('* *');
  });

  it('does not wait for the model when the first matching route takes any', () => {
    expect(match(table(['*', '*'], ['*', 'm']), '/', undefined)).toBe('* *');
  });

  it('takes an empty model for one that is named', () => {
    expect(match(table(['*', 'm']), '/', '')).toBe('none');
  });

  it('without routes: none', () => {
    expect(match(table(), '/', 'm')).toBe('none');
  });
});

describe('matchRouteWithoutModel', () => {
  it('is the first that takes every model, on that path', () => {
    const routes = table(['*', 'm'], ['/a', '*'], ['*', '*']);
    expect(matchRouteWithoutModel(routes, '/a')?.name).toBe('/a *');
    expect(matchRouteWithoutModel(routes, '/b')?.name).toBe('* *');
    expect(matchRouteWithoutModel(table(['*', 'm']), '/a')).toBeUndefined();
  });
});

describe('missingFacts', () => {
  const known = (path: string, model?: string, session?: string): { path: string; model: string | undefined; session: string | undefined } => ({ path, model, session });
  const missing = (routes: RoutingTable, facts: ReturnType<typeof known>): string[] => [...missingFacts(routes, facts)].sort();

  it('is what the route needs and nobody knows', () => {
    const routes = table(['/a', '*', 'session', 'promptTokens'], ['/b', '*']);
    expect(missing(routes, known('/a'))).toEqual(['promptTokens', 'session']);
    expect(missing(routes, known('/a', undefined, 's'))).toEqual(['promptTokens']);
    expect(missing(routes, known('/b'))).toEqual([]);
  });

  it('is the model, and what any route needs, while the route hangs on the model', () => {
    const routes = table(['*', 'gpt-*', 'promptTokens'], ['*', '*', 'session']);
    expect(missing(routes, known('/'))).toEqual(['model', 'promptTokens', 'session']);
    expect(missing(routes, known('/', 'gpt-4'))).toEqual(['promptTokens']);
    expect(missing(routes, known('/', 'llama'))).toEqual(['session']);
    expect(missing(routes, known('/', 'llama', 's'))).toEqual([]);
  });

  it('does not ask for a model that is known', () => {
    expect(missing(table(['*', '*', 'model']), known('/', 'gpt-4'))).toEqual([]);
  });

  it('asks for a model that the policy chooses by, though the route does not', () => {
    expect(missing(table(['*', '*', 'model']), known('/'))).toEqual(['model']);
  });

  it('is nothing where nothing matches: it will be refused', () => {
    expect(missing(table(['/a', '*', 'session']), known('/b'))).toEqual([]);
  });
});
