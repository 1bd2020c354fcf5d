import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { type EnvoyProcess, freePorts, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { startRedis } from '../../lab/redis-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { createRealtimeEcho } from '../../sim/model-server/realtime-echo.ts';
import { HttpClient } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

/** Length of the stream: a minute in `npm run soak:streams`, shorter in every test run; the same happens in both. */
const isLong = process.env['FAIRLEAD_LONG'] === '1';
const streamMs = isLong ? 60_000 : 12_000;
/** A token each this often: the simulated server's decode step at a pace of its own. */
const tokenMs = 50;

const parts = new RunningParts();
let servers: ModelServer[];
let redisUrl: string;
let ports: number[];
let routers: FairleadProcess[];
let envoy: EnvoyProcess;
let client: HttpClient;

const profile = {
  name: 'long streams',
  source: 'invented: a token every 50 ms',
  prefill: { quadratic: 0, linear: 0, constant: 5 },
  decode: { constant: tokenMs, linear: 0, quadratic: 0 },
  stepTokensMax: 2048,
  sequencesMax: 64,
  queueMax: 100,
  blockTokens: 16,
  blocks: 4_000,
} as const;

/** One router's configuration; `weight`: of every endpoint. */
const configOf = (port: number, weight = 1): Record<string, unknown> => ({
  listen: { grpc: `127.0.0.1:${port}`, admin: '127.0.0.1:0' },
  state: { kind: 'redis', url: redisUrl },
  affinity: { secret: 'the same in both' },
  drain: { readinessDelayMs: 1_000, deadlineMs: 10_000 },
  pools: [{ name: 'chat', health: { probe: { timeoutMs: 1_000 } }, endpoints: servers.map(({ address }) => ({ address, weight })) }],
});

const startRouter = (port: number): Promise<FairleadProcess> => parts.add(startFairlead(configOf(port)));

beforeAll(async () => {
  servers = await parts.addModelServers(3, { timeScale: 1, profile, realtime: createRealtimeEcho() });
  redisUrl = (await parts.add(startRedis())).url;
  ports = await freePorts(2);
  routers = await Promise.all(ports.map(startRouter));
  const config = renderEnvoyConfig({
    clusters: { chat: servers.map(({ address }) => address) },
    fairlead: ports.map((port) => `127.0.0.1:${port}`),
    messageTimeoutMs: 10_000,
  });
  envoy = await parts.add(startEnvoy({ config, concurrency: 2 }));
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 16, streamMs + 30_000)));
});
afterAll(() => parts.stop());

/** Requests in flight of all routers by endpoint, as the router at hand sees them. */
async function inFlight(router: FairleadProcess): Promise<Map<string, number>> {
  const { pools } = await router.fleet();
  return new Map(pools[0]?.endpoints.map(({ address, fleetRequestsInFlight }) => [address, fleetRequestsInFlight] as const));
}
const sum = (counts: ReadonlyMap<string, number>): number => [...counts.values()].reduce((all, count) => all + count, 0);
const healthyRouters = async (): Promise<number> => (await envoy.stats('^cluster\\.fairlead\\.membership_healthy'))['cluster.fairlead.membership_healthy'] ?? 0;

/** A websocket through Envoy that says something four times a second and notes what comes back. */
class Conversation {
  readonly socket = new WebSocket(`${envoy.url.replace('http', 'ws')}/v1/realtime?model=m`, { headers: { 'x-model': 'm', 'x-session-id': 'realtime' } });
  readonly heard: number[] = [];
  said = 0;
  servedBy = '';
  closed: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  async open(): Promise<void> {
    this.socket.on('upgrade', (response) => (this.servedBy = String(response.headers['x-served-by'])));
    this.socket.on('message', (data) => this.heard.push(Number((data as Buffer).toString())));
    this.socket.on('close', (code) => (this.closed = code));
    await once(this.socket, 'open');
    this.#timer = setInterval(() => {
      this.socket.send(String(this.said));
      this.said += 1;
    }, 250);
  }

  async end(): Promise<void> {
    clearInterval(this.#timer);
    await expect.poll(() => this.heard.length, { timeout: 10_000 }).toBe(this.said);
    this.socket.close(1000);
    await expect.poll(() => this.closed, { timeout: 10_000 }).toBe(1000);
  }
}

