import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterEach, describe, expect, it } from 'vitest';
import { type RedisProcess, startRedis, startRedisCluster, startSentinel } from '../../lab/redis-process.ts';
import type { RedisSettings } from '../../src/redis/settings.ts';
import { chatPool, compiled, redisSettings, type RouterUnderTest, startRouter, until } from './router-under-test.ts';

/** What a test opened; closed after it in reverse. */
const opened: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

const local = ({ port }: RedisProcess): { host: string; port: number } => ({ host: '127.0.0.1', port });

async function fleet(count: number, settings: RedisSettings, config = chatPool(4)): Promise<RouterUnderTest[]> {
  const routers = await Promise.all(Array.from({ length: count }, (_, i) => startRouter({ id: `r${i}`, config, settings })));
  for (const router of routers) opened.push(() => router.stop());
  return routers;
}

function agree(routers: readonly RouterUnderTest[], pools: readonly string[] = ['chat']): boolean {
  const heard = routers.every(({ exchange }) => exchange.status().connected && exchange.status().routers.length === routers.length && exchange.trouble() === undefined);
  return (
    heard &&
    pools.every((pool) => {
      const truth: Record<string, number> = {};
      for (const { fleet: all } of routers) for (const { address, own } of all.pool(pool)!.endpoints) truth[address] = (truth[address] ?? 0) + own.requests;
      return routers.every((router) => JSON.stringify(router.requestsSeen(pool)) === JSON.stringify(truth));
    })
  );
}
const statusOf = (routers: readonly RouterUnderTest[]): unknown => routers.map((router) => [router.exchange.status(), router.exchange.trouble(), router.requestsSeen()]);

describe('Sentinel', () => {
  it('routers follow the master through a failover, and tell the new one what the old one knew', async () => {
    const master = await startRedis();
    opened.push(() => master.stop());
    const replica = await startRedis(['--replicaof', `127.0.0.1 ${master.port}`, '--repl-diskless-sync-delay', '0']);
    opened.push(() => replica.stop());
    const sentinel = await startSentinel(master);
    opened.push(() => sentinel.stop());
    const watch = new Redis(local(sentinel));
    opened.push(() => watch.disconnect());
    // The sentinel learns of replicas from the master, every 10 s at first: 1 s once it knows that something changed.
    await until(async () => ((await watch.call('SENTINEL', 'REPLICAS', 'main')) as unknown[]).length === 1, 15_000);
    const replicaClient = new Redis(local(replica));
    opened.push(() => replicaClient.disconnect());
    await until(async () => (await replicaClient.info('replication')).includes('master_link_status:up'), 10_000);

    const routers = await fleet(2, redisSettings('redis://unused', { sentinel: { nodes: [local(sentinel)], name: 'main', username: undefined, password: undefined } }));
    await until(() => agree(routers), 2_000, () => statusOf(routers));
    for (let i = 0; i < 10; i += 1) routers[i % 2]!.route({ session: `s${i}`, promptTokens: 100 });
    routers[0]!.exchange.publish({ kind: 'dispatch', pool: 'chat', address: '10.0.0.1:80', promptTokens: 1, uncachedTokens: 1, placement: { keyId: 'f'.repeat(32), away: true }, cached: undefined });
    routers[0]!.exchange.publish({ kind: 'done', pool: 'chat', address: '10.0.0.1:80', promptTokens: 1, uncachedTokens: 1, waiting: true });
    await until(() => agree(routers), 1_000, () => statusOf(routers));

    await master.stop();
    for (let i = 0; i < 20; i += 1) {
      routers[i % 2]!.finish(routers[i % 2]!.route({ session: `s${i}`, promptTokens: 100 }));
      await sleep(10);
    }
    await until(async () => (await replicaClient.info('replication')).includes('role:master'), 15_000);
    // The sentinel finds that out by asking, about once a second, and names the old one until then. From there on it is on us.
    await until(async () => ((await watch.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'main')) as string[])[1] === String(replica.port), 15_000);
    const recoveringMs = await until(() => agree(routers), 2_500, () => statusOf(routers));
    process.stdout.write(`Sentinel: agreed ${recoveringMs.toFixed(0)} ms after the failover\n`);
    expect(await replicaClient.exists('fairlead:{chat}:placements')).toBe(1);
    expect((await replicaClient.client('LIST')) as string).toContain('name=fairlead-subscriber');
  });

  it('with sentinels that cannot be reached or know no such master, a start says so and waits', async () => {
    const master = await startRedis();
    opened.push(() => master.stop());
    const sentinel = await startSentinel(master);
    opened.push(() => sentinel.stop());
    const of = (port: number, name: string): RedisSettings =>
      redisSettings('redis://unused', { sentinel: { nodes: [{ host: '127.0.0.1', port }], name, username: undefined, password: undefined } });
    const [nobody, unknown] = await Promise.all([
      startRouter({ id: 'a', config: chatPool(2), settings: of(1, 'main') }),
      startRouter({ id: 'b', config: chatPool(2), settings: of(sentinel.port, 'other') }),
    ]);
    opened.push(() => nobody.stop(), () => unknown.stop());
    expect(nobody.exchange.trouble()).toMatchObject({ code: 'unreachable', permanent: false });
    expect(unknown.exchange.trouble()).toMatchObject({ permanent: false });
    expect(unknown.exchange.trouble()?.message).toContain('master other');
    expect(nobody.route({ session: 's', promptTokens: 1 }).addresses).toHaveLength(2);
  });
});

