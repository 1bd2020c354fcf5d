import { createHash } from 'node:crypto';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type RedisProcess, startRedis } from '../../lab/redis-process.ts';
import { createClient } from '../../src/redis/connection.ts';
import { createKeys } from '../../src/redis/keys.ts';
import { RedisCapLeases } from '../../src/redis/redis-cap-leases.ts';
import { RedisTransport } from '../../src/redis/redis-transport.ts';
import { Scripts } from '../../src/redis/scripts.ts';
import type { StoredPlacement } from '../../src/router/shared-exchange.ts';
import { describeStateExchange } from '../contract/state-exchange-suite.ts';
import { chatPool, clock, compiled, createRouterUnderTest, redisSettings, type RouterUnderTest, startRouter, until } from './router-under-test.ts';

const keys = createKeys('fairlead');
const one = '10.0.0.1:80';
const two = '10.0.0.2:80';

let redis: RedisProcess;
let admin: Redis;
beforeAll(async () => {
  redis = await startRedis();
  admin = new Redis({ port: redis.port, host: '127.0.0.1' });
});
afterAll(async () => {
  admin.disconnect();
  await redis.stop();
});
/** What a test opened; closed after it in reverse. */
const opened: (() => unknown)[] = [];
beforeEach(async () => {
  await admin.flushall();
});
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

describeStateExchange('Redis', () => createRouterUnderTest({ id: 'me', config: chatPool(2), settings: redisSettings(redis.url) }).exchange);

async function join(id: string, config = chatPool(4)): Promise<RouterUnderTest> {
  const made = await startRouter({ id, config, settings: redisSettings(redis.url) });
  opened.push(() => made.stop());
  return made;
}

/** A transport without the rules above it, and what came in through it of exceptions. */
interface Bare {
  readonly transport: RedisTransport;
  readonly placements: StoredPlacement[];
  retold: number;
}
function bareTransport(routerId: string): Bare {
  const made: Bare = {
    transport: new RedisTransport({
      settings: redisSettings(redis.url),
      routerId,
      pools: ['chat'],
      receiver: () => ({
        receive: () => {},
        receiveReports: () => {},
        receivePlacements: (_, placements) => made.placements.push(...placements),
        retellPlacements: () => (made.retold += 1),
        flush: () => {},
      }),
      events: { exchangeTrouble: () => {}, exchangeRecovered: () => {}, exchangeDropped: () => {} },
    }),
    placements: [],
    retold: 0,
  };
  opened.push(() => made.transport.stop());
  return made;
}

const keyIdOf = (number: number): string => number.toString(16).padStart(32, '0');

describe('what is kept in Redis', () => {
  it('expires, every key of it', async () => {
    const capped = compiled(`pools: [{ name: chat, policy: { preset: session-affinity }, endpoints: [{ address: '${one}', limits: { requests: 2 } }, { address: '${two}' }] }]`);
    const router = await join('a', capped);
    const routed = router.route({ session: 's', promptTokens: 10 });
    await router.router.secure(routed);
    await router.exchange.caps!.acquire('chat', 'a.9', [{ address: one, requestsMax: 2 }]);
    router.exchange.publish({ kind: 'dispatch', pool: 'chat', address: two, promptTokens: 1, uncachedTokens: 1, placement: { keyId: keyIdOf(1), away: true }, cached: undefined });
    await until(async () => (await admin.dbsize()) === 4, 1_000, () => admin.keys('*'));
    const kept = await admin.keys('*');
    expect(kept.sort()).toEqual([keys.cap('chat', one), keys.placements('chat'), keys.routers('chat'), keys.snapshot('chat', 'a')].sort());
    const day = 24 * 3_600_000;
    for (const [key, msMax] of [[keys.cap('chat', one), 20_000], [keys.placements('chat'), day], [keys.routers('chat'), 2_000], [keys.snapshot('chat', 'a'), 300]] as const) {
      const ttlMs = await admin.pttl(key);
      expect([key, ttlMs > 0 && ttlMs <= msMax]).toEqual([key, true]);
    }
    await opened.pop()!();
    await until(async () => !(await admin.exists(keys.snapshot('chat', 'a'), keys.routers('chat'))), 2_500);
  });

  it('names no session, tenant or model, and nothing that they could be guessed from without the secret', async () => {
    const monitor = await admin.monitor();
    const seen: string[] = [];
    monitor.on('monitor', (_: string, args: string[]) => seen.push(args.join(' ')));
    opened.push(() => monitor.disconnect());
    const config = chatPool(2);
    const [a, b] = [await join('a', config), await join('b', config)];
    const [session, tenant, model] = ['alice@example.org', 'tenant-of-alice', 'the-model'] as const;
    const secrets = [session, tenant, model];
    for (let i = 0; i < 40; i += 1) {
      const routed = a.route({ session, tenant, model, promptTokens: 500 });
      if (i % 2 === 0) b.finish(routed);
      b.route({ session: `${session} ${i}`, tenant, promptTokens: 50_000 });
    }
    await until(() => seen.some((text) => text.includes('"x"')) && seen.some((text) => text.includes('xadd') || text.includes('XADD')), 2_000, () => seen.slice(-5));
    const told = seen.join('\n');
    expect(told).toContain(keys.events('chat'));
    for (const secret of secrets) {
      for (const text of [secret, Buffer.from(secret).toString('base64').replaceAll('=', ''), Buffer.from(secret).toString('hex'), ...['sha256', 'sha1', 'md5'].map((hash) => createHash(hash).update(secret).digest('hex').slice(0, 24))]) {
        expect(told).not.toContain(text);
      }
    }
    expect(told).not.toContain('one per fleet');
  });
});

