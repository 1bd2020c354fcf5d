import type { IncomingMessage, ServerResponse } from 'node:http';
import type { EngineEvent } from '../engine/engine.ts';
import { contextTokensMax, type EngineProfile } from '../engine/engine-profiles.ts';
import { chainedBlockHashes, textHash, tokenBytes } from './block-hashes.ts';
import type { ApiError, Dialect, Generation, GenerationRequest } from './dialect.ts';
import { createEngineMetrics, type EngineMetrics, type EngineMetricsKind } from './engine-metrics.ts';
import type { FaultInjector } from './fault-injector.ts';
import { generatedTokens, naturalOutputTokens } from './generated-text.ts';
import { bodyBytesMax, bodyTooLarge, methodNotAllowed, parseJson, readBody, resetConnection, sendError, sendJson } from './http-exchange.ts';
import { LiveEngine } from './live-engine.ts';
import type { StatsRecorder } from './server-stats.ts';

/** What a server without a fixed model calls its model. */
const nameOfAnyModel = 'simulated-model';

/** LoRA adapters of a simulated server. They cost it nothing: its metrics tell of them. */
export interface LoraOptions {
  readonly adapters: readonly string[];
  readonly max: number;
}

export interface ModelApiOptions {
  readonly profile: EngineProfile;
  readonly timeScale: number;
  /** The only model served; undefined for every name. */
  readonly model: string | undefined;
  /** Models that are LoRA adapters, and how many of them fit at once; undefined: none are. */
  readonly lora: LoraOptions | undefined;
  readonly metrics: EngineMetricsKind;
  readonly queueFullStatus: 429 | 503;
  /** Distinguishes this server's answers from its siblings'. */
  readonly idSuffix: () => string;
  readonly isReady: () => boolean;
  readonly faults: FaultInjector;
  readonly stats: StatsRecorder;
}

/** Counts a session by the header `x-session-id`, else by the body's `prompt_cache_key`. */
export function noteSession(stats: StatsRecorder, request: IncomingMessage, body: unknown): void {
  const header = request.headers['x-session-id'];
  if (typeof header === 'string') stats.session(header);
  else if (typeof body === 'object' && body !== null && 'prompt_cache_key' in body && typeof body.prompt_cache_key === 'string') {
    stats.session(body.prompt_cache_key);
  }
}

/** The model API of one simulated server: requests go through its engine and come out as invented text at the engine's pace. */
export class ModelApi {
  readonly model: string;
  readonly metrics: EngineMetrics;
  readonly #options: ModelApiOptions;
  #engine: LiveEngine;
  readonly #startedS = Math.floor(Date.now() / 1000);
  #generations = 0;
  /** Requests in flight by adapter. */
  readonly #adaptersInUse = new Map<string, number>();
  /** Responses that mode `reset` ended, not the client. */
  readonly #cutResponses = new WeakSet<ServerResponse>();

