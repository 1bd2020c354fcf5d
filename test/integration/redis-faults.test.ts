import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type RedisProcess, startRedis } from '../../lab/redis-process.ts';
import { createKeys } from '../../src/redis/keys.ts';
import type { RedisSettings } from '../../src/redis/settings.ts';
import type { Routed } from '../../src/router/routed.ts';
import { chatPool, createRouterUnderTest, quantile, redisSettings, type RouterUnderTest, seededDraw, startRouter, until } from './router-under-test.ts';
import { startTcpProxy, type TcpProxy } from './tcp-proxy.ts';

const keys = createKeys('fairlead');
const config = chatPool(6);

let redis: RedisProcess;
let admin: Redis;
const connectAdmin = (): Redis => new Redis({ port: redis.port, host: '127.0.0.1' }).on('error', () => {});
beforeAll(async () => {
  redis = await startRedis();
  admin = connectAdmin();
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
  await Promise.all(opened.splice(0).reverse().map((close) => close()));
});

/** Every router hears itself and all others, sees the same load as they, and knows of no trouble. */
function agree(routers: readonly RouterUnderTest[]): boolean {
  const truth: Record<string, number> = {};
  for (const { fleet } of routers) for (const { address, own } of fleet.pool('chat')!.endpoints) truth[address] = (truth[address] ?? 0) + own.requests;
  return routers.every(
    (router) =>
      router.exchange.status().connected &&
      router.exchange.status().routersLastSeen === routers.length &&
      router.exchange.status().routers.length === routers.length &&
      router.exchange.trouble() === undefined &&
      JSON.stringify(router.requestsSeen()) === JSON.stringify(truth),
  );
}
const statusOf = (routers: readonly RouterUnderTest[]): unknown => routers.map((router) => [router.exchange.status(), router.exchange.trouble(), router.requestsSeen()]);

async function fleet(count: number, changes: Partial<RedisSettings> = {}, url = redis.url): Promise<RouterUnderTest[]> {
  const routers = await Promise.all(Array.from({ length: count }, (_, i) => startRouter({ id: `r${i}`, config, settings: redisSettings(url, changes) })));
  for (const router of routers) opened.push(() => router.stop());
  await until(() => agree(routers), 3_000, () => statusOf(routers));
  return routers;
}

/** Load on all routers: about one request a ms that lasts for forty more. */
class Load {
  readonly #routers: readonly RouterUnderTest[];
  readonly #draw = seededDraw('load');
  readonly #running: { router: RouterUnderTest; routed: Routed }[] = [];

  constructor(routers: readonly RouterUnderTest[]) {
    this.#routers = routers;
  }

