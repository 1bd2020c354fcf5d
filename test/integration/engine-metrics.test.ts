import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { startRedis } from '../../lab/redis-process.ts';
import type { EngineMetricsKind } from '../../sim/model-server/engine-metrics.ts';
import { type ModelServer, type ModelServerOptions, startModelServer } from '../../sim/model-server/model-server.ts';
import type { FleetReport } from '../../src/admin/fleet-report.ts';
import { type Service, startService } from '../../src/app/service.ts';
import { noFacts, type RequestFacts } from '../../src/core/request-facts.ts';
import { FleetView } from '../../src/fleet/fleet-view.ts';
import { MetricsScraper } from '../../src/probes/metrics-scraper.ts';
import { createMemoryExchange } from '../../src/router/memory-exchange.ts';
import { Router } from '../../src/router/router.ts';
import { combineEvents } from '../../src/telemetry/event-log.ts';
import { createLogger } from '../../src/telemetry/logger.ts';
import { clock, compiled } from './router-under-test.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

/** A server ten times slower than the clock: what is sent to it stays there until it is aborted. */
async function serve(options: ModelServerOptions = {}): Promise<ModelServer> {
  const server = await startModelServer({ timeScale: 0.1, ...options });
  cleanups.push(() => server.close());
  return server;
}

/** Sends streamed requests past the router; returns once all are taken in. The result takes them away again. */
async function occupy(server: ModelServer, count: number, { model = 'm', words = 1 } = {}): Promise<() => void> {
  const controller = new AbortController();
  // Kept, since a response that nobody holds any more is cancelled when it is collected.
  const open: Response[] = [];
  cleanups.push(() => {
    controller.abort();
    open.length = 0;
  });
  const send = async (i: number): Promise<void> => {
    const body = { model, stream: true, max_tokens: 2_000, ignore_eos: true, messages: [{ role: 'user', content: `${i} ${'word '.repeat(words)}` }] };
    const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal: controller.signal };
    const response = await fetch(`${server.url}/v1/chat/completions`, init);
    expect(response.status).toBe(200);
    open.push(response);
  };
  await Promise.all(Array.from({ length: count }, (_, i) => send(i)));
  return () => controller.abort();
}

interface Bench {
  readonly fleet: FleetView;
  readonly metrics: (server: ModelServer) => ReturnType<typeof metricsOf>;
  /** Where so many requests go, one after the other: counts by server. */
  readonly spread: (count: number, facts?: Partial<RequestFacts>) => number[];
}

function metricsOf(fleet: FleetView, server: ModelServer): object | undefined {
  return fleet.pool('chat')?.endpoint(server.address)?.metrics;
}

/** A router over these servers that reads their metrics, configured as a user would. */
function bench(servers: readonly ModelServer[], policy: string): Bench {
  const endpoints = servers.map(({ address }) => `{ address: '${address}' }`).join(', ');
  const config = compiled(`pools: [{ name: chat, policy: ${policy}, metrics: { intervalMs: 100 }, endpoints: [${endpoints}] }]`);
  const fleet = new FleetView(config.pools);
  const settings = config.settings.pools[0]?.metrics;
  const pool = fleet.pool('chat');
  if (settings === undefined || pool === undefined) throw new Error('the pool has metrics');
  const rng = { draw: Math.random };
  const scraper = new MetricsScraper({ pools: [{ pool, settings }], clock, rng, events: { metricsScraped: () => undefined, scrapeFailed: () => undefined } });
  cleanups.push(() => scraper.stop());
  scraper.start();
  const router = new Router({
    id: 'a',
    table: config.table,
    fleet,
    affinitySecret: 'test-secret',
    clock,
    rng,
    exchange: createMemoryExchange(),
    events: combineEvents(),
    expireAfterMsMax: 600_000,
    assumedDurationMs: 600_000,
    endpointsMax: 8,
  });
  return {
    fleet,
    metrics: (server) => metricsOf(fleet, server),
    spread: (count, facts = {}) => {
      const counts = new Map<string, number>();
      for (let i = 0; i < count; i += 1) {
        const routed = router.route({ ...noFacts, path: '/v1/chat/completions', model: 'm', promptTokens: 10, ...facts });
        if (routed.kind !== 'route') throw new Error(`refused: ${routed.code}`);
        const address = routed.addresses[0] ?? '';
        counts.set(address, (counts.get(address) ?? 0) + 1);
        router.observe(routed.lease, { ending: 'finished', signal: 'access-log', status: 200 });
      }
      return servers.map(({ address }) => counts.get(address) ?? 0);
    },
  };
}

const eventually = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 30_000, interval: 10 });

