import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type EngineProfile, type EngineProfileName, engineProfiles } from '../engine/engine-profiles.ts';
import { messages } from './anthropic-messages.ts';
import type { ApiError, Dialect } from './dialect.ts';
import { FaultInjector } from './fault-injector.ts';
import {
  bodyBytesMax,
  bodyTooLarge,
  methodNotAllowed,
  parseJson,
  readBody,
  receivedHeaders,
  resetConnection,
  sendError,
  sendJson,
  sendText,
  servedBy,
} from './http-exchange.ts';
import type { EngineMetricsKind } from './engine-metrics.ts';
import { type LoraOptions, ModelApi, noteSession } from './model-api.ts';
import { chatCompletions, completions } from './openai-completions.ts';
import { responses } from './openai-responses.ts';
import { type ServerStats, StatsRecorder } from './server-stats.ts';
import { parseSwitches, type Restart, type Switches } from './switches.ts';

/** Servers of one process by port: each can be switched through any other, also one that refuses connections. */
export type ModelServerGroup = Map<number, ModelServerControl>;

/** Takes over the connection of a client that asked for another protocol; `servedBy` is this server's `ip:port`. */
export type UpgradeHandler = (request: IncomingMessage, socket: Duplex, head: Buffer, servedBy: string) => void;

export interface ModelServerOptions {
  /** 0 for a free one (default). */
  readonly port?: number;
  /** Address to listen on; default 127.0.0.1. Whoever reaches it can work the switches. */
  readonly host?: string;
  /** Default `demo`. */
  readonly profile?: EngineProfileName | EngineProfile;
  /** The only model served; others get 404. Unset, every model name is taken. */
  readonly model?: string;
  /** Models that are LoRA adapters, served beside `model`. */
  readonly lora?: LoraOptions;
  /** Whose metrics it serves; default vLLM's. */
  readonly metrics?: EngineMetricsKind;
  /** How many times faster than the clock the engine runs; default 1. */
  readonly timeScale?: number;
  /** Milliseconds (of the clock) after the start that its model takes to load; default 0. Until then it is not healthy and lists no model. */
  readonly startupMs?: number;
  /** Status when the queue is full; default 429. */
  readonly queueFullStatus?: 429 | 503;
  readonly switches?: Partial<Switches>;
  /** What serves websockets at /v1/realtime; unset, nothing does. */
  readonly realtime?: UpgradeHandler;
  /** The server enters itself here while it lives. */
  readonly group?: ModelServerGroup;
}

/** What can be seen and changed of a running server; also at `/_sim` and `/_sim/stats`. */
export interface ModelServerControl {
  readonly switches: Switches;
  /** Changes some switches. Takes effect before it resolves; rejects if mode `refuse` is left and the port is taken by now. */
  set(change: Partial<Switches>): Promise<void>;
  /** Breaks every connection and starts anew with an empty cache; resolves when the port is open again, before the model is loaded. */
  restart(restart?: Partial<Restart>): Promise<void>;
  stats(): ServerStats;
}

export interface ModelServer {
  /** `ip:port`, IPv6 in brackets. */
  readonly address: string;
  readonly host: string;
  readonly port: number;
  readonly url: string;
  readonly control: ModelServerControl;
  /** Stops listening and breaks every connection. */
  close(): Promise<void>;
}

/** Header on every response, so that nobody takes it for a model's. */
export const simulatedHeader = 'x-simulated-model-server';

const dialects: ReadonlyMap<string, Dialect> = new Map([chatCompletions, completions, responses, messages].map((dialect) => [dialect.path, dialect]));
const switchesBytesMax = 64 * 1024;

/**
 * Starts one simulated model server: the HTTP face of a model server, with an engine model behind it instead of a model. Rejects with
 * the system's error (`code` EADDRINUSE, …) where it cannot listen.
 */
export async function startModelServer(options: ModelServerOptions = {}): Promise<ModelServer> {
  const server = new SimulatedModelServer(options);
  await server.listen();
  return server;
}