describe('exceptions', () => {
  it('20 000 of them are known to a router that joins, well within 2 s', async () => {
    const teller = bareTransport('teller');
    await teller.transport.start();
    const all = Array.from({ length: 20_000 }, (_, i) => ({ keyId: keyIdOf(i), address: `10.0.0.${(i % 4) + 1}:80` }));
    let failed = 0;
    teller.transport.storePlacements('chat', all, () => (failed += 1));
    await until(async () => (await admin.xlen(keys.placements('chat'))) === 20_000, 5_000);
    expect(failed).toBe(0);
    const startedMs = performance.now();
    const joined = await join('late');
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    expect(joined.placements.size).toBe(20_000);
    expect(joined.placements.find('chat', keyIdOf(4_242))).toBe('10.0.0.3:80');
  });

  it('that name no session or no endpoint, or are no exceptions at all, are passed over; the others count', async () => {
    const reader = bareTransport('reader');
    const key = keys.placements('chat');
    for (const fields of [['k', 'my-session', 'a', one], ['k', keyIdOf(1), 'a', 'x'.repeat(65)], ['k', keyIdOf(2)], ['x', 'y'], ['__proto__', keyIdOf(3), 'constructor', 'toString'], ['k', keyIdOf(4), 'a', ''], ['k', keyIdOf(5), 'a', two]]) {
      await admin.xadd(key, '*', ...fields);
    }
    await reader.transport.start();
    expect(reader.placements).toEqual([{ keyId: keyIdOf(3), address: 'toString' }, { keyId: keyIdOf(4), address: undefined }, { keyId: keyIdOf(5), address: two }]);
    // What passes for one must still name an endpoint of the configuration.
    const router = await join('a');
    expect(router.placements.size).toBe(1);
  });

  it('that are gone from Redis are told again, even when another router has written since', async () => {
    const a = bareTransport('a');
    await a.transport.start();
    a.transport.storePlacements('chat', [{ keyId: keyIdOf(1), address: one }], () => {});
    await until(async () => (await admin.xlen(keys.placements('chat'))) === 1, 1_000);
    await a.transport.poll();
    await a.transport.poll();
    expect([a.placements.length, a.retold]).toEqual([1, 0]);
    await admin.flushall();
    await admin.xadd(keys.placements('chat'), '*', 'k', keyIdOf(2), 'a', two);
    await a.transport.poll();
    expect(a.retold).toBe(1);
    await a.transport.poll();
    await a.transport.poll();
    expect(a.retold).toBe(1);
    expect(a.placements.at(-1)).toEqual({ keyId: keyIdOf(2), address: two });
  });
});

