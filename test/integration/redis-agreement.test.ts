import { setTimeout as sleep } from 'node:timers/promises';
import { type ClientDuplexStream, Client, credentials } from '@grpc/grpc-js';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { type RedisProcess, startRedis } from '../../lab/redis-process.ts';
import type { CompiledConfig } from '../../src/config/load-outcome.ts';
import type { ProcessingRequest, ProcessingResponse } from '../../src/extproc/messages.ts';
import { decodeProcessingResponse, encodeProcessingRequest, externalProcessorService } from '../../src/extproc/proto.ts';
import type { RedisSettings } from '../../src/redis/settings.ts';
import type { Routed } from '../../src/router/routed.ts';
import { chatPool, compiled, redisSettings, type RouterUnderTest, seededDraw, startRouter, until } from './router-under-test.ts';

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
  await Promise.all(opened.splice(0).reverse().map((close) => close()));
});

async function fleet(count: number, config: CompiledConfig, changes: Partial<RedisSettings> = {}): Promise<RouterUnderTest[]> {
  const routers = await Promise.all(Array.from({ length: count }, (_, i) => startRouter({ id: `r${i}`, config, settings: redisSettings(redis.url, changes) })));
  for (const router of routers) opened.push(() => router.stop());
  await until(() => routers.every(({ exchange }) => exchange.status().connected && exchange.status().routersLastSeen === count), 3_000, () => routers.map(({ exchange }) => exchange.status()));
  return routers;
}

/** Requests in flight on each endpoint, counted by those who sent them. */
function truth(routers: readonly RouterUnderTest[]): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const { fleet: { pools } } of routers) for (const { address, own } of pools.get('chat')!.endpoints) sums[address] = (sums[address] ?? 0) + own.requests;
  return sums;
}

/** Every router sees what there is. */
function agree(routers: readonly RouterUnderTest[]): boolean {
  const there = JSON.stringify(truth(routers));
  return routers.every((router) => JSON.stringify(router.requestsSeen()) === there);
}

/** Waits until no router is further behind the truth than so many requests: paces by what arrived, whatever the machine does. */
async function caughtUp(routers: readonly RouterUnderTest[], behindMax: number): Promise<void> {
  const sum = (loads: Record<string, number>): number => Object.values(loads).reduce((total, load) => total + load, 0);
  const startedMs = performance.now();
  for (;;) {
    const all = sum(truth(routers));
    if (routers.every((router) => Math.abs(all - sum(router.requestsSeen())) <= behindMax)) return;
    if (performance.now() - startedMs > 5_000) throw new Error('events do not arrive');
    await sleep(1);
  }
}

