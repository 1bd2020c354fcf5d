import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { freePorts } from '../../lab/envoy-process.ts';
import type { FairleadProcess } from '../../lab/fairlead-process.ts';
import { type Answer, tally } from './http-client.ts';
import { expectAcquainted, readFleetInFlight, readReadiness, readReport, ReplaceableRedis, type RouterFleet, startRouterFleet } from './router-fleet.ts';
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

/** Requests that come in steadily, whatever becomes of the earlier ones. */
interface Load {
  readonly latenciesMs: readonly number[];
  /** Statuses and causes of failure, counted. */
  stop(): Promise<Record<string, number>>;
}

const requestsPerSecond = 250;

function startLoad({ client }: RouterFleet): Load {
  const latenciesMs: number[] = [];
  const outcomes: string[] = [];
  const underWay = new Set<Promise<void>>();
  let sent = 0;
  const send = async (session: number): Promise<void> => {
    const startedMs = performance.now();
    try {
      const { status, body } = await client.send({ path: '/chat/completions', headers: { 'x-session-id': `session-${session}` }, body: '{}' });
      outcomes.push(status === 200 ? '200' : `${status} ${body.toString()}`);
    } catch (error) {
      outcomes.push(String(error));
    }
    latenciesMs.push(performance.now() - startedMs);
  };
  const timer = setInterval(() => {
    const request = send(sent % 200);
    sent += 1;
    underWay.add(request);
    void request.then(() => underWay.delete(request));
  }, 1_000 / requestsPerSecond);
  return {
    latenciesMs,
    stop: async () => {
      clearInterval(timer);
      await Promise.all(underWay);
      return tally(outcomes);
    },
  };
}

/** How long decisions took, as the routers measured it, since they started: count by upper bound in seconds. */
async function readAnswerLatency(routers: readonly FairleadProcess[]): Promise<Map<number, number>> {
  const buckets = new Map<number, number>();
  for (const router of routers) {
    for (const line of (await router.get('/metrics')).text.split('\n')) {
      const match = /^fairlead_answer_latency_seconds_bucket\{.*le="([^"]+)".*\} (\d+)$/.exec(line);
      if (match === null) continue;
      const bound = match[1] === '+Inf' ? Infinity : Number(match[1]);
      buckets.set(bound, (buckets.get(bound) ?? 0) + Number(match[2]));
    }
  }
  return buckets;
}

/** The bound below which 99 % of what came between two readings lies, in ms. */
function p99OfBuckets(before: ReadonlyMap<number, number>, after: ReadonlyMap<number, number>): number {
  const counts = [...after].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)] as const).sort(([a], [b]) => a - b);
  const total = counts.at(-1)?.[1] ?? 0;
  expect(total).toBeGreaterThan(0);
  return (counts.find(([, count]) => count >= 0.99 * total)?.[0] ?? Infinity) * 1_000;
}

const p99 = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? 0;

interface Measured {
  readonly outcomes: Record<string, number>;
  readonly clientP99Ms: number;
  readonly answerP99Ms: number;
}

/** Load while `during` runs. */
async function measure(target: RouterFleet, during: () => Promise<unknown>): Promise<Measured> {
  const before = await readAnswerLatency(target.routers);
  const load = startLoad(target);
  let outcomes: Record<string, number>;
  try {
    await during();
  } finally {
    outcomes = await load.stop();
  }
  return { outcomes, clientP99Ms: p99(load.latenciesMs), answerP99Ms: p99OfBuckets(before, await readAnswerLatency(target.routers)) };
}

/**
 * Whoever waits for Redis waits 500 ms for a command or 1 s for a connection, and a fault of a second makes far more than one request in
 * a hundred do so. What a busy machine adds is a matter of some scheduling rounds: that is the allowance.
 */
function isAsQuick(measured: Measured, healthy: Measured): boolean {
  return measured.answerP99Ms <= 3 * healthy.answerP99Ms + 10 && measured.clientP99Ms <= 3 * healthy.clientP99Ms + 50;
}