describe('Cluster', () => {
  const config = compiled(
    `pools: [${['chat', 'batch', 'code']
      .map((name) => `{ name: ${name}, policy: { preset: least-requests }, endpoints: [{ address: '10.0.0.1:80', limits: { requests: 3 } }, { address: '10.0.0.2:80' }] }`)
      .join(', ')}]\nroutes: [${['chat', 'batch', 'code'].map((name) => `{ match: { model: ${name} }, targets: [{ pool: ${name} }] }`).join(', ')}]`,
  );
  const pools = ['chat', 'batch', 'code'];

  it('pools on different nodes are shared, places on capped endpoints are exact, and nodes may hang, go, and come back', async () => {
    const cluster = await startRedisCluster();
    opened.push(() => cluster.stop());
    const routers = await fleet(3, redisSettings('redis://unused', { cluster: { nodes: cluster.nodes.map(local) } }), config);
    await until(() => agree(routers, pools), 2_000, () => statusOf(routers));
    for (let i = 0; i < 30; i += 1) routers[i % 3]!.exchange.publish({ kind: 'dispatch', pool: 'chat', address: '10.0.0.2:80', promptTokens: 1, uncachedTokens: 1, placement: { keyId: i.toString(16).padStart(32, '0'), away: true }, cached: undefined });
    for (let i = 0; i < 30; i += 1) routers[i % 3]!.exchange.publish({ kind: 'done', pool: 'chat', address: '10.0.0.2:80', promptTokens: 1, uncachedTokens: 1, waiting: true });
    for (let i = 0; i < 30; i += 1) await routers[i % 3]!.router.secure(routers[i % 3]!.route({ session: `s${i}`, model: pools[i % 3 === 0 ? 0 : 1]!, promptTokens: 10 }));
    await until(() => agree(routers, pools), 1_000, () => statusOf(routers));
    for (const pool of pools) {
      const own = routers.reduce((sum, { fleet: all }) => sum + all.pool(pool)!.endpoint('10.0.0.1:80')!.own.requests, 0);
      expect(own).toBeLessThanOrEqual(3);
    }
    const slots = await Promise.all(pools.map(async (pool) => {
      const client = new Redis(local(cluster.nodes[0]!));
      const slot = (await client.call('CLUSTER', 'KEYSLOT', `fairlead:{${pool}}:routers`)) as number;
      client.disconnect();
      return Math.floor(slot / 5_461.5);
    }));
    expect(new Set(slots).size).toBeGreaterThan(1);
    const late = await startRouter({ id: 'late', config, settings: redisSettings('redis://unused', { cluster: { nodes: [local(cluster.nodes[1]!)] } }) });
    opened.push(() => late.stop());
    expect(late.placements.size).toBe(30);
    routers.push(late);
    await until(() => agree(routers, pools), 2_000, () => statusOf(routers));

    for (const [i, node] of cluster.nodes.entries()) {
      node.signal('SIGSTOP');
      const endMs = performance.now() + 900;
      while (performance.now() < endMs) {
        const router = routers[i % routers.length]!;
        router.finish(router.route({ session: 's', model: 'chat', promptTokens: 10 }));
        await sleep(10);
      }
      node.signal('SIGCONT');
      await until(() => agree(routers, pools), 4_000, () => statusOf(routers));
    }
    // Without any node at all, looking for one costs next to nothing.
    for (const node of cluster.nodes) node.signal('SIGKILL');
    await sleep(300);
    const away = process.cpuUsage();
    await sleep(1_500);
    const { user, system } = process.cpuUsage(away);
    expect((user + system) / 1_000, 'ms of processor in 1500 ms').toBeLessThan(600);
    for (const router of routers) {
      expect(router.exchange.status().connected).toBe(false);
      expect(router.exchange.trouble()).toBeDefined();
      expect(router.route({ session: 's', model: 'code', promptTokens: 10 }).addresses.length).toBeGreaterThan(0);
    }
  });
});