  /** What so much time costs: the 99th percentile of a decision in ms, and processor time per request in ms. */
  async run(ms: number): Promise<{ p99Ms: number; cpuMs: number }> {
    for (const { routeMs } of this.#routers) routeMs.length = 0;
    const cpu = process.cpuUsage();
    const endMs = performance.now() + ms;
    let requests = 0;
    while (performance.now() < endMs) {
      for (const router of this.#routers) {
        const routed = router.route({ session: `s${Math.floor(this.#draw() * 300)}`, promptTokens: 500 });
        expect(config.pools[0]!.endpoints.map(({ address }) => address)).toContain(routed.addresses[0]);
        requests += 1;
        this.#running.push({ router, routed });
        if (this.#running.length > 40) this.#finishOne();
      }
      for (const { fleet: { pools } } of this.#routers) {
        for (const { foreign, requests: all, own } of pools.get('chat')!.endpoints) expect(Math.min(...Object.values(foreign.toLoad()), all - own.requests)).toBeGreaterThanOrEqual(0);
      }
      await sleep(3);
    }
    const { user, system } = process.cpuUsage(cpu);
    return { p99Ms: quantile(this.#routers.flatMap(({ routeMs }) => routeMs), 0.99), cpuMs: (user + system) / 1_000 / requests };
  }

  end(): void {
    while (this.#running.length > 0) this.#finishOne();
  }

  #finishOne(): void {
    const first = this.#running.shift();
    first?.router.finish(first.routed);
  }
}

interface Fault {
  readonly name: string;
  readonly ms: number;
  readonly start: () => unknown;
  readonly end: () => unknown;
  /** What the routers know of it while it lasts; undefined: nothing. */
  readonly code?: string;
}

const faults: readonly Fault[] = [
  { name: 'hangs for a moment', ms: 800, start: () => redis.signal('SIGSTOP'), end: () => redis.signal('SIGCONT'), code: 'timeout' },
  { name: 'hangs for longer than any time-out', ms: 2_800, start: () => redis.signal('SIGSTOP'), end: () => redis.signal('SIGCONT'), code: 'timeout' },
  {
    name: 'is killed and started again',
    ms: 1_000,
    start: () => redis.stop(),
    end: async () => {
      redis = await startRedis([], redis.port);
    },
    code: 'unreachable',
  },
  { name: 'is wiped', ms: 600, start: () => admin.flushall(), end: () => {} },
  { name: 'is out of memory', ms: 900, start: () => admin.config('SET', 'maxmemory', '1'), end: () => admin.config('SET', 'maxmemory', '0'), code: 'out-of-memory' },
  { name: 'turns into a read-only replica', ms: 900, start: () => admin.replicaof('127.0.0.1', '1'), end: () => admin.replicaof('NO', 'ONE'), code: 'read-only' },
  {
    name: 'closes all connections, again and again',
    ms: 700,
    start: () => {
      const timer = setInterval(() => void admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes').then(() => admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')).catch(() => {}), 150);
      setTimeout(() => clearInterval(timer), 600);
    },
    end: () => {},
  },
];

describe('requests go on, at the same cost, and within 2 s all agree again, when Redis', () => {
  for (const { name, ms, start, end, code } of faults) {
    it(name, async () => {
      const routers = await fleet(3);
      const load = new Load(routers);
      await load.run(300);
      const healthy = await load.run(500);
      await start();
      const faulty = await load.run(ms);
      const troubles = routers.map(({ exchange }) => exchange.trouble()?.code);
      await end();
      load.end();
      const recoveringMs = await until(() => agree(routers), 2_000, () => statusOf(routers));
      const told = `${name}: p99 of a decision ${healthy.p99Ms.toFixed(3)} → ${faulty.p99Ms.toFixed(3)} ms, processor ${healthy.cpuMs.toFixed(2)} → ${faulty.cpuMs.toFixed(2)} ms a request, agreed after ${recoveringMs.toFixed(0)} ms`;
      if (code !== undefined) expect(troubles, told).toEqual(routers.map(() => code));
      // Whoever waited for Redis would wait 500 ms; what a busy machine adds is a matter of some scheduling rounds.
      expect(faulty.p99Ms, told).toBeLessThan(3 * healthy.p99Ms + 10);
      // What a failing Redis causes must not eat the processor.
      expect(faulty.cpuMs, told).toBeLessThan(3 * healthy.cpuMs + 0.5);
      // The same cause is told once, not once per message.
      for (const router of routers) expect(router.troubles.length, told).toBeLessThanOrEqual(6);
      process.stdout.write(`${told}\n`);
    });
  }
});

describe('what a hostile or broken writer leaves in Redis', () => {
  const garbage = ['', '[]', 'null', '{', '{"__proto__":{"requests":1}}', 'x'.repeat(100), '[1,"r0",1,"s",1,[["__proto__",1,1,1]]]', '[1,"r1",9007199254740991,"e",[["d","10.0.0.99:80",1]]]', `[1,"ghost",1,"s",1,[["10.0.0.1:80",1e9,1e9,1e9]]]`];

  it('changes no decision to an endpoint that is not configured, and is gone within 2 s', async () => {
    const routers = await fleet(3);
    const load = new Load(routers);
    await load.run(300);
    const healthy = await load.run(400);
    const channels = [keys.events('chat'), ...routers.map(({ id }) => keys.reports(id))];
    const huge = `[1,"huge",1,"s",1,[${'["10.0.0.1:80",1,1,1],'.repeat(250_000)}0]]`;
    const strew = async (round: number): Promise<void> => {
      for (const channel of channels) for (const text of garbage) await admin.publish(channel, text);
      await admin.publish(channels[0]!, huge);
      await admin.publish(channels[1]!, JSON.stringify([['r0.1', 'finished', 'access-log'], ['__proto__.1', 'finished', 'access-log'], ['x', 'y', 'z']]));
      for (const key of await admin.keys('fairlead:*')) {
        const instead = admin.multi().del(key);
        await (round === 0 ? instead.set(key, 'x'.repeat(1_000)) : round === 1 ? instead.lpush(key, ...garbage) : instead.hset(key, '__proto__', 'x')).exec();
      }
      await admin.set(keys.snapshot('chat', 'ghost'), garbage.at(-1)!);
      await admin.set(keys.snapshot('chat', '__proto__'), '__proto__');
    };
    const strewing = (async () => {
      for (let round = 0; round < 3; round += 1) {
        await strew(round);
        await sleep(150);
        const members = Array.from({ length: 2_000 }, (_, i) => ['1e18', `made-up-${i}`]).flat();
        await admin.multi().del(keys.routers('chat')).zadd(keys.routers('chat'), ...members, '1', 'constructor', '1', 'ghost').exec();
        for (const fields of [['k', 'f'.repeat(32), 'a', '10.0.0.99:80'], ['k', '__proto__', 'a', '__proto__'], ['x', 'y']]) await admin.xadd(keys.placements('chat'), '*', ...fields).catch(() => {});
        await sleep(150);
      }
    })();
    const faulty = await load.run(1_200);
    await strewing;
    load.end();
    await until(() => agree(routers), 2_000, () => statusOf(routers));
    expect(faulty.p99Ms).toBeLessThan(3 * healthy.p99Ms + 10);
    for (const { placements } of routers) expect(placements.find('chat', 'f'.repeat(32))).toBeUndefined();
    // The keys are what they should be again.
    expect(await admin.type(keys.routers('chat'))).toBe('zset');
    expect((await admin.zrange(keys.routers('chat'), 0, '-1')).sort()).toEqual(['r0', 'r1', 'r2']);
    expect(await admin.pttl(keys.routers('chat'))).toBeGreaterThan(0);
    // And exceptions are kept as before.
    const { home } = routers[0]!.route({ session: 'after', promptTokens: 1 }).decision;
    routers[0]!.fleet.pool('chat')!.endpoint(home!)!.state = 'not-ready';
    routers[0]!.route({ session: 'after', promptTokens: 1 });
    await until(async () => (await admin.type(keys.placements('chat'))) === 'stream', 1_500);
  });

  it('keeps no idle fleet from hearing of one another either', async () => {
    const routers = await fleet(2);
    for (const key of [keys.routers('chat'), keys.placements('chat')]) await admin.multi().del(key).set(key, 'x').exec();
    await sleep(1_200);
    expect(agree(routers), JSON.stringify(statusOf(routers))).toBe(true);
    expect([await admin.type(keys.routers('chat')), await admin.type(keys.placements('chat'))]).toEqual(['zset', 'none']);
  });
});

describe('without traffic', () => {
  it('routers stay in touch while Redis cannot store anything', async () => {
    const routers = await fleet(2);
    await admin.config('SET', 'maxmemory', '1');
    opened.push(() => admin.config('SET', 'maxmemory', '0'));
    let seldom = 0;
    for (let i = 0; i < 12; i += 1) {
      await sleep(100);
      seldom = Math.max(seldom, ...routers.map(({ exchange }) => exchange.snapshotAgeMs() ?? Infinity));
      for (const { exchange } of routers) expect(exchange.status()).toMatchObject({ connected: true, routersLastSeen: 2 });
    }
    // Nothing is thinned out on account of answers that come at once, if with an error.
    expect(seldom).toBeLessThan(300);
  });

  it('a period between snapshots of seconds is not taken for silence', async () => {
    const routers = await fleet(2, { snapshotMs: 1_100 });
    const subscribed = async (): Promise<number> => Number(/total_connections_received:(\d+)/.exec(await admin.info('stats'))?.[1]);
    const before = await subscribed();
    await sleep(2_500);
    expect(await subscribed()).toBe(before);
    expect(agree(routers)).toBe(true);
  });
});

const inFlightAt = (router: RouterUnderTest): number => router.fleet.pool('chat')!.endpoints.reduce((sum, { own }) => sum + own.requests, 0);

describe('a report for another router', () => {
  it('is sent again when it was lost with the connection that Redis had written it to', async () => {
    const proxy = await startTcpProxy(() => redis.port);
    opened.push(() => proxy.stop());
    const [teller] = (await fleet(1)) as [RouterUnderTest];
    const owner = await startRouter({ id: 'owner', config, settings: redisSettings(`redis://127.0.0.1:${proxy.port}`) });
    opened.push(() => owner.stop());
    await until(() => agree([teller, owner]), 2_000, () => statusOf([teller, owner]));
    const routed = owner.route({ session: 's', promptTokens: 100 });
    proxy.closesOnReply = (text) => text.includes('reports:owner') && proxy.closed === 0;
    teller.finish(routed);
    await until(() => inFlightAt(owner) === 0, 2_000, () => inFlightAt(owner));
    expect(proxy.closed).toBe(1);
  });
});

describe('a router that goes', () => {
  /** Two routers, and a request of the second that the first is told the end of. */
  async function oneReport(): Promise<{ going: RouterUnderTest; report: () => void; inFlight: () => number }> {
    const [going, owner] = (await fleet(2)) as [RouterUnderTest, RouterUnderTest];
    const routed = owner.route({ session: 's', promptTokens: 100 });
    expect(inFlightAt(owner)).toBe(1);
    return { going, report: () => going.finish(routed), inFlight: () => inFlightAt(owner) };
  }

  it('hands over the last reports when its own connection was lost just then', async () => {
    const { going, report, inFlight } = await oneReport();
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    report();
    await going.stop();
    await until(() => inFlight() === 0, 1_000, inFlight);
  });

  it('and when the subscription of the one they are for was', async () => {
    const { going, report, inFlight } = await oneReport();
    await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    report();
    await going.stop();
    await until(() => inFlight() === 0, 1_000, inFlight);
  });

  it('waits half a second, no longer, where Redis is away, and not at all without reports', async () => {
    const proxy = await startTcpProxy(() => redis.port);
    opened.push(() => proxy.stop());
    const stopTook = async (reports: boolean): Promise<number> => {
      const [going, owner] = (await fleet(2, {}, `redis://127.0.0.1:${proxy.port}`)) as [RouterUnderTest, RouterUnderTest];
      const routed = owner.route({ session: 's', promptTokens: 100 });
      proxy.mode = 'close';
      proxy.closeAll();
      if (reports) going.finish(routed);
      const startedMs = performance.now();
      await going.stop();
      const tookMs = performance.now() - startedMs;
      await owner.stop();
      proxy.mode = 'pass';
      return tookMs;
    };
    const withMs = await stopTook(true);
    expect(withMs).toBeGreaterThan(300);
    expect(withMs).toBeLessThan(1_500);
    await admin.flushall();
    expect(await stopTook(false)).toBeLessThan(300);
  });
});

describe('a start', () => {
  it('without Redis succeeds, says why, and joins when Redis comes', async () => {
    const away = createRouterUnderTest({ id: 'early', config, settings: redisSettings('redis://127.0.0.1:1', { connectTimeoutMs: 200 }) });
    opened.push(() => away.stop());
    const proxy = await startTcpProxy(() => redis.port);
    opened.push(() => proxy.stop());
    // As a proxy does whose server is away: it must not be taken for a port that expects TLS.
    proxy.mode = 'close';
    const early = createRouterUnderTest({ id: 'r0', config, settings: redisSettings(`redis://127.0.0.1:${proxy.port}`) });
    opened.push(() => early.stop());
    const startedMs = performance.now();
    await Promise.all([away.exchange.start(), early.exchange.start()]);
    expect(performance.now() - startedMs).toBeLessThan(4_500);
    expect(away.exchange.trouble()).toMatchObject({ code: 'unreachable', permanent: false });
    expect(early.exchange.trouble()).toMatchObject({ permanent: false });
    for (const router of [away, early]) expect(router.route({ session: 's', promptTokens: 1 }).addresses).toHaveLength(6);
    proxy.mode = 'pass';
    const other = await startRouter({ id: 'r1', config, settings: redisSettings(redis.url) });
    opened.push(() => other.stop());
    await until(() => agree([early, other]), 2_000, () => statusOf([early, other]));
  });

  it('whose first subscription fails subscribes all the same', async () => {
    const proxy: TcpProxy = await startTcpProxy(() => redis.port);
    opened.push(() => proxy.stop());
    proxy.closesOn = (text) => /\r\nsubscribe\r\n/i.test(text) && proxy.closed < 3;
    const router = createRouterUnderTest({ id: 'r0', config, settings: redisSettings(`redis://127.0.0.1:${proxy.port}`) });
    opened.push(() => router.stop());
    await router.exchange.start();
    await until(() => agree([router]), 3_000, () => statusOf([router]));
    expect(proxy.closed).toBe(3);
  });

  it('with two routers that cannot reach Redis: they agree on every session by the hash alone', async () => {
    const routers = ['a', 'b'].map((id) => createRouterUnderTest({ id, config, settings: redisSettings('redis://127.0.0.1:1') }));
    for (let i = 0; i < 300; i += 1) {
      const [ours, theirs] = routers.map((router) => {
        const routed = router.route({ session: `s${i}`, promptTokens: 500 });
        if (i % 3 > 0) router.finish(routed);
        return routed;
      }) as [Routed, Routed];
      expect(ours.decision.home).toBe(theirs.decision.home);
      if (ours.decision.reason === 'affinity-home' && theirs.decision.reason === 'affinity-home') expect(ours.addresses[0]).toBe(theirs.addresses[0]);
    }
  });
});
