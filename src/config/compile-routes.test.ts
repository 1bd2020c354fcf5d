import { describe, expect, it } from 'vitest';
import { idleEndpoint } from '../core/fleet-snapshot.ts';
import type { DecisionInput } from '../core/policy.ts';
import { noFacts } from '../core/request-facts.ts';
import { matchRoute, type Route } from '../router/routing-table.ts';
import { loadConfig } from './load.ts';
import type { CompiledConfig } from './load-outcome.ts';

const pools = `pools:
  - { name: blue, policy: { preset: round-robin }, labels: { region: eu, gpu: h100 }, endpoints: [{ address: '10.0.0.1:80' }, { address: '10.0.0.2:80', labels: { region: us } }] }
  - { name: green, policy: { preset: session-affinity }, endpoints: [{ address: '10.0.1.1:80' }] }
`;

function load(yaml: string): { config: CompiledConfig; warnings: readonly { path: string; message: string }[] } {
  const outcome = loadConfig(yaml);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome;
}

function routeOf(yaml: string, more = ''): Route {
  return load(`${pools}routes: [${yaml}]\n${more}`).config.table.routes[0]!;
}

function filtersOf({ targets }: Route): string[] {
  return targets[0]!.pool.policy.filters.map(({ name }) => name);
}

describe('match', () => {
  it.each<[Record<string, string>, boolean]>([
    [{ 'x-tier': 'small', 'x-beta': '' }, true],
    [{ 'x-tier': 'smaller', 'x-beta': '0' }, true],
    [{ 'x-tier': 'big', 'x-beta': '' }, false],
    [{ 'x-tier': 'small' }, false],
    [{ 'x-tier': 'small', 'x-beta': '', 'x-old': '' }, false],
  ])('headers %j: %s', (headers, matches) => {
    const { table } = load(`${pools}routes: [{ match: { headers: { x-tier: 'small*', x-beta: true, x-old: false } }, targets: [{ pool: blue }] }]`).config;
    expect([...(table.headers ?? [])].sort()).toEqual(['x-beta', 'x-old', 'x-tier']);
    expect(matchRoute(table, { path: '/', model: undefined, session: undefined, headers: new Map(Object.entries(headers)) }).kind === 'route').toBe(matches);
  });

  it('ranges are open above and below where nothing is written', () => {
    const route = routeOf('{ match: { promptTokens: { max: 100 }, maxTokens: { min: 5 } }, targets: [{ pool: blue }] }');
    expect(route).toMatchObject({ promptTokens: { min: 0, max: 100 }, maxTokens: { min: 5, max: Infinity } });
  });
});

describe('names', () => {
  it('are as written, or made of path and model, and never the same', () => {
    const { table } = load(`${pools}routes: [{ name: chat, targets: [{ pool: blue }] }, { targets: [{ pool: blue }] }, { match: { tenant: a }, targets: [{ pool: blue }] }]`).config;
    expect(table.routes.map(({ name }) => name)).toEqual(['chat', '* *', '* * #2']);
  });
});

describe('where a route leads', () => {
  it('targets, shift and fallback, with their models', () => {
    const route = routeOf(
      "{ targets: [{ pool: blue, weight: 3, model: large }], shift: { from: blue, to: green, start: '2026-03-01T22:00:00+01:00', durationMinutes: 1.5 }, fallback: [{ pool: green, model: small }] }",
    );
    expect(route.targets).toMatchObject([{ pool: { name: 'blue' }, weight: 3, model: 'large' }]);
    expect(route.shift).toMatchObject({ from: 'blue', to: { pool: { name: 'green' } }, startMs: Date.parse('2026-03-01T21:00:00Z'), durationMs: 90_000 });
    expect(route.fallback).toMatchObject([{ pool: { name: 'green' }, model: 'small' }]);
    // What the pools that may come into play choose by.
    expect([...route.needs].sort()).toEqual(['promptTokens', 'session']);
  });

  it('is told of the table as a whole', () => {
    const plain = load(`${pools}routes: [{ targets: [{ pool: blue }] }]`).config.table;
    expect([plain.rewrites, plain.fallsBack]).toEqual([false, false]);
    const table = load(`${pools}routes: [{ targets: [{ pool: blue }] }, { targets: [{ pool: blue }], fallback: [{ pool: green, model: m }] }]`).config.table;
    expect([table.rewrites, table.fallsBack]).toEqual([true, true]);
  });
});