class SimulatedModelServer implements ModelServer, ModelServerControl {
  host: string;
  port: number;
  readonly #profile: EngineProfile;
  readonly #timeScale: number;
  readonly #group: ModelServerGroup;
  readonly #startupMs: number;
  readonly #faults: FaultInjector;
  readonly #stats = new StatsRecorder();
  readonly #api: ModelApi;
  readonly #pages: ReadonlyMap<string, (response: ServerResponse) => void | Promise<void>>;
  readonly #realtime: UpgradeHandler | undefined;
  /** Connections that left HTTP: the HTTP server no longer knows them. */
  readonly #upgraded = new Set<Duplex>();
  readonly #closing = new AbortController();
  #readyAtMs = Infinity;
  #server: Server | undefined = undefined;
  /** Openings and closings of the port, one after the other. */
  #transition: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: ModelServerOptions) {
    const { host = '127.0.0.1', port = 0, profile = 'demo', timeScale = 1, startupMs = 0, queueFullStatus = 429 } = options;
    if (!(timeScale > 0 && Number.isFinite(timeScale))) throw new RangeError(`timeScale must be a positive number, not ${timeScale}`);
    this.host = host;
    this.port = port;
    this.#profile = typeof profile === 'string' ? engineProfiles[profile] : profile;
    this.#timeScale = timeScale;
    this.#group = options.group ?? new Map<number, ModelServerControl>();
    this.#startupMs = startupMs;
    this.#realtime = options.realtime;
    this.#faults = new FaultInjector(options.switches);
    const api = new ModelApi({
      profile: this.#profile,
      timeScale,
      model: options.model,
      lora: options.lora,
      metrics: options.metrics ?? 'vllm',
      queueFullStatus,
      idSuffix: () => String(this.port),
      isReady: () => this.#ready,
      faults: this.#faults,
      stats: this.#stats,
    });
    this.#api = api;
    this.#pages = new Map<string, (response: ServerResponse) => void | Promise<void>>([
      ['/', (response) => sendText(response, 200, this.#frontPage())],
      ...['/health', '/health/ready'].map((path) => [path, (response: ServerResponse) => this.#sendHealth(response)] as const),
      ['/v1/models', (response) => this.#sendModels(response)],
      [api.metrics.path, async (response) => sendText(response, 200, await api.metrics.registry.metrics(), api.metrics.registry.contentType)],
      ['/_sim/stats', (response) => sendJson(response, 200, this.stats())],
    ]);
  }

  get address(): string {
    return `${this.host.includes(':') ? `[${this.host}]` : this.host}:${this.port}`;
  }

  get url(): string {
    return `http://${this.address}`;
  }

  get control(): ModelServerControl {
    return this;
  }

  get switches(): Switches {
    return this.#faults.switches;
  }

  get #ready(): boolean {
    return performance.now() >= this.#readyAtMs;
  }

  stats(): ServerStats {
    return this.#stats.snapshot();
  }

  async listen(): Promise<void> {
    await this.#open();
    this.#readyAtMs = performance.now() + this.#startupMs;
    this.#group.set(this.port, this);
    if (this.switches.mode === 'refuse') await this.#shut();
  }

  async set(change: Partial<Switches>): Promise<void> {
    this.#faults.change(change);
    this.#api.slowFactor = this.switches.slowFactor;
    if (change.mode === undefined) return;
    const step = this.#transition.then(async () => {
      if (this.#closed) return;
      if (this.switches.mode === 'refuse') await this.#shut();
      else await this.#open();
    });
    // One failed opening must not stop the next.
    this.#transition = step.catch(() => undefined);
    await step;
  }

