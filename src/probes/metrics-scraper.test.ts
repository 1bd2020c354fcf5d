import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { EngineMetrics } from '../core/fleet-snapshot.ts';
import { FleetPool } from '../fleet/fleet-view.ts';
import { MetricsScraper, type ScraperOptions, type ScrapeSettings } from './metrics-scraper.ts';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const clean of cleanups.splice(0).reverse()) clean();
});

async function serve(handler: Handler): Promise<{ readonly address: string; readonly port: number; readonly server: Server }> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { address: `127.0.0.1:${port}`, port, server };
}

/** Answers with a queue of that length. */
const queue =
  (length: () => number): Handler =>
  (_, response) => void response.end(`vllm:num_requests_running 1\nvllm:num_requests_waiting ${length()}\n`);

interface Running {
  readonly scraper: MetricsScraper;
  readonly pool: FleetPool;
  /** Everything told: `[address, 'ok' or cause]`. */
  readonly told: [string, string][];
  readonly details: string[];
  readonly metrics: (at?: number) => EngineMetrics | undefined;
}

function scrape(addresses: readonly string[], settings: Partial<ScrapeSettings> = {}, options: Partial<ScraperOptions> = {}): Running {
  const pool = new FleetPool({ name: 'chat', endpoints: addresses.map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) });
  const told: [string, string][] = [];
  const details: string[] = [];
  const scraper = new MetricsScraper({
    pools: [{ pool, settings: { kind: 'auto', path: undefined, port: undefined, intervalMs: 20, timeoutMs: 5_000, ...settings } }],
    clock: { nowMs: () => performance.now() },
    rng: { draw: () => 0.5 },
    events: {
      metricsScraped: (_, address) => told.push([address, 'ok']),
      scrapeFailed: (_, address, cause, detail) => {
        told.push([address, cause]);
        details.push(detail);
      },
    },
    ...options,
  });
  cleanups.push(() => scraper.stop());
  scraper.start();
  return { scraper, pool, told, details, metrics: (at = 0) => pool.endpoints[at]?.metrics };
}

const eventually = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 15_000, interval: 5 });