describe('a server that hangs', () => {
  it('is tried by one call at a time, what waits for it is bounded, and it is used again at once when it answers', async () => {
    const { transport } = bareTransport('a');
    await transport.start();
    redis.signal('SIGSTOP');
    opened.push(() => redis.signal('SIGCONT'));
    let taken = 0;
    for (let i = 0; i < 5_000; i += 1) {
      if (transport.send('caps', () => transport.scripts.releaseCap('chat', one, ['a.1']))) taken += 1;
    }
    // The first of them all wait; no more are taken.
    expect(taken).toBeLessThanOrEqual(256);
    for (let i = 0; i < 6; i += 1) transport.publish('chat', 'x');
    redis.signal('SIGCONT');
    await until(() => transport.ready, 1_000);
  });

  it('makes nobody wait who asks for a place, once it is known to hang', async () => {
    const { transport } = bareTransport('a');
    await transport.start();
    const caps = new RedisCapLeases(transport, () => ({ routers: 1, rank: 0 }));
    opened.push(() => caps.stop());
    redis.signal('SIGSTOP');
    opened.push(() => redis.signal('SIGCONT'));
    for (let i = 0; i < 10; i += 1) transport.publish('chat', 'x');
    await until(() => !transport.ready, 2_000);
    // From here on, through tries and their time-outs, asking costs nothing.
    let waitedMs = 0;
    const endMs = performance.now() + 1_500;
    while (performance.now() < endMs) {
      transport.publish('chat', 'x');
      const startedMs = performance.now();
      expect(await caps.acquire('chat', 'a.1', [{ address: one, requestsMax: 1 }])).toBe('unavailable');
      waitedMs += performance.now() - startedMs;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(waitedMs).toBeLessThan(300);
    expect(transport.trouble).toMatchObject({ code: 'timeout', permanent: false });
  });
});

describe('places on capped endpoints', () => {
  const scriptsOf = async (): Promise<Scripts> => {
    const client = createClient(redisSettings(redis.url));
    await client.connect();
    opened.push(() => client.disconnect());
    return new Scripts(client, keys);
  };

  it('are exact when eight routers take and give them back at the same time', async () => {
    const all = await Promise.all(Array.from({ length: 8 }, scriptsOf));
    const limits = [{ address: one, requestsMax: 5 }, { address: two, requestsMax: 3 }];
    const held = new Map<string, number>();
    let [most, refused, taken] = [0, 0, 0];
    await Promise.all(
      all.map(async (scripts, router) => {
        for (let i = 0; i < 60; i += 1) {
          const lease = `r${router}.${i}`;
          const address = await scripts.acquireCap('chat', lease, limits, 5_000);
          if (address === undefined) {
            refused += 1;
            continue;
          }
          taken += 1;
          held.set(address, (held.get(address) ?? 0) + 1);
          for (const { address: of, requestsMax } of limits) most = Math.max(most, (held.get(of) ?? 0) - requestsMax);
          await new Promise((resolve) => setTimeout(resolve, i % 4));
          held.set(address, held.get(address)! - 1);
          await scripts.releaseCap('chat', address, [lease]);
        }
      }),
    );
    // Eight ask for eight places: now and then one finds all taken, and never is one given twice.
    expect(most).toBeLessThanOrEqual(0);
    expect(taken).toBeGreaterThan(200);
    expect(taken + refused).toBe(480);
    expect(await admin.zcard(keys.cap('chat', one))).toBe(0);
  });

  it('are held once by one lease, however often it asks, and given back once', async () => {
    const scripts = await scriptsOf();
    const limit = [{ address: one, requestsMax: 2 }];
    for (let i = 0; i < 3; i += 1) expect(await scripts.acquireCap('chat', 'a.1', limit, 5_000)).toBe(one);
    expect(await scripts.acquireCap('chat', 'b.1', limit, 5_000)).toBe(one);
    expect(await scripts.acquireCap('chat', 'b.2', limit, 5_000)).toBeUndefined();
    expect([await scripts.releaseCap('chat', one, ['a.1']), await scripts.releaseCap('chat', one, ['a.1'])]).toEqual([1, 0]);
  });

  it('fall free when the router that holds them is silent, and not while it renews them', async () => {
    const scripts = await scriptsOf();
    const limit = [{ address: one, requestsMax: 2 }];
    await scripts.acquireCap('chat', 'dead.1', limit, 300);
    await scripts.acquireCap('chat', 'alive.1', limit, 300);
    const startedMs = performance.now();
    await until(async () => {
      await scripts.renewCap('chat', one, ['alive.1'], 300);
      return (await scripts.acquireCap('chat', 'next.1', limit, 300)) === one;
    }, 2_000);
    expect(performance.now() - startedMs).toBeGreaterThan(200);
    expect(await admin.zrange(keys.cap('chat', one), 0, '-1')).toEqual(expect.arrayContaining(['alive.1', 'next.1']));
    expect(await admin.zscore(keys.cap('chat', one), 'dead.1')).toBeNull();
  });

  it('are taken again by who held them, after Redis was wiped', async () => {
    const { transport } = bareTransport('a');
    await transport.start();
    const caps = new RedisCapLeases(transport, () => ({ routers: 1, rank: 0 }), 600);
    opened.push(() => caps.stop());
    const limit = [{ address: one, requestsMax: 2 }];
    for (const lease of ['a.1', 'a.2', 'a.3']) await caps.acquire('chat', lease, limit);
    caps.release('chat', one, 'a.2');
    await admin.flushall();
    await until(async () => (await admin.zcard(keys.cap('chat', one))) === 1, 1_000);
    expect(await admin.zrange(keys.cap('chat', one), 0, '-1')).toEqual(['a.1']);
    // And held for as long as the request runs.
    await new Promise((resolve) => setTimeout(resolve, 900));
    expect(await admin.zrange(keys.cap('chat', one), 0, '-1')).toEqual(['a.1']);
  });

  it('are not blocked by what cannot be a lease: another type, an end far in the future', async () => {
    const scripts = await scriptsOf();
    const limit = [{ address: one, requestsMax: 1 }];
    await admin.set(keys.cap('chat', one), 'x');
    expect(await scripts.releaseCap('chat', one, ['a.1'])).toBe(0);
    expect(await scripts.acquireCap('chat', 'a.1', limit, 5_000)).toBe(one);
    await admin.del(keys.cap('chat', one));
    // The clock of the server before the failover was an hour ahead.
    await admin.zadd(keys.cap('chat', one), Date.now() + 3_600_000, 'other.1');
    expect(await scripts.acquireCap('chat', 'a.1', limit, 5_000)).toBe(one);
    await admin.del(keys.cap('chat', one));
    await admin.lpush(keys.cap('chat', one), 'x');
    expect(await scripts.renewCap('chat', one, ['a.1'], 5_000)).toBe(1);
  });
});

describe('a pool that comes with a reload', () => {
  const pools = (...names: string[]): { name: string; endpoints: { address: string; weight: number; labels: object; requestsMax: undefined }[] }[] =>
    names.map((name) => ({ name, endpoints: [one, two].map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) }));
  const follow = ({ fleet, exchange }: RouterUnderTest, ...names: string[]): void => {
    fleet.update(pools(...names) as Parameters<typeof fleet.update>[0], clock.nowMs());
    exchange.poolsChanged();
  };
  const inFlight = ({ fleet }: RouterUnderTest, pool: string): number => fleet.pool(pool)?.endpoints.reduce((sum, { requests }) => sum + requests, 0) ?? -1;

  it('is told of between routers like any other, and no more once it is gone', async () => {
    const [a, b] = [await join('a', chatPool(2)), await join('b', chatPool(2))];
    // One after the other, as reloads come; what the first tells before the second knows the pool is made up for.
    follow(a, 'chat', 'new');
    a.fleet.pool('new')!.endpoint(one)!.own.requests = 3;
    await until(async () => (await admin.exists(keys.snapshot('new', 'a'))) === 1, 5_000);
    follow(b, 'chat', 'new');
    await until(() => inFlight(b, 'new') === 3, 5_000, () => inFlight(b, 'new'));
    // Pushed, not only kept: the channel is listened to.
    expect(Number((await admin.pubsub('NUMSUB', keys.events('new')))[1])).toBe(2);
    // A placement of before it came is read, too.
    a.exchange.publish({ kind: 'dispatch', pool: 'new', address: two, promptTokens: 1, uncachedTokens: 1, placement: { keyId: keyIdOf(7), away: true }, cached: undefined });
    await until(() => b.placements.find('new', keyIdOf(7)) === two, 5_000);

    b.fleet.update(pools('chat') as Parameters<typeof b.fleet.update>[0], clock.nowMs());
    b.fleet.pools = new Map([...b.fleet.pools].filter(([name]) => name === 'chat'));
    b.exchange.poolsChanged();
    await until(async () => Number((await admin.pubsub('NUMSUB', keys.events('new')))[1]) === 1, 5_000);
    await until(async () => Number((await admin.pubsub('NUMSUB', keys.events('chat')))[1]) === 2, 5_000);
    expect([a.troubles, b.troubles]).toEqual([[], []]);
  });
});
