import { Agent, type ClientRequest, get } from 'node:http';
import { toHostPort, toRank } from '../core/data-parallel-rank.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import type { FleetPool } from '../fleet/fleet-view.ts';
import type { Clock, Rng } from '../router/ports.ts';
import { metricsStaleIntervals, type ProbeEvents, type ScrapeFailure } from '../router/probe-events.ts';
import { type EngineKind, metricsPaths, parseEngineMetrics } from './engine-metrics.ts';

/** How the model servers of one pool are asked how they are. */
export interface ScrapeSettings {
  readonly kind: EngineKind | 'auto';
  /** Undefined: where servers of that kind have their metrics. */
  readonly path?: string | undefined;
  /** Undefined: the endpoint's own port. */
  readonly port?: number | undefined;
  readonly intervalMs: number;
  /** Undefined: a second, or as long as the answer is not stale when it comes. */
  readonly timeoutMs?: number | undefined;
}

export interface ScraperOptions {
  readonly pools: readonly { readonly pool: FleetPool; readonly settings: ScrapeSettings }[];
  readonly clock: Clock;
  readonly rng: Rng;
  readonly events: ProbeEvents;
  /** Whether this router is the one that reads a server now, and no other tells; default: it reads all. */
  readonly isOurs?: (hostPort: string) => boolean;
  /** Hears of every endpoint whose metrics were read. */
  readonly onRead?: (pool: string, address: string) => void;
}

const timeoutMsDefault = 1_000;
/** Timers fire up to a millisecond early by the clock. */
const timerErrorMs = 2;
/** Largest page read, in bytes: vLLM's is about 200 KB. */
const pageBytesMax = 4_194_304;
/** Intervals vary by this share, so that routers and endpoints do not fall into step. */
const jitterShare = 0.1;

/** One model server: an endpoint, or all the data-parallel ranks behind one address. */
interface Target {
  readonly pool: FleetPool;
  readonly settings: ScrapeSettings;
  readonly hostPort: string;
  readonly host: string;
  readonly port: number;
  readonly endpoints: readonly FleetEndpoint[];
  readonly paths: readonly string[];
  /** Which of `paths` is tried next. */
  pathIndex: number;
  next: NodeJS.Timeout | undefined;
  expiry: NodeJS.Timeout | undefined;
}

type Page = { readonly ok: true; readonly body: Buffer } | { readonly ok: false; readonly cause: ScrapeFailure; readonly detail: string };

/**
 * Reads the metrics of model servers, each about once per interval, and writes what they say to the fleet's endpoints. A server is never
 * asked again before it has answered or the time is up, and what it said is taken away once it is stale: a decision never rests on it.
 */
export class MetricsScraper {
  readonly #options: ScraperOptions;
  readonly #targets: readonly Target[];
  readonly #agent: Agent;
  readonly #underWay = new Set<ClientRequest>();
  #stopped = false;

  constructor(options: ScraperOptions) {
    this.#options = options;
    this.#targets = options.pools.flatMap(({ pool, settings }) => toTargets(pool, settings));
    this.#agent = new Agent({ keepAlive: true, maxSockets: 1 });
  }

  /** Begins, spread over the first interval. */
  start(): void {
    for (const target of this.#targets) this.#scrapeAfter(target, this.#options.rng.draw() * target.settings.intervalMs);
  }

  /** Ends at once. What was read last stays until the process ends. */
  stop(): void {
    this.#stopped = true;
    for (const { next, expiry } of this.#targets) {
      clearTimeout(next);
      clearTimeout(expiry);
    }
    for (const request of this.#underWay) request.destroy();
    this.#agent.destroy();
  }

  #scrapeAfter(target: Target, delayMs: number): void {
    target.next = setTimeout(() => void this.#scrape(target), delayMs).unref();
  }

  /** Never rejects. */
  async #scrape(target: Target): Promise<void> {
    const { clock, rng, isOurs } = this.#options;
    const { settings } = target;
    const startedMs = clock.nowMs();
    if (isOurs?.(target.hostPort) ?? true) {
      const page = await this.#read(target);
      // Stopped meanwhile: the request was broken off, and nobody wants to hear of it.
      if (this.#isStopped()) return;
      this.#take(target, page);
    }
    this.#dropStale(target);
    const nextMs = startedMs + settings.intervalMs * (1 - jitterShare + 2 * jitterShare * rng.draw());
    this.#scrapeAfter(target, Math.max(0, nextMs - clock.nowMs()));
  }

  #isStopped(): boolean {
    return this.#stopped;
  }

  #take(target: Target, page: Page): void {
    const { clock, events, onRead } = this.#options;
    const { pool, settings, endpoints, hostPort } = target;
    if (!page.ok) {
      if (page.cause === 'status') target.pathIndex += 1;
      events.scrapeFailed(pool.name, hostPort, page.cause, page.detail);
      return;
    }
    const scrapedMs = clock.nowMs();
    const read = endpoints.map(({ address }) => parseEngineMetrics(page.body, settings.kind, scrapedMs, toRank(address)));
    if (read[0] === undefined) {
      target.pathIndex += 1;
      events.scrapeFailed(pool.name, hostPort, 'no-metrics', `no metrics of ${settings.kind === 'auto' ? 'any known model server' : settings.kind} in ${page.body.length} bytes`);
      return;
    }
    endpoints.forEach((endpoint, i) => {
      endpoint.metrics = read[i];
      onRead?.(pool.name, endpoint.address);
    });
    events.metricsScraped(pool.name, hostPort);
    // To the moment, also while the next answer is waited for.
    target.expiry ??= setTimeout(() => {
      target.expiry = undefined;
      this.#dropStale(target);
    }, metricsStaleIntervals * settings.intervalMs + timerErrorMs).unref();
    target.expiry.refresh();
  }

