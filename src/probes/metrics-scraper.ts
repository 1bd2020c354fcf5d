import { Agent } from 'node:http';
import { toRank } from '../core/data-parallel-rank.ts';
import type { Clock, Rng } from '../router/ports.ts';
import { metricsStaleIntervals, type ProbeEvents, type ScrapeFailure } from '../router/probe-events.ts';
import { type EngineKind, metricsPaths, parseEngineMetrics } from './engine-metrics.ts';
import { httpGet } from './http-get.ts';
import { type AskedPool, type ModelServer, ServerRounds } from './server-rounds.ts';

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
  readonly pools: readonly AskedPool<ScrapeSettings>[];
  readonly clock: Clock;
  readonly rng: Rng;
  readonly events: Pick<ProbeEvents, 'metricsScraped' | 'scrapeFailed'>;
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

/** What is kept of one server. */
interface Memory {
  readonly paths: readonly string[];
  /** Which of `paths` is tried next. */
  pathIndex: number;
  expiry: NodeJS.Timeout | undefined;
}

type Page = { readonly ok: true; readonly body: Buffer } | { readonly ok: false; readonly cause: ScrapeFailure; readonly detail: string };

/**
 * Reads the metrics of model servers, each about once per interval, and writes what they say to the fleet's endpoints. A server is never
 * asked again before it has answered or the time is up, and what it said is taken away once it is stale: a decision never rests on it.
 */
export class MetricsScraper {
  readonly #options: ScraperOptions;
  readonly #rounds: ServerRounds<ScrapeSettings, Memory>;
  readonly #agent = new Agent({ keepAlive: true });

  constructor(options: ScraperOptions) {
    this.#options = options;
    this.#rounds = new ServerRounds({
      pools: options.pools,
      clock: options.clock,
      rng: options.rng,
      spreadMs: ({ intervalMs }) => intervalMs,
      remember: ({ settings }): Memory => ({ paths: settings.path === undefined ? metricsPaths(settings.kind) : [settings.path], pathIndex: 0, expiry: undefined }),
      ask: (server, memory) => this.#scrape(server, memory),
      forget: ({ endpoints }, { expiry }) => {
        clearTimeout(expiry);
        // Nobody would take it away when it is stale.
        for (const endpoint of endpoints) endpoint.metrics = undefined;
      },
    });
  }

  /** Begins, spread over the first interval. */
  start(): void {
    this.#rounds.start();
  }

  /** Reads the metrics of these pools from now on, in these ways. */
  follow(pools: readonly AskedPool<ScrapeSettings>[]): void {
    this.#rounds.follow(pools);
  }

  /** Ends at once; nothing is known of the servers any more. */
  stop(): void {
    this.#rounds.stop();
    this.#agent.destroy();
  }

  async #scrape(server: ModelServer<ScrapeSettings>, memory: Memory): Promise<number> {
    const { settings } = server;
    if (this.#options.isOurs?.(server.hostPort) ?? true) {
      const page = await this.#read(server, memory);
      // Stopped meanwhile: the request was broken off, and nobody wants to hear of it.
      if (server.signal.aborted) return settings.intervalMs;
      this.#take(server, memory, page);
    }
    this.#dropStale(server);
    return settings.intervalMs;
  }

  #take(server: ModelServer<ScrapeSettings>, memory: Memory, page: Page): void {
    const { clock, events, onRead } = this.#options;
    const { pool, settings, endpoints, hostPort } = server;
    if (!page.ok) {
      if (page.cause === 'status') memory.pathIndex += 1;
      events.scrapeFailed(pool.name, hostPort, page.cause, page.detail);
      return;
    }
    const scrapedMs = clock.nowMs();
    const read = endpoints.map(({ address }) => parseEngineMetrics(page.body, settings.kind, scrapedMs, toRank(address)));
    if (read[0] === undefined) {
      memory.pathIndex += 1;
      events.scrapeFailed(pool.name, hostPort, 'no-metrics', `no metrics of ${settings.kind === 'auto' ? 'any known model server' : settings.kind} in ${page.body.length} bytes`);
      return;
    }
    endpoints.forEach((endpoint, i) => {
      endpoint.metrics = read[i];
      onRead?.(pool.name, endpoint.address);
    });
    events.metricsScraped(pool.name, hostPort);
    // To the moment, also while the next answer is waited for.
    memory.expiry ??= setTimeout(() => {
      memory.expiry = undefined;
      this.#dropStale(server);
    }, metricsStaleIntervals * settings.intervalMs + timerErrorMs);
    memory.expiry.refresh();
  }

  /** Takes away what is stale, whoever read it. */
  #dropStale({ settings, endpoints }: ModelServer<ScrapeSettings>): void {
    const staleMs = this.#options.clock.nowMs() - metricsStaleIntervals * settings.intervalMs;
    for (const endpoint of endpoints) if (endpoint.metrics !== undefined && endpoint.metrics.scrapedMs <= staleMs) endpoint.metrics = undefined;
  }

  async #read({ host, port, settings, signal }: ModelServer<ScrapeSettings>, { paths, pathIndex }: Memory): Promise<Page> {
    const path = paths[pathIndex % paths.length] ?? '/metrics';
    const answer = await httpGet({
      host,
      port,
      path,
      headers: { accept: 'text/plain;version=0.0.4', 'accept-encoding': 'identity' },
      timeoutMs: settings.timeoutMs ?? Math.min(timeoutMsDefault, metricsStaleIntervals * settings.intervalMs),
      bodyBytesMax: pageBytesMax,
      wantsBody: (status) => status === 200,
      agent: this.#agent,
      clock: this.#options.clock,
      signal,
    });
    if (!answer.ok) return { ...answer, cause: answer.cause === 'malformed' ? 'unreachable' : answer.cause };
    return answer.status === 200 ? answer : { ok: false, cause: 'status', detail: `${path} answered ${answer.status}` };
  }
}