/** Holds slow requests, and has their number told by every router. */
async function holdRequests(target: RouterFleet, count: number): Promise<{ answers: Promise<Answer[]>; letGo(): void }> {
  const { servers, client } = target;
  const answers = Promise.all(Array.from({ length: count }, () => client.send({ path: '/held/hold', body: '{}' })));
  // Until it is awaited, it fails nobody.
  answers.catch(() => {});
  await expect.poll(() => servers.held.reduce((sum, { inFlight }) => sum + inFlight, 0), { timeout: 10_000 }).toBe(count);
  return {
    answers,
    letGo: () => {
      for (const server of servers.held) server.letGo();
    },
  };
}

/** All routers hear one another, say that all is well, and tell the same number of requests held. */
async function expectAgreement(target: RouterFleet, held: number, timeoutMs: number): Promise<void> {
  const { routers } = target;
  await vi.waitFor(
    async () => {
      await expectAcquainted(routers);
      expect(await readFleetInFlight(routers, 'held')).toEqual(routers.map(() => held));
      await expectReadiness(target, /^redis: connected/);
    },
    { timeout: timeoutMs, interval: 25 },
  );
}

const expectReadiness = async ({ routers }: RouterFleet, pattern: RegExp): Promise<void> => {
  for (const { status, state } of await Promise.all(routers.map(readReadiness))) {
    expect(state).toMatch(pattern);
    expect(status).toBe(200);
  }
};

/** Runs commands on the Redis under test. */
async function withRedis<T>(run: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(redis.port, { maxRetriesPerRequest: 0, retryStrategy: () => null });
  client.on('error', () => {});
  try {
    return await run(client);
  } finally {
    client.disconnect();
  }
}

/** Messages that no router wrote, on every channel, for a while; among them well-formed ones from routers that do not exist. */
async function writeGarbage(client: Redis): Promise<void> {
  const endpoint = fleet.servers.chat[0]!.address;
  const event = (row: unknown): string => JSON.stringify([1, 'nobody', Date.now(), 'e', [row]]);
  const snapshot = (rows: unknown): string => JSON.stringify([1, 'nobody', Date.now(), 's', 1, rows]);
  const messages = [
    Buffer.from([0xff, 0x00, 0xc3, 0x28]),
    'null',
    '[',
    '['.repeat(50_000),
    'x'.repeat(3_000_000),
    snapshot([['6.6.6.6:66', 1, 1, 1]]),
    snapshot([[endpoint, -5, -5, -5]]),
    snapshot([[endpoint, '1e999', null, {}]]),
    snapshot({ length: 1e9 }),
    event(['d', '6.6.6.6:66', 5, 'f'.repeat(32), 1]),
    event(['d', endpoint, 1e300]),
    event(['x', endpoint, 1e9, 1]),
    event(['__proto__', endpoint, 1]),
    JSON.stringify([['nobody.1', 'finished', 'access-log', 200, 1, endpoint], ['', 'finished'], 7]),
  ];
  const ids = (await Promise.all(fleet.routers.map(readReport))).map(({ router }) => router.id);
  const channels = ['fairlead:{chat}:events', 'fairlead:{held}:events', ...ids.map((id) => `fairlead:reports:${id}`)];
  for (const channel of channels) for (const message of messages) await client.publish(channel, message);
  for (let i = 0; i < 50; i += 1) await client.xadd('fairlead:{chat}:placements', '*', 'k', `${i}`.padStart(32, '0'), 'a', '6.6.6.6:66');
  await client.xadd('fairlead:{chat}:placements', '*', 'unexpected', 'fields', 'in', 'it', 'and', 'more');
  for (let i = 0; i < 50; i += 1) {
    await client.zadd('fairlead:{chat}:routers', Date.now(), `ghost-${i}`);
    await client.set(`fairlead:{chat}:snapshot:ghost-${i}`, i % 2 === 0 ? '{"not":"ours"}' : snapshot([[endpoint, 1e9, 1e9, 1e9]]), 'PX', 500);
  }
}