  async restart({ downMs = 0, loadMs = 0 }: Partial<Restart> = {}): Promise<void> {
    const step = this.#transition.then(async () => {
      if (this.#closed) return;
      this.#readyAtMs = Infinity;
      await this.#shut();
      this.#api.restart();
      // Closing cuts the wait short.
      await sleep(downMs, undefined, { signal: this.#closing.signal }).catch(() => undefined);
      if (this.#closing.signal.aborted) return;
      if (this.switches.mode !== 'refuse') await this.#open();
      this.#readyAtMs = performance.now() + loadMs;
    });
    this.#transition = step.catch(() => undefined);
    await step;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#closing.abort();
    await this.#transition;
    this.#group.delete(this.port);
    await this.#shut();
    this.#api.close();
  }

  async #open(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = createServer({ maxHeaderSize: 64 * 1024 }, (request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        if (response.headersSent) response.destroy();
        else sendError(response, { status: 500, code: 'internal_error', message: String(error) });
      });
    });
    server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
    // A proxy keeps its connections longer than Node's 5 s, and loses a request to each that is closed under it.
    server.keepAliveTimeout = 0;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.port, this.host, () => {
        server.off('error', reject);
        resolve();
      });
    });
    const bound = server.address() as AddressInfo;
    this.host = bound.address;
    this.port = bound.port;
    this.#server = server;
  }

  async #shut(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
    server.closeAllConnections();
    for (const socket of this.#upgraded) socket.destroy();
    await closed;
  }

  /** Hands a websocket over, unless the switches dispose of it; such a connection is counted while it is open. */
  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#upgraded.add(socket);
    socket.once('close', () => this.#upgraded.delete(socket));
    socket.on('error', () => undefined);
    const [path] = (request.url ?? '/').split('?', 1);
    const serves = path === '/v1/realtime' ? this.#realtime : undefined;
    const fault = serves === undefined ? undefined : this.#faults.next();
    if (fault === 'hang') return;
    if (serves === undefined || fault !== undefined || !this.#ready) {
      socket.end(`HTTP/1.1 ${serves === undefined ? 404 : (fault?.status ?? 503)} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
      return;
    }
    this.#stats.upgraded();
    socket.once('close', () => this.#stats.upgradedEnded());
    serves(request, socket, head, servedBy(request));
  }

  #sendHealth(response: ServerResponse): void {
    if (this.switches.healthHangs) return;
    const ok = this.switches.healthOk && this.#ready;
    sendJson(response, ok ? 200 : 503, { status: ok ? 'ok' : this.#ready ? 'unavailable' : 'loading', simulated: true });
  }

  #sendModels(response: ServerResponse): void {
    if (this.switches.healthHangs) return;
    sendJson(response, 200, this.#ready ? this.#api.models() : { object: 'list', data: [] });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // A client that leaves while it is written to is none of our errors; its leaving shows as `close`.
    response.on('error', () => undefined);
    response.setHeader(simulatedHeader, 'true');
    response.setHeader('x-served-by', servedBy(request));
    const [path = '/'] = (request.url ?? '/').split('?', 1);
    const dialect = dialects.get(path);
    const page = this.#pages.get(path);
    if (dialect !== undefined) await this.#api.serve(dialect, request, response);
    else if (path === '/echo' || path.startsWith('/echo/')) await this.#reflect(request, response, sendEcho);
    else if (path === '/headers') await this.#reflect(request, response, () => sendJson(response, 200, receivedHeaders(request)));
    else if (path === '/_sim') await this.#control(request, response);
    else if (page === undefined) sendError(response, { status: 404, code: 'not_found', message: `nothing at ${path}; see /` });
    else if (request.method === 'GET' || request.method === 'HEAD') await page(response);
    else sendError(response, methodNotAllowed('GET, HEAD'));
  }

  #frontPage(): string {
    return [
      'Fairlead simulated model server: no model, no GPU. Answers are invented, their timing follows an engine model.',
      `Profile ${this.#profile.name}: ${this.#profile.source}.`,
      '',
      ...[...dialects.keys()].map((path) => `POST ${path}`),
      `GET  /v1/models  ${this.#api.metrics.path}  /health  /health/ready`,
      'any  /echo     the request body, byte for byte',
      'any  /headers  the request headers received, as JSON',
      'GET, POST /_sim  switches: mode, failStatus, failRatio, slowFactor, healthOk, healthHangs, resetAfterChunks; {"restart":{"downMs":0,"loadMs":3000}}',
      'GET  /_sim/stats',
      '',
    ].join('\n');
  }

  /** Answers a request with what it brought, unless the switches dispose of it. */
  async #reflect(request: IncomingMessage, response: ServerResponse, send: typeof sendEcho): Promise<void> {
    this.#stats.otherRequests += 1;
    const body = await readBody(request, bodyBytesMax);
    if (body === 'aborted') return;
    if (body === 'too-large') {
      sendError(response, bodyTooLarge);
      return;
    }
    noteSession(this.#stats, request, undefined);
    const fault = this.#faults.next();
    if (fault === 'hang') return;
    if (fault !== undefined) {
      this.#stats.failed += 1;
      sendError(response, fault);
    } else if (this.switches.mode === 'reset') {
      this.#stats.failed += 1;
      resetConnection(response);
    } else {
      send(request, response, body);
    }
  }

  async #control(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.method === 'GET') {
      sendJson(response, 200, this.#describe(this.port, this.switches));
      return;
    }
    const body = await readBody(request, switchesBytesMax);
    if (body === 'aborted') return;
    const error = request.method === 'POST' ? await this.#change(body, response) : methodNotAllowed('GET, POST');
    if (error !== undefined) sendError(response, error);
  }

  #describe(port: number, switches: Switches): object {
    return { simulated: true, port, profile: this.#profile.name, timeScale: this.#timeScale, switches };
  }

  /** Changes switches of this server, or with `port` of another of the process; returns the error if that cannot be. */
  async #change(body: Buffer | 'too-large', response: ServerResponse): Promise<ApiError | undefined> {
    if (body === 'too-large') return bodyTooLarge;
    const parsed = parseJson(body);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
      return { status: 400, code: 'invalid_switches', message: 'a JSON object of switches is needed' };
    }
    const { port = this.port, ...rest } = parsed as Record<string, unknown>;
    const target = typeof port === 'number' ? this.#group.get(port) : undefined;
    if (typeof port !== 'number' || target === undefined) {
      return { status: 404, code: 'unknown_port', message: `port must be one of ${[...this.#group.keys()].join(', ')}` };
    }
    const result = parseSwitches(rest);
    if (!result.ok) return { status: 400, code: 'invalid_switches', message: result.problems.join('; ') };
    const { change, restart } = result;
    const apply = async (): Promise<void> => {
      await target.set(change);
      if (restart !== undefined) await target.restart(restart);
    };
    if (target === this && (change.mode === 'refuse' || restart !== undefined)) {
      // Answer first: afterwards there is no connection. A port that refuses is opened again only through another's, or by the process itself.
      response.once('finish', () => void apply());
      sendJson(response, 200, this.#describe(port, { ...this.switches, ...change }), { connection: 'close' });
      return undefined;
    }
    await apply();
    sendJson(response, 200, this.#describe(port, target.switches));
    return undefined;
  }
}

function sendEcho(request: IncomingMessage, response: ServerResponse, body: Buffer): void {
  response.writeHead(200, {
    'content-type': request.headers['content-type'] ?? 'application/octet-stream',
    'content-length': body.length,
    'x-body-bytes': body.length,
    'x-body-sha256': createHash('sha256').update(body).digest('hex'),
  });
  response.end(body);
}