describe('guards', () => {
  it('stand beside the policy: residency in front, saturation, deadline and slow start behind', () => {
    expect(filtersOf(routeOf('{ targets: [{ pool: blue }], residency: { label: region, values: [eu] } }', 'facts: { priority: [{ header: x-class }] }'))).toEqual([
      'residency',
      ...filtersOf(routeOf('{ targets: [{ pool: blue }] }', 'facts: { deadline: [] }')).filter((name) => name !== 'slow-start'),
      'saturation',
      'deadline',
      'slow-start',
    ]);
  });

  it('of residency hold in every pool of the route, and in no other route', () => {
    const { routes } = load(
      `${pools}routes: [{ targets: [{ pool: blue }], shift: { from: blue, to: green, start: '2026-01-01T00:00:00Z', durationMinutes: 0 }, fallback: [green], residency: { label: region, values: [eu] } }, { targets: [{ pool: blue }] }]`,
    ).config.table;
    const [bound, free] = routes as [Route, Route];
    for (const pool of [bound.targets[0]!.pool, bound.shift!.to.pool, bound.fallback![0]!.pool]) {
      expect(pool.policy.filters[0]?.name).toBe('residency');
    }
    expect(filtersOf(free)).not.toContain('residency');
  });

  it.each([
    ['acme-eu-1', 'eu', undefined],
    ['acme-eu-1', 'us', 'outside-residency'],
    ['acme-1', 'us', undefined],
    ['other', 'us', 'outside-residency'],
    [undefined, 'us', 'outside-residency'],
    ['other', 'ch', undefined],
  ])('tenant %s in %s: %s', (tenant, region, reason) => {
    const route = routeOf("{ targets: [{ pool: blue }], residency: { label: region, values: [ch], tenants: { 'acme-eu-*': [eu], 'acme-*': [eu, us] } } }");
    const guard = route.targets[0]!.pool.policy.filters[0]!;
    const input = { facts: { ...noFacts, tenant } } as DecisionInput;
    expect(guard.run({ ...idleEndpoint('10.0.0.1:80'), labels: { region } }, input)).toBe(reason);
    expect(route.needs).toContain('tenant');
  });

  it('by tenant alone leave others free', () => {
    const route = routeOf('{ targets: [{ pool: blue }], residency: { label: region, tenants: { acme: [eu] } } }');
    const guard = route.targets[0]!.pool.policy.filters[0]!;
    expect(guard.run(idleEndpoint('10.0.0.1:80'), { facts: noFacts } as DecisionInput)).toBeUndefined();
  });
});

it("labels of a pool are its endpoints', whose own win", () => {
  const { config } = load(pools);
  expect(config.pools[0]?.endpoints.map(({ labels }) => labels)).toEqual([
    { region: 'eu', gpu: 'h100' },
    { region: 'us', gpu: 'h100' },
  ]);
});

describe('warnings', () => {
  it.each([
    ['{ targets: [{ pool: blue, model: m }] }', 'routes[0]', /requests to blue get their model rewritten.*allow_mode_override/],
    ['{ targets: [{ pool: blue }], fallback: [{ pool: green, model: m }] }', 'routes[0]', /requests to green get their model rewritten/],
    [
      '{ targets: [{ pool: blue }], fallback: [green], residency: { label: region, values: [eu] } }',
      'routes[0].residency',
      /^no endpoint of pool green has a label region of eu/,
    ],
  ])('%s', (yaml, path, message) => {
    expect(load(`${pools}routes: [${yaml}]`).warnings).toEqual([{ path, message: expect.stringMatching(message) as string }]);
  });

  it('routes behind one that takes every request', () => {
    const message = 'never reached, nor any after it: route 0 takes every request; put it last';
    expect(load(`${pools}routes: [{ targets: [{ pool: blue }] }, { match: { model: m }, targets: [{ pool: blue }] }]`).warnings).toEqual([{ path: 'routes[1]', message }]);
    for (const match of ['model: m', 'path: /a', 'tenant: a', 'headers: { a: true }', 'promptTokens: { min: 1 }', 'maxTokens: { min: 1 }']) {
      expect([match, load(`${pools}routes: [{ match: { ${match} }, targets: [{ pool: blue }] }, { targets: [{ pool: blue }] }]`).warnings]).toEqual([match, []]);
    }
  });

  it('saturation where first tokens are not noticed', () => {
    const yaml = "pools: [{ name: a, policy: { preset: round-robin }, saturation: { waitingTokens: 5 }, endpoints: [{ address: '10.0.0.1:80' }] }]";
    expect(load(yaml).warnings).toMatchObject([{ path: 'pools[0].saturation' }]);
    expect(load(yaml.replace('saturation', 'observe: { firstToken: true }, saturation')).warnings).toEqual([]);
  });
});