interface Fault {
  readonly name: string;
  readonly start: () => Promise<unknown>;
  readonly end: () => Promise<unknown>;
  /** What `/readyz` says of it; absent: it is over before anyone could look. */
  readonly told?: RegExp;
}

const wrongTypes = ['routers', 'placements'].flatMap((key) => ['chat', 'held', 'capped'].map((pool) => `fairlead:{${pool}}:${key}`));

const faults: Fault[] = [
  {
    name: 'hangs (SIGSTOP)',
    start: async () => redis.signal('SIGSTOP'),
    end: async () => redis.signal('SIGCONT'),
    told: /DEGRADED, last heard \d+ ms ago: .*no answer in time/,
  },
  {
    name: 'is killed, and an empty one comes up in its place',
    start: () => redis.stop(),
    end: () => redis.restart(),
    told: /DEGRADED, last heard \d+ ms ago: .*cannot be reached \(ECONNREFUSED\)/,
  },
  { name: 'is wiped', start: () => withRedis((client) => client.flushall()), end: async () => {} },
  {
    name: 'is out of memory',
    start: () => withRedis((client) => client.config('SET', 'maxmemory', '1')),
    end: () => withRedis((client) => client.config('SET', 'maxmemory', '0')),
    told: /DEGRADED, .*(out of memory|cannot store anything)/,
  },
  {
    name: 'becomes a read-only replica',
    start: () => withRedis((client) => client.replicaof('127.0.0.1', 1)),
    end: () => withRedis((client) => client.replicaof('NO', 'ONE')),
    told: /DEGRADED, .*read-only replica/,
  },
  { name: 'holds garbage and carries it', start: () => withRedis(writeGarbage), end: async () => {} },
  {
    name: 'holds keys of other types than ours',
    start: () =>
      withRedis(async (client) => {
        for (const key of wrongTypes) await client.set(key, 'garbage');
      }),
    // Nobody has to clear them away: the routers replace them.
    end: () =>
      withRedis(async (client) => {
        for (const key of wrongTypes) expect(await client.type(key)).not.toBe('string');
      }),
  },
];

/** A wait that the code makes comes back each time; one that other processes make does not. */
const attemptsMax = 3;

describe('under load, when Redis', () => {
  const heldRequests = 12;

  // The first second warms up.
  beforeAll(() => measure(fleet, () => sleep(1_000)));

  /** The fault, under load, from its start until all agree again. */
  async function suffer({ start, end, told }: Fault): Promise<Measured> {
    let held: Awaited<ReturnType<typeof holdRequests>> | undefined;
    try {
      return await measure(fleet, async () => {
        try {
          await start();
          // Requests that nobody could tell of while it lasts.
          held = await holdRequests(fleet, heldRequests);
          const startedMs = performance.now();
          if (told !== undefined) await vi.waitFor(() => expectReadiness(fleet, told), { timeout: 5_000, interval: 100 });
          await sleep(Math.max(0, 1_000 - (performance.now() - startedMs)));
        } finally {
          await end();
        }
        await expectAgreement(fleet, heldRequests, 2_000);
      });
    } finally {
      held?.letGo();
      for (const { status } of (await held?.answers) ?? []) expect(status).toBe(200);
      await expect.poll(() => readFleetInFlight(fleet.routers, 'held'), { timeout: 2_000, interval: 25 }).toEqual([0, 0, 0]);
    }
  }

  it.each(faults)('$name: no request fails or waits, the cause is told, agreement is back within 2 s', async (fault) => {
    const tried: string[] = [];
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      await vi.waitFor(() => expectAcquainted(fleet.routers), { timeout: 5_000 });
      const healthy = await measure(fleet, () => sleep(1_000));
      const measured = await suffer(fault);
      expect(Object.keys(healthy.outcomes)).toEqual(['200']);
      expect(Object.keys(measured.outcomes)).toEqual(['200']);
      if (isAsQuick(measured, healthy)) return;
      tried.push(`${JSON.stringify(measured)}, healthy ${JSON.stringify(healthy)}`);
    }
    expect.fail(`requests waited each time:\n${tried.join('\n')}`);
  });
});