describe('metrics of model servers', () => {
  it('are read of all four kinds in one pool, without being told which is which', async () => {
    const kinds: readonly EngineMetricsKind[] = ['vllm', 'sglang', 'trtllm', 'triton'];
    const servers = await Promise.all(kinds.map((metrics) => serve({ metrics })));
    const { metrics } = bench(servers, '{ preset: queue-depth }');
    for (const [i, server] of servers.entries()) await occupy(server, 9 + i);
    await eventually(() => {
      // The profile runs 8 at once; the rest wait.
      for (const [i, server] of servers.entries()) expect(metrics(server)).toMatchObject({ requestsRunning: 8, requestsQueued: 1 + i, kvTokensMax: 60_000 });
    });
    for (const server of servers) expect((metrics(server) as { kvUsage: number }).kvUsage).toBeGreaterThan(0);
  });

  it('queue-depth: decisions follow a queue that others filled, and its emptying', async () => {
    const [one, other] = [await serve(), await serve({ metrics: 'sglang' })];
    const { metrics, spread } = bench([one, other], '{ preset: queue-depth }');
    await eventually(() => expect([metrics(one), metrics(other)]).toMatchObject([{ requestsQueued: 0 }, { requestsQueued: 0 }]));
    const even = spread(200);
    expect(Math.min(...even)).toBeGreaterThan(20);

    const leave = await occupy(one, 20);
    await eventually(() => expect(metrics(one)).toMatchObject({ requestsQueued: 12 }));
    expect(spread(100)).toEqual([0, 100]);

    await occupy(other, 30);
    leave();
    await eventually(() => {
      expect(metrics(one)).toMatchObject({ requestsQueued: 0 });
      expect(metrics(other)).toMatchObject({ requestsRunning: 8, requestsQueued: 22 });
    });
    expect(spread(100)).toEqual([100, 0]);
  });

  it('kv-usage: decisions keep away from a cache that is nearly full', async () => {
    const [one, other] = [await serve(), await serve({ metrics: 'triton' })];
    const { metrics, spread } = bench([one, other], '{ preset: kv-usage }');
    await occupy(other, 1, { words: 40_000 });
    await eventually(() => {
      expect((metrics(other) as { kvUsage: number } | undefined)?.kvUsage).toBeGreaterThan(0.5);
      expect(metrics(one)).toMatchObject({ kvUsage: 0 });
    });
    expect(spread(100)).toEqual([100, 0]);
  });

  it('lora: requests for an adapter go where it is loaded, those for others where there is room', async () => {
    const lora = { adapters: ['sql', 'legal', 'chat'], max: 1 };
    const [one, other] = [await serve({ lora }), await serve({ lora })];
    const { metrics, spread } = bench([one, other], '{ preset: lora }');
    await occupy(one, 1, { model: 'sql' });
    await eventually(() => {
      expect(metrics(one)).toMatchObject({ adapters: new Set(['sql']), adaptersMax: 1 });
      expect(metrics(other)).toMatchObject({ adapters: new Set(), adaptersMax: 1 });
    });
    expect(spread(50, { model: 'sql' })).toEqual([50, 0]);
    expect(spread(50, { model: 'legal' })).toEqual([0, 50]);
  });

  it('session-growth: a long session goes where it can grow, a short one anywhere', async () => {
    const [one, other] = [await serve(), await serve({ metrics: 'trtllm' })];
    const { metrics, spread } = bench([one, other], '{ scorers: [session-growth], picker: highest-score }');
    await occupy(one, 1, { words: 25_000 });
    await eventually(() => {
      expect((metrics(one) as { kvUsage: number } | undefined)?.kvUsage).toBeGreaterThan(0.3);
      expect(metrics(other)).toMatchObject({ kvUsage: 0 });
    });
    expect(spread(50, { session: 'agent', promptTokens: 20_000 })).toEqual([0, 50]);
  });

  it('are forgotten when a server stops telling: it is rated as unknown, not as it last was', async () => {
    const [one, other] = [await serve(), await serve()];
    const { metrics, spread } = bench([one, other], '{ preset: queue-depth }');
    await occupy(other, 20);
    await eventually(() => expect([metrics(one), metrics(other)]).toMatchObject([{ requestsQueued: 0 }, { requestsQueued: 12 }]));
    expect(spread(50)).toEqual([50, 0]);
    await one.control.set({ mode: 'refuse' });
    await other.control.set({ mode: 'refuse' });
    await eventually(() => expect([metrics(one), metrics(other)]).toEqual([undefined, undefined]));
    expect(Math.min(...spread(200))).toBeGreaterThan(20);
  });

  it('are read once for all routers that share state, and known to each', async () => {
    const redis = await startRedis();
    cleanups.push(() => redis.stop());
    // Servers that count how often they are asked, and tell it as their queue.
    const asked = new Map<string, number>();
    const addresses: string[] = [];
    for (let i = 0; i < 8; i += 1) {
      const server = createServer((_, response) => {
        asked.set(address, (asked.get(address) ?? 0) + 1);
        response.end(`vllm:num_requests_running 0\nvllm:num_requests_waiting ${i}\n`);
      });
      await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
      cleanups.push(() => {
        server.closeAllConnections();
        server.close();
      });
      const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
      addresses.push(address);
    }
    const intervalMs = 200;
    const config = compiled(`
      listen: { grpc: 127.0.0.1:0, admin: 127.0.0.1:0 }
      state: { kind: redis, url: '${redis.url}' }
      affinity: { secret: of-this-test }
      drain: { readinessDelayMs: 0 }
      pools: [{ name: chat, policy: { preset: queue-depth }, metrics: { intervalMs: ${intervalMs} }, endpoints: [${addresses.map((address) => `{ address: '${address}' }`).join(', ')}] }]
    `);
    const services = await Promise.all([0, 1, 2].map(() => startService(config, { file: '/nowhere/fairlead.yaml', warnings: [] }, createLogger({ level: 'fatal' }))));
    cleanups.push(() => Promise.all(services.map((service) => service.drain())));
    const queues = async ({ adminPort }: Service): Promise<Record<string, number | null | undefined>> => {
      const report = (await (await fetch(`http://127.0.0.1:${adminPort}/api/v1/fleet`)).json()) as FleetReport;
      return Object.fromEntries(report.pools[0]?.endpoints.map(({ address, engine }) => [address, engine?.requestsQueued]) ?? []);
    };
    const everything = Object.fromEntries(addresses.map((address, i) => [address, i]));
    const readers = async (): Promise<number> => {
      const pages = await Promise.all(services.map(async ({ adminPort }) => (await fetch(`http://127.0.0.1:${adminPort}/api/v1/fleet`)).json() as Promise<FleetReport>));
      return Math.min(...pages.map(({ routers }) => routers.length));
    };
    await vi.waitFor(async () => expect(await readers()).toBe(3), { timeout: 30_000, interval: 50 });
    await vi.waitFor(async () => expect(await Promise.all(services.map(queues))).toEqual([everything, everything, everything]), { timeout: 30_000, interval: 50 });

    // Whatever was asked while they got to know one another counts no longer.
    asked.clear();
    const startedMs = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    const rounds = (performance.now() - startedMs) / intervalMs;
    const total = [...asked.values()].reduce((sum, count) => sum + count, 0);
    // Three that each read all would ask 3 × 8 times a round. A busy machine asks less often, never more.
    expect(total).toBeLessThan(1.5 * 8 * rounds);
    expect(asked.size).toBe(8);
    expect(await Promise.all(services.map(queues))).toEqual([everything, everything, everything]);
  });

  it("show in a service's own metrics, how old they are and how often they could not be read", async () => {
    const [one, gone] = [await serve(), await serve()];
    await gone.control.set({ mode: 'refuse' });
    const config = compiled(`
      listen: { grpc: 127.0.0.1:0, admin: 127.0.0.1:0 }
      drain: { readinessDelayMs: 0 }
      pools: [{ name: chat, policy: { preset: kv-usage }, metrics: { kind: vllm, intervalMs: 100 }, endpoints: [{ address: '${one.address}' }, { address: '${gone.address}' }] }]
    `);
    const service = await startService(config, { file: '/nowhere/fairlead.yaml', warnings: [] }, createLogger({ level: 'fatal' }));
    cleanups.push(() => service.drain());
    const read = async (series: string): Promise<number | undefined> => {
      const page = await (await fetch(`http://127.0.0.1:${service.adminPort}/metrics`)).text();
      const line = page.split('\n').find((text) => text.startsWith(`${series} `));
      return line === undefined ? undefined : Number(line.slice(series.length + 1));
    };
    await vi.waitFor(
      async () => {
        expect(await read('fairlead_engine_scrapes_total{pool="chat",outcome="ok"}')).toBeGreaterThan(1);
        expect(await read('fairlead_engine_scrapes_total{pool="chat",outcome="unreachable"}')).toBeGreaterThan(1);
        expect(await read('fairlead_engine_metrics_age_seconds{pool="chat"}')).toBeGreaterThanOrEqual(0);
        expect(await read('fairlead_endpoints_without_engine_metrics{pool="chat"}')).toBe(1);
      },
      { timeout: 30_000, interval: 50 },
    );
  });
});