  /** Takes away what is stale, whoever read it. */
  #dropStale({ settings, endpoints }: Target): void {
    const staleMs = this.#options.clock.nowMs() - metricsStaleIntervals * settings.intervalMs;
    for (const endpoint of endpoints) if (endpoint.metrics !== undefined && endpoint.metrics.scrapedMs <= staleMs) endpoint.metrics = undefined;
  }

  async #read(target: Target): Promise<Page> {
    const page = await this.#readOnce(target);
    // A server may close an idle connection in the very moment it is used again: that says nothing of the server.
    return page === 'connection-was-closed' ? toPage(await this.#readOnce(target)) : page;
  }

  #readOnce({ host, port, paths, pathIndex, settings }: Target): Promise<Page | 'connection-was-closed'> {
    const { timeoutMs = Math.min(timeoutMsDefault, metricsStaleIntervals * settings.intervalMs) } = settings;
    return new Promise((resolve) => {
      const path = paths[pathIndex % paths.length] ?? '/metrics';
      let done = false;
      const end = (page: Page | 'connection-was-closed'): void => {
        if (done) return;
        done = true;
        clearTimeout(deadline);
        this.#underWay.delete(request);
        resolve(page);
      };
      const fail = (cause: ScrapeFailure, detail: string): void => {
        end({ ok: false, cause, detail });
        request.destroy();
      };
      const headers = { accept: 'text/plain;version=0.0.4', 'accept-encoding': 'identity' };
      const request = get({ host, port, path, headers, agent: this.#agent }, (response) => {
        if (response.statusCode !== 200) {
          fail('status', `${path} answered ${response.statusCode ?? 'without a status'}`);
          return;
        }
        const pieces: Buffer[] = [];
        let bytes = 0;
        response.on('data', (piece: Buffer) => {
          bytes += piece.length;
          if (bytes > pageBytesMax) fail('too-large', `${path} is larger than ${pageBytesMax} bytes`);
          else pieces.push(piece);
        });
        response.on('end', () => end({ ok: true, body: Buffer.concat(pieces) }));
        response.on('error', (error) => end({ ok: false, cause: 'unreachable', detail: error.message }));
      });
      this.#underWay.add(request);
      const deadline = setTimeout(() => fail('timeout', `${path} took longer than ${timeoutMs} ms`), timeoutMs).unref();
      request.on('error', (error: NodeJS.ErrnoException) => {
        if (request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')) end('connection-was-closed');
        else end({ ok: false, cause: 'unreachable', detail: error.message });
      });
      request.on('close', () => end({ ok: false, cause: 'unreachable', detail: 'the connection was closed' }));
    });
  }
}

function toPage(page: Page | 'connection-was-closed'): Page {
  return page === 'connection-was-closed' ? { ok: false, cause: 'unreachable', detail: 'the connection was closed' } : page;
}

/** Ranks behind one address are one server. */
function toTargets(pool: FleetPool, settings: ScrapeSettings): Target[] {
  const byHostPort = Map.groupBy(pool.endpoints, ({ address }) => toHostPort(address));
  return [...byHostPort].map(([hostPort, endpoints]) => {
    const colon = hostPort.lastIndexOf(':');
    const port = settings.port ?? Number(hostPort.slice(colon + 1));
    const host = hostPort.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
    const paths = settings.path === undefined ? metricsPaths(settings.kind) : [settings.path];
    return { pool, settings, hostPort, host, port, endpoints, paths, pathIndex: 0, next: undefined, expiry: undefined };
  });
}
