import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { runFairlead } from '../../lab/child-process.ts';
import { type Answer, inParallel, tally } from './http-client.ts';
import {
  cappedRequestsMax,
  expectAcquainted,
  readFleetInFlight,
  readReport,
  ReplaceableRedis,
  type RouterFleet,
  startRouterFleet,
  sumMetric,
} from './router-fleet.ts';
import { RunningParts } from './running-parts.ts';

const parts = new RunningParts();
let redis: ReplaceableRedis;
let fleet: RouterFleet;

beforeAll(async () => {
  redis = await parts.add(ReplaceableRedis.start());
  fleet = await startRouterFleet(parts, { state: { kind: 'redis', url: redis.url } });
  await vi.waitFor(() => expectAcquainted(fleet.routers), { timeout: 5_000 });
});
afterAll(() => parts.stop());

const ownInFlight = (): Promise<number[]> => Promise.all(fleet.routers.map((router) => router.requestsInFlight()));

it('3000 requests through 3 routers are all over within a second, none by expiry', async () => {
  const requests = 3_000;
  const statuses: string[] = [];
  await inParallel(requests, 32, async (index) => {
    const { status } = await fleet.client.send({ path: '/chat/completions', headers: { 'x-session-id': `session-${index % 500}` }, body: '{}' });
    statuses.push(String(status));
  });
  await expect.poll(ownInFlight, { timeout: 1_000, interval: 20 }).toEqual([0, 0, 0]);
  expect(tally(statuses)).toEqual({ '200': requests });

  const { routers } = fleet;
  expect(await sumMetric(routers, 'fairlead_decisions_total')).toBe(requests);
  expect(await sumMetric(routers, 'fairlead_requests_released_total', { signal: 'access-log', ending: 'finished' })).toBe(requests);
  expect(await sumMetric(routers, 'fairlead_requests_released_total', { ending: 'expired' })).toBe(0);
  // Each router decided; records came to few of them, for Envoy keeps one stream of records per worker thread.
  for (const router of routers) expect(await router.metric('fairlead_decisions_total')).toBeGreaterThan(requests / 10);
  const forwarded = await sumMetric(routers, 'fairlead_foreign_reports_total', { outcome: 'forwarded' });
  expect(forwarded).toBeGreaterThanOrEqual(requests / 4);
  expect(await sumMetric(routers, 'fairlead_foreign_reports_total', { outcome: 'lost' })).toBe(0);
  expect(await sumMetric(routers, 'fairlead_unknown_leases_total')).toBe(0);
  // And nobody believes that anyone has anything left.
  await expect.poll(() => readFleetInFlight(routers, 'chat'), { timeout: 1_000, interval: 20 }).toEqual([0, 0, 0]);
});

it('routers that stalled hand on what they were told meanwhile', async () => {
  const { routers, client, servers } = fleet;
  const requests = 90;
  const lostBefore = await sumMetric(routers, 'fairlead_foreign_reports_total', { outcome: 'lost' });
  const answers = Promise.all(Array.from({ length: requests }, () => client.send({ path: '/held/hold', body: '{}' })));
  await expect.poll(() => servers.held.reduce((sum, { inFlight }) => sum + inFlight, 0), { timeout: 10_000 }).toBe(requests);
  try {
    // What a pause of the machine does: nothing is heard for longer than three snapshots, then everything at once.
    for (const router of routers) router.signal('SIGSTOP');
    for (const server of servers.held) server.letGo();
    for (const { status } of await answers) expect(status).toBe(200);
    await sleep(700);
  } finally {
    for (const router of routers) router.signal('SIGCONT');
  }
  await expect.poll(ownInFlight, { timeout: 2_000, interval: 20 }).toEqual([0, 0, 0]);
  expect((await sumMetric(routers, 'fairlead_foreign_reports_total', { outcome: 'lost' })) - lostBefore).toBe(0);
});