describe('four routers on one Redis', () => {
  /** Sessions in turns, at routers by chance, with so many requests in flight, of which at most `behind` are not known to all. */
  async function turnsOf(options: { sessions: number; turns: number; slackRequests: number; inFlight: number; behind: number }): Promise<{ same: number; beyond: number }> {
    const { sessions, turns, slackRequests, inFlight, behind } = options;
    const addresses = Array.from({ length: 10 }, (_, i) => `{ address: '10.0.0.${i + 1}:80' }`).join(', ');
    const routers = await fleet(4, compiled(`pools: [{ name: chat, policy: { preset: session-affinity, parameters: { slackRequests: ${slackRequests} } }, endpoints: [${addresses}] }]`));
    const draw = seededDraw('arrivals');
    const last = new Map<number, string>();
    const running: { router: RouterUnderTest; routed: Routed }[] = [];
    let [same, beyond] = [0, -Infinity];
    for (let turn = 0; turn < turns; turn += 1) {
      const order = Array.from({ length: sessions }, (_, session) => ({ session, at: draw() })).sort((a, b) => a.at - b.at);
      for (const [n, { session }] of order.entries()) {
        const router = routers[Math.floor(draw() * 4)]!;
        const routed = router.route({ session: `s${session}`, promptTokens: 1_000 });
        const [address = ''] = routed.addresses;
        if (last.get(session) === address) same += 1;
        last.set(session, address);
        running.push({ router, routed });
        if (running.length > inFlight) {
          const first = running.shift()!;
          first.router.finish(first.routed);
        }
        const loads = Object.values(truth(routers));
        const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
        beyond = Math.max(beyond, Math.max(...loads) - Math.max(1.25 * mean, mean + slackRequests));
        if (n % behind === behind - 1) await caughtUp(routers, 0);
      }
    }
    for (const { router, routed } of running) router.finish(routed);
    await until(() => agree(routers), 2_000, () => routers.map((router) => router.requestsSeen()));
    expect(Object.values(truth(routers))).toEqual(new Array(10).fill(0));
    return { same: same / (sessions * (turns - 1)), beyond };
  }

  it('1000 sessions of 8 turns: follow-up turns go to the same endpoint, where the bound leaves them', async () => {
    const { same } = await turnsOf({ sessions: 1_000, turns: 8, slackRequests: 8, inFlight: 40, behind: 20 });
    expect(same).toBeGreaterThanOrEqual(0.98);
  });

  it('a bound that bites is passed by no more than what was on the way between the routers', async () => {
    const { beyond } = await turnsOf({ sessions: 500, turns: 3, slackRequests: 2, inFlight: 80, behind: 4 });
    expect(beyond).toBeLessThanOrEqual(4);
  });

  it('a burst of 200 requests on 10 idle endpoints: the fullest gets at most 1.15 × the mean', async () => {
    const routers = await fleet(4, chatPool(10, 'least-requests'));
    const draw = seededDraw('burst');
    for (let i = 0; i < 200; i += 1) {
      routers[Math.floor(draw() * 4)]!.route({ session: `burst ${i}`, promptTokens: 1_000 });
      // 4 requests a ms, 2 ms on the way: at any time 8 of them are not known to all.
      await caughtUp(routers, 8);
    }
    expect(Math.max(...Object.values(truth(routers)))).toBeLessThanOrEqual(23);
  });

  for (const [how, changes, most] of [['pushed', {}, 16], ['by snapshots alone', { pushEventsPerSecondMax: 0 }, 18]] as const) {
    it(`nine loaded endpoints and an idle one, ${how}: of 40 requests at most ${most} go to the idle one`, async () => {
      const routers = await fleet(4, chatPool(10, 'least-requests'), changes);
      for (let endpoint = 2; endpoint <= 10; endpoint += 1) {
        for (let i = 0; i < 10; i += 1) {
          const { own } = routers[(endpoint + i) % 4]!.fleet.pool('chat')!.endpoint(`10.0.0.${endpoint}:80`)!;
          own.requests += 1;
          own.promptTokens += 1_000;
        }
      }
      await until(() => agree(routers), 2_000);
      const draw = seededDraw(how);
      let idle = 0;
      for (let i = 0; i < 40; i += 1) {
        const routed = routers[Math.floor(draw() * 4)]!.route({ session: `idle ${i}`, promptTokens: 1_000 });
        if (routed.addresses[0] === '10.0.0.1:80') idle += 1;
        // Pushed, 2 of them are on the way at any time; by snapshots, all of the 50 ms are.
        if (how === 'pushed') await caughtUp(routers, 2);
      }
      expect(idle).toBeLessThanOrEqual(most);
    });
  }

  it('a session that was diverted is found where it is by every router, those that join included, and does not flap when its home is back', async () => {
    const config = chatPool(10);
    const routers = await fleet(3, config);
    const turnAt = (router: RouterUnderTest): Routed => {
      const routed = router.route({ session: 's', promptTokens: 100 });
      router.finish(routed);
      return routed;
    };
    const home = turnAt(routers[0]!).decision.home!;
    const everywhere = (state: 'ready' | 'not-ready'): void => {
      for (const router of routers) router.fleet.pool('chat')!.endpoint(home)!.state = state;
    };
    everywhere('not-ready');
    const diverted = turnAt(routers[1]!).addresses[0]!;
    expect(diverted).not.toBe(home);
    await until(() => routers.every(({ placements }) => placements.size === 1), 1_000);
    everywhere('ready');
    const startedMs = performance.now();
    const late = await startRouter({ id: 'late', config, settings: redisSettings(redis.url) });
    opened.push(() => late.stop());
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    routers.push(late);
    for (let turn = 0; turn < 8; turn += 1) {
      everywhere(turn % 3 === 1 ? 'not-ready' : 'ready');
      for (const router of routers) expect([turn, router.id, turnAt(router).addresses[0]]).toEqual([turn, router.id, diverted]);
      await sleep(5);
    }
  });

  it('a router that joins knows the load and the others within 2 s', async () => {
    const config = chatPool(4);
    const routers = await fleet(2, config);
    for (let i = 0; i < 20; i += 1) routers[i % 2]!.route({ session: `s${i}`, promptTokens: 100 });
    // The next snapshots hold them.
    await sleep(150);
    const startedMs = performance.now();
    const late = await startRouter({ id: 'late', config, settings: redisSettings(redis.url) });
    opened.push(() => late.stop());
    // When it starts to serve, it has read what is kept: no wait for the next word of each.
    expect(Object.values(late.requestsSeen()).reduce((sum, load) => sum + load, 0)).toBe(20);
    await until(() => agree([...routers, late]) && [...routers, late].every(({ exchange }) => exchange.status().routersLastSeen === 3), 2_000);
    expect(performance.now() - startedMs).toBeLessThan(2_000);
  });
});