describe('MetricsScraper', () => {
  it('writes what servers say to their endpoints, again and again', async () => {
    let waiting = 3;
    const one = await serve(queue(() => waiting));
    const other = await serve((_, response) => void response.end('sglang:num_running_reqs 4\nsglang:token_usage 0.5\n'));
    const { pool } = scrape([one.address, other.address]);
    await eventually(() => {
      expect(pool.endpoint(one.address)?.metrics).toMatchObject({ requestsRunning: 1, requestsQueued: 3 });
      expect(pool.endpoint(other.address)?.metrics).toMatchObject({ requestsRunning: 4, kvUsage: 0.5 });
    });
    const first = pool.endpoint(one.address)?.metrics;
    waiting = 9;
    await eventually(() => expect(pool.endpoint(one.address)?.metrics?.requestsQueued).toBe(9));
    expect(pool.endpoint(one.address)?.metrics?.scrapedMs).toBeGreaterThan(first?.scrapedMs ?? Infinity);
  });

  it('uses one connection, and asks for plain text', async () => {
    const sockets = new Set<unknown>();
    let requests = 0;
    const { address } = await serve((request, response) => {
      requests += 1;
      sockets.add(request.socket);
      expect(request.headers).toMatchObject({ 'accept-encoding': 'identity', accept: 'text/plain;version=0.0.4' });
      queue(() => 0)(request, response);
    });
    scrape([address]);
    await eventually(() => expect(requests).toBeGreaterThan(5));
    expect(sockets.size).toBe(1);
  });

  it('asks at another path and port where configured', async () => {
    const urls: (string | undefined)[] = [];
    const { port } = await serve((request, response) => {
      urls.push(request.url);
      queue(() => 2)(request, response);
    });
    const { metrics } = scrape(['127.0.0.1:9'], { path: '/stats?name=x', port });
    await eventually(() => expect(metrics()?.requestsQueued).toBe(2));
    expect(new Set(urls)).toEqual(new Set(['/stats?name=x']));
  });

  it('finds where an unknown kind of server has its metrics', async () => {
    const { address } = await serve((request, response) => {
      if (request.url === '/metrics') response.end('[{"iter": 1}]');
      else if (request.url === '/prometheus/metrics') response.end('trtllm_num_requests_running 2\n');
      else response.writeHead(404).end();
    });
    const { told, metrics } = scrape([address]);
    await eventually(() => expect(metrics()?.requestsRunning).toBe(2));
    expect(told[0]).toEqual([address, 'no-metrics']);
    // Once found, it stays there.
    await eventually(() => expect(told.length).toBeGreaterThan(4));
    expect(told.slice(2).map(([, outcome]) => outcome)).not.toContain('no-metrics');
  });

  it('gives each data-parallel rank its own, by one request', async () => {
    let requests = 0;
    const { address } = await serve((_, response) => {
      requests += 1;
      response.end('vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} 7\n');
    });
    const { metrics } = scrape([`${address}#0`, `${address}#1`], { intervalMs: 60_000 }, { rng: { draw: () => 0 } });
    await eventually(() => expect([metrics(0)?.requestsQueued, metrics(1)?.requestsQueued]).toEqual([1, 7]));
    expect(requests).toBe(1);
  });

  it.each<[string, Handler, string, RegExp]>([
    ['another status', (_, response) => void response.writeHead(503).end('vllm:num_requests_waiting 1\n'), 'status', /answered 503/],
    ['a redirect, which is not followed', (_, response) => void response.writeHead(302, { location: '/' }).end(), 'status', /answered 302/],
    ['another page', (_, response) => void response.end('<html></html>'), 'no-metrics', /any known model server/],
    ['a connection that breaks', (_, response) => void response.writeHead(200).write('x', () => response.destroy()), 'unreachable', /aborted|closed|hang up/],
    ['no answer', () => undefined, 'timeout', /longer than 50 ms/],
    ['half an answer', (_, response) => void response.writeHead(200).write('vllm:num_requests_waiting 1\n'), 'timeout', /longer than 50 ms/],
    [
      'a page without end',
      (_, response) => {
        const more = (): void => {
          if (response.writable) response.write(Buffer.alloc(1_048_576, 'x'), () => more());
        };
        more();
      },
      'too-large',
      /larger than 4194304 bytes/,
    ],
  ])('tells of %s, and knows nothing', async (_, handler, cause, detail) => {
    const { address } = await serve(handler);
    const { told, details, metrics } = scrape([address], { timeoutMs: cause === 'timeout' ? 50 : 5_000 });
    await eventually(() => expect(told.length).toBeGreaterThan(1));
    expect(told[0]).toEqual([address, cause]);
    expect(details[0]).toMatch(detail);
    expect(metrics()).toBeUndefined();
  });

  it('tells of a server that is not there, goes on asking, and finds it when it comes', async () => {
    const { address, port, server } = await serve(queue(() => 1));
    await new Promise((resolve) => server.close(resolve));
    const { told, metrics } = scrape([address]);
    await eventually(() => expect(told).toContainEqual([address, 'unreachable']));
    await new Promise<void>((resolve) => void server.listen(port, '127.0.0.1', resolve));
    await eventually(() => expect(metrics()?.requestsQueued).toBe(1));
  });

  it('takes away what is older than five intervals', async () => {
    let broken = false;
    const { address } = await serve((request, response) => {
      if (broken) response.writeHead(500).end();
      else queue(() => 4)(request, response);
    });
    const { told, metrics } = scrape([address], { intervalMs: 40 });
    await eventually(() => expect(metrics()).toBeDefined());
    broken = true;
    await eventually(() => expect(metrics()).toBeUndefined());
    // By its age, not at the first failure.
    expect(told.filter(([, outcome]) => outcome === 'status').length).toBeGreaterThan(1);
    broken = false;
    await eventually(() => expect(metrics()?.requestsQueued).toBe(4));
  });

  it('never asks a server again before it has answered', async () => {
    let open = 0;
    let openMax = 0;
    let requests = 0;
    const { address } = await serve((request, response) => {
      open += 1;
      requests += 1;
      openMax = Math.max(openMax, open);
      setTimeout(() => {
        open -= 1;
        queue(() => 0)(request, response);
      }, 60);
    });
    scrape([address], { intervalMs: 10 });
    await eventually(() => expect(requests).toBeGreaterThan(4));
    expect(openMax).toBe(1);
  });

  it('asks once more where an idle connection was closed under it', async () => {
    const { address } = await serve((request, response) => {
      // Answers the first request of a connection, and breaks the connection when a second one comes.
      const { socket } = request as { socket: { used?: boolean; destroy(): void } };
      if (socket.used === true) socket.destroy();
      else queue(() => 5)(request, response);
      socket.used = true;
    });
    const { told } = scrape([address]);
    await eventually(() => expect(told.length).toBeGreaterThan(4));
    expect(new Set(told.map(([, outcome]) => outcome))).toEqual(new Set(['ok']));
  });

  it('asks only for its own share', async () => {
    const one = await serve(queue(() => 1));
    const other = await serve(queue(() => 2));
    let ours = one.address;
    const read = new Set<string>();
    const { pool } = scrape([one.address, other.address], {}, { isOurs: (hostPort) => hostPort === ours, onRead: (name, address) => read.add(`${name} ${address}`) });
    await eventually(() => expect(pool.endpoint(one.address)?.metrics).toBeDefined());
    expect(pool.endpoint(other.address)?.metrics).toBeUndefined();
    expect([...read]).toEqual([`chat ${one.address}`]);
    ours = other.address;
    await eventually(() => expect(pool.endpoint(other.address)?.metrics).toBeDefined());
  });

  it('takes away what another router read, too, once it is stale', async () => {
    const { metrics, pool } = scrape(['127.0.0.1:9'], { intervalMs: 40 }, { isOurs: () => false });
    const told = { requestsRunning: 1, requestsQueued: 2, kvUsage: undefined, kvTokensMax: undefined, adapters: undefined, adaptersMax: undefined };
    pool.endpoints[0]!.metrics = { ...told, scrapedMs: performance.now() };
    await new Promise((resolve) => setTimeout(resolve, 50));
    const young = performance.now() - (metrics()?.scrapedMs ?? 0) < 200;
    if (young) expect(metrics()).toMatchObject({ requestsQueued: 2 });
    await eventually(() => expect(metrics()).toBeUndefined());
  });

  it('follows endpoints that come and go', async () => {
    const [one, other] = [await serve(queue(() => 1)), await serve(queue(() => 2))];
    const { pool, told } = scrape([one.address]);
    await eventually(() => expect(pool.endpoint(one.address)?.metrics).toBeDefined());
    const [gone] = pool.endpoints;
    pool.update([{ address: other.address, weight: 1, labels: {}, requestsMax: undefined }], 0);
    pool.sweep(0, 0);
    await eventually(() => expect(pool.endpoint(other.address)?.metrics?.requestsQueued).toBe(2));
    expect(gone?.metrics).toBeUndefined();
    const readOf = (address: string): number => told.filter(([read]) => read === address).length;
    const [before, marker] = [readOf(one.address), readOf(other.address)];
    await eventually(() => expect(readOf(other.address)).toBeGreaterThan(marker + 5));
    expect(readOf(one.address)).toBe(before);
  });

  it('knows nothing any more of pools that it is not to read', async () => {
    const { address } = await serve(queue(() => 1));
    const { scraper, pool, metrics } = scrape([address]);
    await eventually(() => expect(metrics()).toBeDefined());
    scraper.follow([]);
    expect(metrics()).toBeUndefined();
    scraper.follow([{ pool, settings: { kind: 'vllm', intervalMs: 20 } }]);
    await eventually(() => expect(metrics()?.requestsQueued).toBe(1));
  });

  it('stops at once, also in the middle of an answer, and tells nothing any more', async () => {
    let requests = 0;
    let closed = false;
    const { address } = await serve((request) => {
      requests += 1;
      request.socket.once('close', () => (closed = true));
    });
    const { scraper, told } = scrape([address]);
    await eventually(() => expect(requests).toBe(1));
    scraper.stop();
    await eventually(() => expect(closed).toBe(true));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect([requests, told]).toEqual([1, []]);
  });
});