describe('one session, whichever router', () => {
  const sessions = 200;
  const turns = 5;
  const wave = 12;
  const path = '/chat/completions';

  async function send(session: number): Promise<string> {
    const { status, servedBy } = await fleet.client.send({ path, headers: { 'x-session-id': `talk-${session}` }, body: '{"messages":[]}' });
    expect(status).toBe(200);
    return servedBy ?? 'nobody';
  }

  it('stays on one endpoint, also where that is not its home', async () => {
    const { servers, routers, client } = fleet;
    // One endpoint carries a huge prompt: sessions at home there are turned away. Small requests beside it keep the slack small.
    const smallHeld = 24;
    const holding = [
      client.send({ path: '/chat/hold', headers: { 'x-session-id': 'huge' }, body: Buffer.alloc(1_000_000, 'x') }),
      ...Array.from({ length: smallHeld }, (_, i) => client.send({ path: '/chat/hold', headers: { 'x-session-id': `small-${i}` }, body: '{}' })),
    ];
    const last: string[] = [];
    let diverted: number;
    try {
      await expect.poll(() => servers.chat.reduce((sum, { inFlight }) => sum + inFlight, 0), { timeout: 10_000 }).toBe(smallHeld + 1);
      await expect.poll(() => readFleetInFlight(routers, 'chat'), { timeout: 2_000 }).toEqual([smallHeld + 1, smallHeld + 1, smallHeld + 1]);
      const divertedBefore = await sumMetric(routers, 'fairlead_decisions_total', { reason: 'affinity-diverted' });
      await inParallel(sessions, 4, async (session) => {
        last[session] = await send(session);
      });
      diverted = (await sumMetric(routers, 'fairlead_decisions_total', { reason: 'affinity-diverted' })) - divertedBefore;
    } finally {
      for (const server of servers.chat) server.letGo();
    }
    for (const { status } of await Promise.all(holding)) expect(status).toBe(200);
    // A quarter is at home on the full endpoint: 50 ± 6.
    expect(diverted).toBeGreaterThan(sessions / 10);
    expect(new Set(last).size).toBe(servers.chat.length - 1);
    await expect.poll(ownInFlight, { timeout: 5_000, interval: 20 }).toEqual([0, 0, 0]);

    // Their homes are free again, but their caches are where they were sent, and two of three turns go to a router that did not send them.
    const before = await Promise.all(routers.map((router) => router.metric('fairlead_decisions_total')));
    let followed = 0;
    for (let turn = 1; turn < turns; turn += 1) {
      // A wave is in flight as long as its completions are on their way: small ones leave every session's place within its bound.
      for (let first = 0; first < sessions; first += wave) {
        await inParallel(Math.min(wave, sessions - first), 4, async (at) => {
          const session = first + at;
          const now = await send(session);
          if (now === last[session]) followed += 1;
          last[session] = now;
        });
        await expect.poll(ownInFlight, { timeout: 5_000, interval: 5 }).toEqual([0, 0, 0]);
      }
    }
    expect(followed / (sessions * (turns - 1))).toBeGreaterThanOrEqual(0.98);
    for (const [at, router] of routers.entries()) {
      expect((await router.metric('fairlead_decisions_total')) - before[at]!).toBeGreaterThan((sessions * (turns - 1)) / 10);
    }
  });
});