it('routers that start without Redis serve at once, say so, and agree within 2 s of its coming', async () => {
  const [port] = await freePorts(1);
  const late = new RunningParts();
  try {
    const alone = await startRouterFleet(late, { state: { kind: 'redis', url: `redis://127.0.0.1:${port!}` }, routers: 2, serverCounts: { chat: 2, held: 1, capped: 1 } });
    const held = await holdRequests(alone, 6);
    try {
      const { outcomes } = await measure(alone, async () => {
        await expectReadiness(alone, /DEGRADED, nothing heard yet: .*cannot be reached \(ECONNREFUSED\)/);
        await late.add(ReplaceableRedis.start([], port));
        await expectAgreement(alone, 6, 2_000);
      });
      expect(Object.keys(outcomes)).toEqual(['200']);
    } finally {
      held.letGo();
    }
    for (const { status } of await held.answers) expect(status).toBe(200);
  } finally {
    await late.stop();
  }
});

it('a router that is killed takes its counts with it within 2 s, and no client notices', async () => {
  const heldRequests = 500;
  const { routers } = fleet;
  const victim = routers[0]!;
  const others = routers.slice(1);
  const held = await holdRequests(fleet, heldRequests);
  await expectAgreement(fleet, heldRequests, 5_000);
  const lost = await victim.requestsInFlight();
  expect(lost).toBeGreaterThan(heldRequests / 10);
  const victimId = (await readReport(victim)).router.id;

  let lowest = 0;
  const load = startLoad(fleet);
  try {
    await sleep(500);
    victim.signal('SIGKILL');
    await vi.waitFor(
      async () => {
        for (const { router, routers: known, pools } of await Promise.all(others.map(readReport))) {
          const numbers = pools.flatMap(({ endpoints }) => endpoints.flatMap((endpoint) => [endpoint.requestsInFlight, endpoint.fleetRequestsInFlight, endpoint.promptTokensInFlight]));
          lowest = Math.min(lowest, ...numbers, ...known.map(({ requestsInFlight }) => requestsInFlight));
          expect(known.map(({ id }) => id)).not.toContain(victimId);
          expect(known, router.id).toHaveLength(others.length);
        }
        expect(await readFleetInFlight(others, 'held')).toEqual(others.map(() => heldRequests - lost));
      },
      { timeout: 2_000, interval: 20 },
    );
    await sleep(500);
  } finally {
    // Envoy tries another router when one breaks off before it answered: even its own requests go on.
    expect(Object.keys(await load.stop())).toEqual(['200']);
    held.letGo();
  }
  expect(lowest).toBe(0);
  for (const { status } of await held.answers) expect(status).toBe(200);
  // Their records reach routers that know the owner is gone; their own end as they should.
  await expect.poll(() => readFleetInFlight(others, 'held'), { timeout: 5_000, interval: 25 }).toEqual(others.map(() => 0));
});

it('without any router a request gets 503, reaches no server, and is counted by Envoy as one without a cluster', async () => {
  for (const router of fleet.routers) router.signal('SIGKILL');
  for (const server of fleet.servers.chat) server.resetPeak();
  const withoutCluster = async (): Promise<number> => (await fleet.envoy.stats('^http.llm.no_cluster$'))['http.llm.no_cluster'] ?? 0;
  const before = await withoutCluster();
  // What a client says of it changes nothing.
  const headers = { 'x-session-id': 's', 'x-fairlead-cluster': 'chat', 'x-gateway-destination-endpoint': fleet.servers.chat[0]!.address };
  for (let i = 0; i < 5; i += 1) expect((await fleet.client.send({ path: '/chat/completions', headers, body: '{}' })).status).toBe(503);
  expect((await withoutCluster()) - before).toBe(5);
  expect(fleet.servers.chat.map(({ peak }) => peak)).toEqual(fleet.servers.chat.map(() => 0));
});