it(
  'a websocket and a long stream outlive a reload, the drain of other endpoints, and the restart of their router behind a second one',
  async () => {
    await expect.poll(healthyRouters, { timeout: 10_000 }).toBe(2);
    const startMs = performance.now();
    const conversation = new Conversation();
    await conversation.open();
    const tokens = streamMs / tokenMs;
    const body = JSON.stringify({ model: 'm', stream: true, max_tokens: tokens, ignore_eos: true, messages: [{ role: 'user', content: 'a long story, please' }] });
    const stream = await client.open({ path: '/v1/chat/completions', headers: { 'content-type': 'application/json', 'x-session-id': 'story' }, body });
    expect(stream.status).toBe(200);
    const whole = (async (): Promise<string> => {
      let text = '';
      for await (const chunk of stream.body) text += String(chunk);
      return text;
    })();
    whole.catch(() => undefined);

    const busy = [conversation.servedBy, stream.servedBy ?? ''];
    const countedTwo = async (router: FairleadProcess): Promise<void> => {
      await expect.poll(async () => sum(await inFlight(router)), { timeout: 5_000 }).toBe(2);
      const counts = await inFlight(router);
      for (const server of servers) expect(counts.get(server.address), server.address).toBe(busy.filter((address) => address === server.address).length);
    };
    for (const router of routers) await countedTwo(router);

    // A reload, in both routers.
    for (const [i, router] of routers.entries()) {
      await router.rewrite(configOf(ports[i]!, 2));
      router.signal('SIGHUP');
      await expect.poll(() => router.metric('fairlead_config_reloads_total', { outcome: 'applied' }), { timeout: 10_000 }).toBeGreaterThanOrEqual(1);
    }
    for (const router of routers) await countedTwo(router);

    // Every endpoint that has neither of them drains, and comes back.
    const others = servers.filter(({ address }) => !busy.includes(address));
    for (const { address } of others) {
      for (const router of routers) await router.put(`/api/v1/pools/chat/endpoints/${address}/state`, { state: 'draining' });
    }
    await sleep(300);
    for (const router of routers) await countedTwo(router);
    for (const { address } of others) {
      for (const router of routers) await router.put(`/api/v1/pools/chat/endpoints/${address}/state`, { state: 'ready' });
    }

    // And those that have them drain politely: what is open stays, what is new goes elsewhere.
    for (const address of new Set(busy)) {
      for (const router of routers) await router.put(`/api/v1/pools/chat/endpoints/${address}/state`, { state: 'draining' });
    }
    if (others.length > 0) {
      const answer = await client.send({ path: '/v1/chat/completions', headers: { 'content-type': 'application/json', 'x-session-id': 'story' }, body: body.replace(`"max_tokens":${tokens}`, '"max_tokens":1') });
      expect(answer.status).toBe(200);
      expect(busy).not.toContain(answer.servedBy);
    }
    for (const router of routers) await countedTwo(router);
    for (const address of new Set(busy)) {
      for (const router of routers) await router.put(`/api/v1/pools/chat/endpoints/${address}/state`, { state: 'ready' });
    }

    // Both routers restart, one after the other: whichever counted them is one of them.
    for (const index of [0, 1]) {
      const leaving = routers[index]!;
      leaving.signal('SIGTERM');
      expect(await leaving.ended).toBe(0);
      routers[index] = await startRouter(ports[index]!);
      await expect.poll(healthyRouters, { timeout: 15_000 }).toBe(2);
      expect(conversation.closed).toBeUndefined();
    }
    const afterRestartsMs = performance.now() - startMs;
    // The stream lasted over all of that, or nothing of it was shown; on a machine where it could not, the websocket still did.
    if (afterRestartsMs < streamMs) expect(stream.body.readableEnded).toBe(false);

    const text = await whole;
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
    expect(text.split('\n\n').filter((event) => event.startsWith('data: {'))).toHaveLength(tokens);
    if (isLong) expect(performance.now() - startMs).toBeGreaterThan(streamMs);
    await conversation.end();
    expect(conversation.heard).toEqual(Array.from({ length: conversation.said }, (_, i) => i));

    // Released once: nothing is left, nothing went below zero, and nobody reported an end that was not known.
    for (const router of routers) {
      await expect.poll(async () => sum(await inFlight(router)), { timeout: 10_000 }).toBe(0);
      expect(await router.metric('fairlead_internal_errors_total')).toBe(0);
    }
    expect(servers.map(({ control }) => control.stats().upgradesOpen)).toEqual(servers.map(() => 0));
  },
  streamMs + 110_000,
);

it('open streams are counted where they are while they are open, and released once', async () => {
  const before = await Promise.all(routers.map((router) => router.metric('fairlead_requests_released_total')));
  const conversation = new Conversation();
  await conversation.open();
  for (const router of routers) await expect.poll(async () => (await inFlight(router)).get(conversation.servedBy), { timeout: 5_000 }).toBe(1);
  await sleep(1_000);
  for (const router of routers) expect((await inFlight(router)).get(conversation.servedBy)).toBe(1);
  await conversation.end();
  for (const router of routers) await expect.poll(async () => sum(await inFlight(router)), { timeout: 5_000 }).toBe(0);
  const after = await Promise.all(routers.map((router) => router.metric('fairlead_requests_released_total')));
  expect(after.reduce((all, count, i) => all + count - (before[i] ?? 0), 0)).toBe(1);
});
