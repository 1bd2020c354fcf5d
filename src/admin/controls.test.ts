import type { Hono } from 'hono';
import { describe, expect, it } from 'vitest';
import { toHostPort } from '../core/data-parallel-rank.ts';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { FleetMembers } from '../router/fleet-members.ts';
import type { ConfigReload } from '../router/reload-events.ts';
import { RouteWeights } from '../router/route-weights.ts';
import type { Route, RoutedPool } from '../router/routing-table.ts';
import { createControls, type OperatorChange } from './controls.ts';
import type { ConfigReport } from './config-report.ts';
import type { FleetReport } from './fleet-report.ts';
import { createAdminApp } from './server.ts';

const pool = (name: string): RoutedPool => ({ name }) as RoutedPool;
const route: Route = {
  name: '/v1/* gpt-*',
  matchesModel: undefined,
  matchesPath: undefined,
  targets: [
    { pool: pool('chat'), weight: 95 },
    { pool: pool('new'), weight: 5 },
  ],
  shift: { from: 'chat', to: { pool: pool('new'), weight: 0 }, startMs: 0, durationMs: 1 },
  needs: new Set(),
};

interface Admin {
  readonly app: Hono;
  readonly fleet: FleetView;
  readonly weights: RouteWeights;
  /** What the log was told. */
  readonly changes: readonly OperatorChange[];
  readonly send: (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<{ status: number; json: unknown }>;
}

const applied: ConfigReload = { outcome: 'applied', cause: 'api', file: 'fairlead.yaml', version: 'abc', problems: [] };

function define(address: string): EndpointDefinition {
  return { address, weight: 1, labels: {}, requestsMax: undefined };
}

function create({ isWritable = true, reload = applied } = {}): Admin {
  const fleet = new FleetView([
    { name: 'chat', endpoints: ['10.0.0.1:80', '10.0.0.2:80#0', '10.0.0.2:80#1'].map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) },
  ]);
  const weights = new RouteWeights({ routes: [route], needs: new Set() });
  const changes: OperatorChange[] = [];
  const app = createAdminApp({
    readiness: () => [],
    registry: { contentType: 'text/plain', metrics: async () => '' },
    fleet: () => ({}) as FleetReport,
    decisions: () => [],
    changes: () => [],
    autoscale: () => [],
    config: () => ({}) as ConfigReport,
    controls: isWritable
      ? createControls({
          fleet,
          weights,
          operate: (...args) => operate(fleet, ...args),
          changed: (change) => changes.push(change),
          members: new FleetMembers({ fleet, nowMs: () => 77, changed: () => undefined }, [{ name: 'chat', endpoints: fleet.pool('chat')!.endpoints.map(({ address }) => define(address)) }]),
          parseEndpoint: (_pool, written) =>
            typeof written === 'object' && written !== null && 'address' in written && typeof written.address === 'string'
              ? { ok: true, endpoints: [define(written.address)] }
              : { ok: false, problems: [{ path: '[0].address', message: 'expected ip:port' }] },
          reload: () => reload,
        })
      : undefined,
  });
  return {
    app,
    fleet,
    weights,
    changes,
    send: async (method, path, body, headers = {}) => {
      const response = await app.request(`http://127.0.0.1${path}`, {
        method,
        headers: { host: '127.0.0.1:9003', 'content-type': 'application/json', ...headers },
        ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      return { status: response.status, json: JSON.parse(await response.text()) as unknown };
    },
  };
}

/** What the health watch does with an operator's word, as far as it matters here. */
function operate(fleet: FleetView, pool: string, address: string, state: 'ready' | 'draining' | 'not-ready'): boolean {
  const meant = fleet.pool(pool)?.endpoints.filter((endpoint) => endpoint.address === address || toHostPort(endpoint.address) === address) ?? [];
  for (const endpoint of meant) endpoint.setState(state, 77);
  return meant.length > 0;
}

const statePath = (address: string, name = 'chat'): string => `/api/v1/pools/${name}/endpoints/${encodeURIComponent(address)}/state`;
const weightsPath = `/api/v1/routes/${encodeURIComponent(route.name)}/weights`;

describe('the log', () => {
  it('is told of every change that holds, and of no other', async () => {
    const { send, changes } = create();
    await send('PUT', statePath('10.0.0.1:80'), { state: 'draining' });
    await send('PUT', statePath('10.0.0.9:80'), { state: 'draining' });
    await send('PUT', statePath('10.0.0.1:80', 'other'), { state: 'draining' });
    await send('PUT', weightsPath, { shiftShare: 0.3 });
    await send('PUT', weightsPath, { shiftShare: 3 });
    await send('DELETE', weightsPath);
    expect(changes).toEqual([
      { pool: 'chat', endpoint: '10.0.0.1:80', state: 'draining' },
      { route: route.name, shiftShare: 0.3 },
      { route: route.name, reset: true },
    ]);
  });
});

describe("an endpoint's state", () => {
  it('is set from the next decision on, and says since when it is ready', async () => {
    const { send, fleet } = create();
    const endpoint = fleet.pool('chat')!.endpoint('10.0.0.1:80')!;
    expect(await send('PUT', '/api/v1/pools/chat/endpoints/10.0.0.1:80/state', { state: 'draining' })).toEqual({
      status: 200,
      json: { pool: 'chat', address: '10.0.0.1:80', state: 'draining' },
    });
    expect([endpoint.state, endpoint.readySinceMs]).toEqual(['draining', undefined]);
    await send('PUT', statePath('10.0.0.1:80'), { state: 'not-ready' });
    expect(endpoint.state).toBe('not-ready');
    await send('PUT', statePath('10.0.0.1:80'), { state: 'ready' });
    expect([endpoint.state, endpoint.readySinceMs]).toEqual(['ready', 77]);
  });

  it('of all ranks is set by the address, of one by its own', async () => {
    const { send, fleet } = create();
    const states = (): string[] => fleet.pool('chat')!.endpoints.map(({ state }) => state);
    expect((await send('PUT', statePath('10.0.0.2:80'), { state: 'draining' })).status).toBe(200);
    expect(states()).toEqual(['ready', 'draining', 'draining']);
    expect((await send('PUT', statePath('10.0.0.2:80#1'), { state: 'ready' })).status).toBe(200);
    expect(states()).toEqual(['ready', 'draining', 'ready']);
  });

  it.each<[string, unknown, number, string]>([
    [statePath('10.0.0.9:80'), { state: 'ready' }, 404, 'not_found'],
    [statePath('10.0.0.1:80', 'none'), { state: 'ready' }, 404, 'not_found'],
    [statePath('10.0.0.1:80'), { state: 'ejected' }, 400, 'bad_change'],
    [statePath('10.0.0.1:80'), { state: 'ready', since: 1 }, 400, 'bad_change'],
    [statePath('10.0.0.1:80'), 'ready', 400, 'not_json'],
    [statePath('10.0.0.1:80'), undefined, 400, 'not_json'],
    [statePath('10.0.0.1:80'), { state: 'x'.repeat(70_000) }, 413, 'too_large'],
  ])('%s: refused', async (path, body, status, code) => {
    const { send, fleet } = create();
    expect(await send('PUT', path, body)).toMatchObject({ status, json: { error: { code } } });
    expect(fleet.pool('chat')!.endpoints.every(({ state }) => state === 'ready')).toBe(true);
  });
});

describe("a route's weights", () => {
  it('are set, and given back to the configuration', async () => {
    const { send, weights } = create();
    expect((await send('PUT', weightsPath, { targets: [{ pool: 'new', weight: 50 }], shiftShare: 0.5 })).status).toBe(200);
    expect(weights.of(route.name)).toEqual({ weights: [95, 50], shiftShare: 0.5 });
    expect((await send('DELETE', weightsPath)).status).toBe(200);
    expect(weights.of(route.name)).toBeUndefined();
  });

  it.each<[string, string, unknown, number, string]>([
    ['PUT', weightsPath, { targets: [{ pool: 'other', weight: 1 }] }, 400, 'bad_change'],
    ['PUT', weightsPath, { targets: [] }, 400, 'bad_change'],
    ['PUT', weightsPath, { weight: 1 }, 400, 'bad_change'],
    ['PUT', '/api/v1/routes/none/weights', { shiftShare: 1 }, 404, 'not_found'],
    ['DELETE', '/api/v1/routes/none/weights', undefined, 404, 'not_found'],
  ])('%s %s %j: refused', async (method, path, body, status, code) => {
    const { send, weights } = create();
    expect(await send(method, path, body)).toMatchObject({ status, json: { error: { code } } });
    expect(weights.of(route.name)).toBeUndefined();
  });
});

describe('a change', () => {
  it('is not taken from a web page, under a foreign name, or as a form', async () => {
    const { send, fleet } = create();
    const change = (headers: Record<string, string>): Promise<{ status: number; json: unknown }> => send('PUT', statePath('10.0.0.1:80'), { state: 'draining' }, headers);
    expect(await change({ origin: 'http://127.0.0.1:9003' })).toMatchObject({ status: 403, json: { error: { code: 'forbidden' } } });
    for (const host of ['evil.example', '127.0.0.1.evil.example', '10.0.0.5:9003', '']) expect([host, (await change({ host })).status]).toEqual([host, 403]);
    expect((await change({ 'content-type': 'text/plain' })).status).toBe(415);
    expect(fleet.pool('chat')!.endpoints[0]!.state).toBe('ready');
    for (const host of ['localhost:9003', '127.0.0.2', '[::1]:9003']) expect([host, (await change({ host })).status]).toEqual([host, 200]);
  });

  it('is not taken at all where others reach the port', async () => {
    const { send, fleet } = create({ isWritable: false });
    expect(await send('PUT', statePath('10.0.0.1:80'), { state: 'draining' })).toMatchObject({ status: 403, json: { error: { code: 'forbidden' } } });
    expect(fleet.pool('chat')!.endpoints[0]!.state).toBe('ready');
    expect((await send('GET', '/')).json).not.toHaveProperty('changes');
  });

  it('is taken by the listed methods on the listed paths alone', async () => {
    const { send } = create();
    expect(Object.keys(((await send('GET', '/')).json as { changes: object }).changes)).toEqual([
      'PUT /api/v1/pools/:pool/endpoints/:address/state',
      'POST /api/v1/pools/:pool/endpoints',
      'DELETE /api/v1/pools/:pool/endpoints/:address',
      'POST /api/v1/reload',
      'PUT /api/v1/routes/:route/weights',
      'DELETE /api/v1/routes/:route/weights',
    ]);
    for (const [method, path] of [
      ['PUT', '/api/v1/fleet'],
      ['POST', weightsPath],
      ['PATCH', statePath('10.0.0.1:80')],
    ] as const) {
      expect([path, (await send(method, path, {})).status]).toEqual([path, 405]);
    }
    expect((await send('DELETE', statePath('10.0.0.1:80'))).status).toBe(404);
  });
});

describe('endpoints that operators add and take away', () => {
  const endpointsPath = '/api/v1/pools/chat/endpoints';
  const addresses = ({ fleet }: Admin): readonly string[] => fleet.pool('chat')!.endpoints.map(({ address }) => address);

  it('come at once, and the answer says for how long', async () => {
    const admin = create();
    expect(await admin.send('POST', endpointsPath, { address: '10.0.0.9:80' })).toEqual({
      status: 200,
      json: { pool: 'chat', address: '10.0.0.9:80', holds: 'in this router, until it restarts' },
    });
    expect(addresses(admin)).toContain('10.0.0.9:80');
    expect(admin.changes).toEqual([{ pool: 'chat', endpoint: '10.0.0.9:80', member: 'added' }]);
  });

  it('go with all their ranks, once they have finished what they have', async () => {
    const admin = create();
    const answer = await admin.send('DELETE', `${endpointsPath}/${encodeURIComponent('10.0.0.2:80')}`);
    expect(answer).toMatchObject({ status: 200, json: { address: '10.0.0.2:80' } });
    expect(admin.fleet.pool('chat')!.endpoints.map(({ state }) => state)).toEqual(['ready', 'draining', 'draining']);
    expect(admin.changes).toEqual([{ pool: 'chat', endpoint: '10.0.0.2:80', member: 'removed' }]);
  });

  it.each([
    ['POST', '/api/v1/pools/other/endpoints', { address: '10.0.0.9:80' }, 404, 'not_found', 'no such pool'],
    ['POST', endpointsPath, { port: 80 }, 400, 'bad_change', 'address: expected ip:port'],
    ['POST', endpointsPath, '{', 400, 'not_json', 'not JSON'],
    ['DELETE', '/api/v1/pools/other/endpoints/10.0.0.1:80', undefined, 404, 'not_found', 'no such pool'],
    ['DELETE', `${endpointsPath}/10.0.0.9:80`, undefined, 404, 'not_found', 'no such endpoint'],
  ])('%s %s %j is refused', async (method, path, body, status, code, message) => {
    const admin = create();
    const answer = await admin.send(method, path, body);
    expect(answer).toMatchObject({ status, json: { error: { code } } });
    expect(JSON.stringify(answer.json)).toContain(message);
    expect(addresses(admin)).toHaveLength(3);
    expect(admin.changes).toEqual([]);
  });

  it('are beyond whoever may not change anything', async () => {
    const locked = create({ isWritable: false });
    expect((await locked.send('POST', endpointsPath, { address: '10.0.0.9:80' })).status).toBe(403);
    expect((await locked.send('POST', '/api/v1/reload')).status).toBe(403);
    expect((await create().send('POST', '/api/v1/reload', undefined, { origin: 'http://elsewhere.example' })).status).toBe(403);
    expect((await create().send('POST', '/api/v1/fleet')).status).toBe(405);
  });
});

describe('a reload', () => {
  it('is answered with what came of it', async () => {
    expect(await create().send('POST', '/api/v1/reload')).toEqual({ status: 200, json: { outcome: 'applied', version: 'abc', problems: [] } });
    const problems = [{ path: 'listen.grpc', message: 'cannot change' }];
    const refused = await create({ reload: { ...applied, outcome: 'refused', problems } }).send('POST', '/api/v1/reload');
    expect(refused).toEqual({ status: 422, json: { outcome: 'refused', version: 'abc', problems } });
  });
});