  constructor(options: ModelApiOptions) {
    this.#options = options;
    this.model = options.model ?? nameOfAnyModel;
    this.#engine = new LiveEngine(options.profile, options.timeScale);
    this.#engine.slowFactor = options.faults.switches.slowFactor;
    const { lora } = options;
    this.metrics = createEngineMetrics({
      kind: options.metrics,
      model: this.model,
      profile: options.profile,
      stats: () => this.#engine.stats,
      adapters: lora && (() => ({ running: [...this.#adaptersInUse.keys()].sort(), max: lora.max })),
    });
  }

  set slowFactor(factor: number) {
    this.#engine.slowFactor = factor;
  }

  /** The answer to `GET /v1/models`. */
  models(): object {
    const { profile } = this.#options;
    const max = contextTokensMax(profile);
    const model = { id: this.model, object: 'model', created: this.#startedS, owned_by: 'fairlead-simulated', max_model_len: max };
    return { object: 'list', data: [model] };
  }

  /** Loses all that is in flight, and the cache. The connections are the caller's to break. */
  restart(): void {
    this.#engine.close();
    this.#engine = new LiveEngine(this.#options.profile, this.#options.timeScale);
    this.#engine.slowFactor = this.#options.faults.switches.slowFactor;
  }

  close(): void {
    this.#engine.close();
  }

  /** Serves one request; resolves when it is in the engine, answered with an error, or left to hang. */
  async serve(dialect: Dialect, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { stats } = this.#options;
    stats.arrived();
    stats.inFlight += 1;
    response.once('close', () => {
      stats.inFlight -= 1;
      if (!response.writableEnded && !this.#cutResponses.has(response)) stats.cancelled += 1;
    });
    const body = await readBody(request, bodyBytesMax);
    // With the client gone already nobody would cancel the sequence.
    if (body === 'aborted' || response.destroyed) return;
    const error = request.method === 'POST' ? this.#accept(dialect, body, request, response) : methodNotAllowed('POST');
    if (error !== undefined) sendError(response, error, (refused) => dialect.toError(refused));
  }

  /** Takes a request as far as it goes; returns the error to answer with, if it comes to that. */
  #accept(dialect: Dialect, body: Buffer | 'too-large', request: IncomingMessage, response: ServerResponse): ApiError | undefined {
    const { faults, stats, isReady, lora, model: onlyModel } = this.#options;
    if (body === 'too-large') return bodyTooLarge;
    const parsed = parseJson(body);
    noteSession(stats, request, parsed);
    const fault = faults.next();
    if (fault === 'hang') return undefined;
    if (fault !== undefined) {
      stats.failed += 1;
      return fault;
    }
    if (!isReady()) return { status: 503, code: 'starting', message: 'the server is starting', headers: { 'retry-after': '1' } };
    if (parsed === undefined) return { status: 400, code: 'invalid_json', message: 'the body is not JSON' };
    const result = dialect.parse(parsed);
    if (!result.ok) return { status: 400, code: 'invalid_request', message: result.message };
    const { model } = result.request;
    const isAdapter = model !== undefined && lora?.adapters.includes(model) === true;
    if (model !== undefined && onlyModel !== undefined && model !== onlyModel && !isAdapter) {
      return { status: 404, code: 'model_not_found', message: `the model ${JSON.stringify(model)} does not exist` };
    }
    return this.#generate(dialect, result.request, response);
  }

  /** Puts a request into the engine and has its events written; returns the error if the engine refuses. */
  #generate(dialect: Dialect, request: GenerationRequest, response: ServerResponse): ApiError | undefined {
    const { profile, stats, queueFullStatus, idSuffix } = this.#options;
    const { prompt, stream, outputTokensMax, ignoreEos, includeUsage } = request;
    const seed = textHash(prompt);
    const naturalTokens = ignoreEos && outputTokensMax !== undefined ? Infinity : naturalOutputTokens(seed);
    const outputTokens = Math.min(naturalTokens, outputTokensMax ?? Infinity);
    const promptTokens = prompt.length / tokenBytes;
    const contextMax = contextTokensMax(profile);
    // The engine would say so too, but only after an answer of any length asked for was made up.
    if (promptTokens + outputTokens > contextMax) {
      const message = `${promptTokens} prompt and ${outputTokens} output tokens exceed the context of ${contextMax}`;
      return { status: 400, code: 'context_length_exceeded', message };
    }

    this.#generations += 1;
    const id = `${dialect.idPrefix}sim-${idSuffix()}-${this.#generations}`;
    const tokens = generatedTokens(seed, outputTokens);
    const hashes = chainedBlockHashes(Buffer.concat([prompt, Buffer.from(tokens.join(''))]), profile.blockTokens * tokenBytes);
    const promptBlocks = Math.floor(promptTokens / profile.blockTokens);
    const generation: Generation = {
      id,
      model: request.model ?? this.model,
      createdS: Math.floor(Date.now() / 1000),
      promptTokens,
      cachedTokens: 0,
      tokens,
      finishReason: outputTokens < naturalTokens ? 'length' : 'stop',
      includeUsage,
    };
    const result = this.#engine.submit(
      { id, promptTokens, outputTokens, blockHashes: hashes.slice(0, promptBlocks), outputBlockHashes: hashes.slice(promptBlocks) },
      this.#writer(dialect, generation, response, stream),
    );
    if (result !== 'queued') {
      stats.rejected += 1;
      return { status: queueFullStatus, code: 'queue_full', message: 'the queue is full', headers: { 'retry-after': '1' } };
    }
    // The client's leaving, and every other end of the connection, frees the sequence; after the last token there is nothing to free.
    const adapter = this.#options.lora?.adapters.find((name) => name === request.model);
    if (adapter !== undefined) this.#useAdapter(adapter, 1);
    response.once('close', () => {
      this.#engine.cancel(id);
      if (adapter !== undefined) this.#useAdapter(adapter, -1);
    });
    if (stream) {
      // Real servers send the headers of a stream when they accept the request: they say nothing about the first token.
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
      response.flushHeaders();
    }
    return undefined;
  }

  #useAdapter(adapter: string, change: 1 | -1): void {
    const requests = (this.#adaptersInUse.get(adapter) ?? 0) + change;
    if (requests > 0) this.#adaptersInUse.set(adapter, requests);
    else this.#adaptersInUse.delete(adapter);
  }

  /** Turns a sequence's events into the answer. */
  #writer(dialect: Dialect, accepted: Generation, response: ServerResponse, stream: boolean): (event: EngineEvent) => void {
    const { faults, stats } = this.#options;
    const { id, tokens, promptTokens } = accepted;
    let generation = accepted;
    let written = 0;

    const writeToken = (): void => {
      if (!stream) return;
      if (faults.cutsBefore(written, tokens.length)) {
        this.#cut(id, response);
        return;
      }
      response.write(dialect.toChunk(generation, written));
      written += 1;
    };
    const finish = (): void => {
      if (stream) {
        response.end();
      } else if (faults.switches.mode === 'reset') {
        const bytes = Buffer.from(JSON.stringify(dialect.toAnswer(generation)));
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': bytes.length });
        response.write(bytes.subarray(0, bytes.length >> 1));
        this.#cut(id, response);
        return;
      } else {
        sendJson(response, 200, dialect.toAnswer(generation));
      }
      stats.succeeded += 1;
    };

    return (event) => {
      if (event.kind === 'first-token') {
        const ttftMs = event.atMs - event.submittedMs;
        stats.firstToken(ttftMs, promptTokens, event.cachedTokens);
        this.metrics.firstToken(ttftMs);
        generation = { ...accepted, cachedTokens: event.cachedTokens };
        writeToken();
      } else if (event.kind === 'token') {
        writeToken();
      } else {
        this.metrics.finished(generation.finishReason, event.atMs - event.submittedMs);
        stats.outputTokens += event.outputTokens;
        finish();
      }
    };
  }

  /** Ends an answer in the middle. */
  #cut(id: string, response: ServerResponse): void {
    this.#options.stats.failed += 1;
    this.#cutResponses.add(response);
    this.#engine.cancel(id);
    resetConnection(response);
  }
}