describe(`at most ${cappedRequestsMax} requests on an endpoint, exactly`, () => {
  const places = 2 * cappedRequestsMax;
  const burst = 60;

  /** Sends slow requests; `answers` has those refused, and all of them once they were let go. */
  function sendSlow(count: number): { answers: Answer[]; all: Promise<unknown> } {
    const answers: Answer[] = [];
    const all = Promise.all(Array.from({ length: count }, async () => answers.push(await fleet.client.send({ path: '/capped/hold', body: '{}' }))));
    return { answers, all };
  }
  const held = (): number => fleet.servers.capped.reduce((sum, { inFlight }) => sum + inFlight, 0);
  const peaks = (): number[] => fleet.servers.capped.map(({ peak }) => peak);
  /** Every place is free, in Redis and in the eyes of every router. */
  const settled = async (): Promise<number[]> => {
    const kept = await Promise.all(fleet.servers.capped.map(({ address }) => client.zcard(`fairlead:{capped}:cap:${address}`)));
    return [...kept, ...(await ownInFlight()), ...(await readFleetInFlight(fleet.routers, 'capped'))];
  };
  const expectSettled = (): Promise<void> => expect.poll(settled, { timeout: 5_000, interval: 20 }).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  let client: Redis;
  beforeAll(() => {
    client = new Redis(redis.port);
    client.on('error', () => {});
  });
  afterAll(() => client.disconnect());

  const letGo = (): void => {
    for (const server of fleet.servers.capped) server.letGo();
  };

  it('fills every place, refuses the rest, and has the places back when they are free', async () => {
    for (let round = 0; round < 2; round += 1) {
      const { answers, all } = sendSlow(burst);
      try {
        await expect.poll(() => answers.length, { timeout: 10_000 }).toBe(burst - places);
        // The last of them may be on its way to its server still when all others are refused.
        await expect.poll(held, { timeout: 10_000 }).toBe(places);
        for (const { status, headers } of answers) {
          expect(status).toBe(429);
          expect(Number(headers['retry-after'])).toBeGreaterThan(0);
        }
      } finally {
        letGo();
      }
      await all;
      expect(tally(answers.map(({ status }) => String(status)))).toEqual({ '200': places, '429': burst - places });
      expect(peaks()).toEqual([cappedRequestsMax, cappedRequestsMax]);
      await expectSettled();
    }
  });

  /** Reports of ends need a way to their owners: the slow requests end when there is one again. */
  async function endWithRedis(...slow: { all: Promise<unknown> }[]): Promise<void> {
    await redis.restart();
    try {
      await vi.waitFor(() => expectAcquainted(fleet.routers), { timeout: 5_000 });
    } finally {
      letGo();
    }
    await Promise.all(slow.map(({ all }) => all));
    await expectSettled();
  }

  it('is kept when Redis stops under full load, by what was last heard', async () => {
    const first = sendSlow(places);
    const sent = [first];
    try {
      await expect.poll(held, { timeout: 10_000 }).toBe(places);
      await expect.poll(() => readFleetInFlight(fleet.routers, 'capped'), { timeout: 2_000 }).toEqual([places, places, places]);
      await redis.stop();
      // At once, and when the outage has been noticed.
      for (const connected of [undefined, false]) {
        if (connected === false) {
          const now = async (): Promise<boolean[]> => (await Promise.all(fleet.routers.map(readReport))).map(({ sharing }) => sharing.connected);
          await expect.poll(now, { timeout: 2_000 }).toEqual([false, false, false]);
        }
        const more = sendSlow(burst);
        sent.push(more);
        await expect.poll(() => more.answers.length, { timeout: 10_000 }).toBe(burst);
        expect(tally(more.answers.map(({ status }) => String(status)))).toEqual({ '429': burst });
        expect(peaks()).toEqual([cappedRequestsMax, cappedRequestsMax]);
      }
    } finally {
      await endWithRedis(...sent);
    }
  });

  it('is divided among the routers while Redis is away, from the first request on', async () => {
    for (const server of fleet.servers.capped) server.resetPeak();
    await redis.stop();
    const slow = sendSlow(burst);
    try {
      // Nobody waits for Redis: whoever is not held is refused.
      await expect.poll(() => slow.answers.length + held(), { timeout: 10_000 }).toBe(burst);
      // 5 on 3 routers are 2 + 2 + 1; which router gets how many requests is Envoy's choice, but none gets so few.
      expect(held()).toBe(places);
      expect(Math.max(...peaks())).toBeLessThanOrEqual(cappedRequestsMax);
    } finally {
      await endWithRedis(slow);
    }
  });
});

it('fairlead fleet prints the routers', async () => {
  const [router] = fleet.routers;
  await expect.poll(async () => (await readReport(router!)).routers.length, { timeout: 5_000 }).toBe(3);
  const ids = (await readReport(router!)).routers.map(({ id }) => id);
  expect(ids).toContain((await readReport(fleet.routers[1]!)).router.id);
  const command = await parts.add(runFairlead(['fleet', '--admin', `127.0.0.1:${router!.adminPort}`]));
  expect(await command.ended).toBe(0);
  expect(command.log()).toMatch(/^state {2}redis: connected, events pushed, last heard \d+ ms ago$/m);
  for (const id of ids) expect(command.log()).toMatch(new RegExp(`^ *${id} +\\d+ ms +\\d+ +\\d+ %$`, 'm'));
  for (const { address } of fleet.servers.chat) expect(command.log()).toContain(address);
});

it('routers that keep their state to themselves behind one cluster warn by name', async () => {
  const { routers, client } = await startRouterFleet(parts, { state: { kind: 'memory' }, routers: 2, serverCounts: { chat: 1, held: 1, capped: 1 } });
  await inParallel(100, 8, async () => {
    expect((await client.send({ path: '/chat/completions', headers: { 'x-session-id': 's' }, body: '{}' })).status).toBe(200);
  });
  await expect.poll(() => sumMetric(routers, 'fairlead_foreign_reports_total', { outcome: 'lost' }), { timeout: 5_000 }).toBeGreaterThan(0);
  const warnings = routers.flatMap((router) => router.log().split('\n').filter((line) => line.includes('"event":"foreign_lease"')));
  expect(warnings.length).toBeGreaterThan(0);
  const ids = await Promise.all(routers.map(async (router) => (await readReport(router)).router.id));
  for (const line of warnings) {
    const { level, owner, msg } = JSON.parse(line) as { level: unknown; owner: string; msg: string };
    expect(String(level)).toMatch(/^(warn|40)$/);
    expect(ids).toContain(owner);
    expect(msg).toContain('shared state');
  }
  expect(await sumMetric(routers, 'fairlead_foreign_reports_total', { outcome: 'forwarded' })).toBe(0);
});