describe('a router that is gone', () => {
  it('without a goodbye, its counts are gone on the others within 2 s, and only its', async () => {
    const routers = await fleet(3, chatPool(4));
    for (let i = 0; i < 300; i += 1) routers[i % 3]!.route({ session: `s${i}`, promptTokens: 100 });
    await until(() => agree(routers), 1_000);
    const gone = routers.pop()!;
    const startedMs = performance.now();
    await gone.stop();
    await until(() => agree(routers), 2_000, () => routers.map((router) => router.requestsSeen()));
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    expect(Object.values(truth(routers)).reduce((sum, load) => sum + load, 0)).toBe(200);
    await until(() => routers.every(({ exchange }) => exchange.status().routersLastSeen === 2), 500);
  });

  it('one after the other, while others join, drain, and endpoints flap: nothing is ever below nothing, and nothing is left in the end', async () => {
    const config = chatPool(4);
    const draw = seededDraw('comings and goings');
    const routers = await fleet(3, config);
    opened.push(() => Promise.all(routers.map((router) => router.stop())));
    const running: { router: RouterUnderTest; routed: Routed }[] = [];
    const anyOf = <T>(all: readonly T[]): T => all[Math.floor(draw() * all.length)]!;
    for (let step = 0; step < 300; step += 1) {
      const router = anyOf(routers);
      running.push({ router, routed: router.route({ session: `s${Math.floor(draw() * 50)}`, promptTokens: Math.ceil(draw() * 2_000) }) });
      if (draw() < 0.2) router.router.firstToken(running.at(-1)!.routed.lease);
      // An access-log record arrives at any router.
      if (running.length > 40) {
        const [{ routed }] = running.splice(Math.floor(draw() * running.length), 1) as [(typeof running)[number]];
        anyOf(routers).finish(routed);
      }
      if (step % 60 === 30) {
        const [gone] = routers.splice(Math.floor(draw() * routers.length), 1) as [RouterUnderTest];
        void gone.stop();
        for (let i = running.length - 1; i >= 0; i -= 1) if (running[i]!.router === gone) running.splice(i, 1);
        routers.push(await startRouter({ id: `j${step}`, config, settings: redisSettings(redis.url) }));
      }
      if (step % 60 === 10) await admin.call('CLIENT', 'KILL', 'TYPE', draw() < 0.5 ? 'pubsub' : 'normal', 'SKIPME', 'yes');
      const flapping = anyOf(router.fleet.pool('chat')!.endpoints);
      flapping.state = flapping.state === 'ready' && step % 2 === 0 && router.fleet.pool('chat')!.endpoints.every(({ state }) => state === 'ready') ? 'not-ready' : 'ready';
      for (const { fleet: { pools } } of routers) {
        for (const { own, foreign, requests, promptTokens } of pools.get('chat')!.endpoints) {
          expect(Math.min(...Object.values(own.toLoad()), ...Object.values(foreign.toLoad()), requests - own.requests, promptTokens - own.promptTokens)).toBeGreaterThanOrEqual(0);
        }
      }
      await sleep(5);
    }
    for (const { router, routed } of running) router.finish(routed);
    const isEmpty = (): boolean => Object.values(truth(routers)).every((requests) => requests === 0);
    await until(() => isEmpty() && agree(routers) && routers.every(({ exchange }) => exchange.status().routersLastSeen === 3), 5_000, () => routers.map((router) => [router.requestsSeen(), router.exchange.status()]));
    expect(Object.values(truth(routers))).toEqual([0, 0, 0, 0]);
  });

  it('killed with kill -9 with 500 requests in flight, its counts are gone on the others within 2 s', async () => {
    const config = chatPool(4);
    const fairlead: FairleadProcess = await startFairlead({
      state: { kind: 'redis', url: redis.url },
      affinity: { secret: 'one per fleet' },
      pools: [{ name: 'chat', endpoints: config.pools[0]!.endpoints.map(({ address }) => ({ address })) }],
    });
    opened.push(() => fairlead.stop());
    const watcher = await startRouter({ id: 'watcher', config, settings: redisSettings(redis.url) });
    opened.push(() => watcher.stop());
    const client = new Client(fairlead.address, credentials.createInsecure());
    opened.push(() => client.close());
    const streams: ClientDuplexStream<ProcessingRequest, ProcessingResponse>[] = [];
    for (let i = 0; i < 500; i += 1) streams.push(askFor(client, `s${i}`));
    const seen = (): number => Object.values(watcher.requestsSeen()).reduce((sum, load) => sum + load, 0);
    await until(() => seen() === 500, 10_000, seen);
    const startedMs = performance.now();
    fairlead.signal('SIGKILL');
    expect(await fairlead.ended).toBe('SIGKILL');
    await until(() => seen() === 0, 2_000, seen);
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    for (const stream of streams) stream.cancel();
  });
});

/** Opens an ext_proc stream and sends a request's headers, as Envoy does; its response never comes. */
function askFor(client: Client, session: string): ClientDuplexStream<ProcessingRequest, ProcessingResponse> {
  const call = client.makeBidiStreamRequest(externalProcessorService.Process.path, encodeProcessingRequest, decodeProcessingResponse);
  call.on('error', () => {});
  call.on('data', () => {});
  const headers = Object.entries({ ':method': 'POST', ':path': '/v1/chat/completions', 'x-session-id': session, 'content-length': '400' });
  call.write({ request_headers: { headers: { headers: headers.map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) }, end_of_stream: false } });
  return call;
}
