import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RunningChild, runFairlead } from '../../lab/child-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { startRedis } from '../../lab/redis-process.ts';
import type { AutoscaleReport } from '../../src/admin/autoscale-report.ts';
import type { ChangeReport } from '../../src/admin/change-report.ts';
import { RunningParts } from '../e2e/running-parts.ts';

// Two routers with one Redis, and a pool whose servers an operator takes away. Nobody sends a request: nobody who serves is pressure too.
const first = '127.0.0.1:18001';
const second = '127.0.0.1:18002';
const reserve = '127.0.0.1:18009';
const within = { timeout: 30_000, interval: 100 };

const parts = new RunningParts();
let routers: FairleadProcess[];
let watching: RunningChild;

beforeAll(async () => {
  const redis = await parts.add(startRedis());
  const config = {
    state: { kind: 'redis', url: `redis://127.0.0.1:${redis.port}` },
    affinity: { secret: 'of-this-test' },
    pools: [
      {
        name: 'chat',
        standby: { forMs: 500, calmForMs: 2_000 },
        slowStart: false,
        endpoints: [{ address: first }, { address: second }, { address: reserve, standby: true }],
      },
      { name: 'spare', endpoints: [{ address: '127.0.0.1:18010' }] },
    ],
    routes: [{ match: { model: 'covered' }, targets: [{ pool: 'chat' }], fallback: ['spare'] }],
  };
  routers = await Promise.all([0, 1].map(() => parts.add(startFairlead(config))));
  watching = await parts.add(runFairlead(['fleet', '--watch', '--admin', `127.0.0.1:${routers[0]!.adminPort}`]));
  await watching.waitForLine((line) => (line.includes(`chat ${reserve} standby`) ? true : undefined));
});
afterAll(() => parts.stop());

const json = async <T>(router: FairleadProcess, page: string): Promise<T> => JSON.parse((await router.get(page)).text) as T;
const operate = (router: FairleadProcess, address: string, state: string): Promise<void> =>
  router.put(`/api/v1/pools/chat/endpoints/${encodeURIComponent(address)}/state`, { state });
const states = async (router: FairleadProcess): Promise<string[]> => (await router.fleet()).pools[0]!.endpoints.map(({ state }) => state);

describe('a reserve under two routers', () => {
  it('is called when nobody serves, and both know it with its cause', async () => {
    for (const router of routers) expect(await json<AutoscaleReport>(router, '/api/v1/autoscale/chat')).toMatchObject({ servingReplicas: 2, standby: { waiting: 1, active: 0 } });
    await operate(routers[0]!, first, 'draining');
    await operate(routers[0]!, second, 'draining');
    for (const router of routers) await expect.poll(() => states(router), within).toEqual(['draining', 'draining', 'ready']);
    const told = await Promise.all(routers.map(async (router) => (await json<{ changes: ChangeReport[] }>(router, '/api/v1/changes')).changes.filter(({ cause }) => cause === 'pressure')));
    for (const changes of told) expect(changes).toMatchObject([{ address: reserve, from: 'standby', to: 'ready', detail: 'nobody serves' }]);
    // One decided; the other names it.
    expect(told.map(([change]) => change?.by === null).sort()).toEqual([false, true]);
    // As of the last look at the pool, four times a second.
    for (const router of routers) await expect.poll(() => router.metric('fairlead_pool_standby_servers', { pool: 'chat', state: 'active' }), within).toBe(1);
  });

  it('leaves again when the others serve, once, and everybody agrees', async () => {
    await operate(routers[1]!, first, 'ready');
    await operate(routers[1]!, second, 'ready');
    for (const router of routers) await expect.poll(() => states(router), within).toEqual(['ready', 'ready', 'standby']);
    for (const router of routers) {
      expect(await router.metric('fairlead_endpoint_changes_total', { endpoint: reserve, to: 'standby', cause: 'calm' })).toBe(1);
      await expect.poll(() => json<AutoscaleReport>(router, '/api/v1/autoscale/chat'), within).toMatchObject({ servingReplicas: 2, standby: { waiting: 1, active: 0 } });
    }
  });

  it('was seen by whoever watched, each change as one line', async () => {
    await watching.waitForLine((line) => (line.includes(`${reserve} ready → standby: calm`) ? true : undefined));
    const lines = watching.log().split('\n').filter((line) => line.includes(reserve));
    expect(lines.filter((line) => line.includes('standby → ready: pressure (nobody serves)'))).toHaveLength(1);
    watching.signal('SIGINT');
    expect(await watching.ended).toBe(0);
  });
});

it('a router stays ready while a fallback stands in, and says so', async () => {
  const [router] = routers;
  for (const address of [first, second, reserve]) await operate(router!, address, 'not-ready');
  await expect.poll(async () => (await router!.get('/readyz')).text, within).toContain('0 of 3 endpoints take requests; spare stands in on route');
  expect((await router!.get('/readyz')).status).toBe(200);
  await router!.put('/api/v1/pools/spare/endpoints/127.0.0.1:18010/state', { state: 'not-ready' });
  const { status, text } = await router!.get('/readyz');
  expect(status).toBe(503);
  const { parts: told } = JSON.parse(text) as { parts: { name: string; ready: boolean; reason: string }[] };
  expect(told.filter(({ ready }) => !ready)).toMatchObject([{ name: 'pool:chat', reason: expect.stringContaining('nobody serves route') as string }]);
});
