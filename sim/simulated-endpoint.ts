import { Engine, type EngineEvent } from './engine/engine.ts';
import { type EngineProfile } from './engine/engine-profiles.ts';
import type { EngineRequest } from './engine/sequence.ts';
import { prefixBlockTokens } from '../src/core/request-facts.ts';
import type { WorkloadRequest } from './workloads/workload.ts';

/** A model server of the simulated fleet. */
export interface EndpointModel {
  readonly address: string;
  readonly profile: EngineProfile;
  /** How many times slower than its profile; 1: as fast. */
  readonly slowFactor: number;
}

/** What became of a request that was sent to an endpoint; `failed`: it answered with a 500 at once. */
export type SendOutcome = 'taken' | 'refused-connection' | 'queue-full' | 'too-long' | 'failed';

/** What a probe of an endpoint finds. */
export type ProbeFinding = 'passing' | 'loading' | 'failing';

/** What can be wrong with an endpoint that is up. */
export interface Ailments {
  /** How many times slower it runs. */
  readonly slowFactor: number;
  /** Share of the requests that it answers with a 500. */
  readonly failShare: number;
  /** It breaks answers off after their first token. */
  readonly cuts: boolean;
  readonly hangs: boolean;
  /** Whether probes see nothing of it. */
  readonly probesPass: boolean;
}

const well: Ailments = { slowFactor: 1, failShare: 0, cuts: false, hangs: false, probesPass: true };

/** A simulated engine that can slow down, fail, hang, die with all that it holds, and come back empty. */
export class SimulatedEndpoint {
  readonly model: EndpointModel;
  /** What was sent and has not ended, by request. */
  readonly inFlight = new Set<number>();
  #engine: Engine | undefined;
  #ails = well;
  #loadedMs = -Infinity;
  #advancedMs = -Infinity;
  /** Share of a failure owed so far. */
  #failureOwed = 0;
  #healthySinceMs: number | undefined = 0;
  #uselessSinceMs: number | undefined;
  /** Totals of engines that died. */
  #busyMs = 0;
  requests = 0;

  constructor(model: EndpointModel) {
    this.model = model;
    if (prefixBlockTokens % model.profile.blockTokens !== 0) throw new Error(`${model.profile.name}: blocks of ${model.profile.blockTokens} tokens do not fit into ${prefixBlockTokens}`);
    this.start(0);
  }

  get isDown(): boolean {
    return this.#engine === undefined;
  }

  get hangs(): boolean {
    return this.#ails.hangs;
  }

  get cuts(): boolean {
    return this.#ails.cuts;
  }

  /** Since when nothing is wrong with it, in ms; in the future while its model loads; undefined: something is wrong. */
  get healthySinceMs(): number | undefined {
    return this.#healthySinceMs;
  }

  /** Since when it completes no request that it is sent, in ms; undefined: it does complete some. */
  get uselessSinceMs(): number | undefined {
    return this.#uselessSinceMs;
  }

  /** Milliseconds that it was at work. */
  get busyMs(): number {
    return this.#busyMs + (this.#engine?.stats.busyMs ?? 0);
  }

  /** Requests that wait for their turn. */
  get waiting(): number {
    return this.#engine?.stats.waiting ?? 0;
  }

  get nextEventMs(): number | undefined {
    return this.hangs ? undefined : this.#engine?.nextEventMs();
  }

  /** Comes up with an empty cache, unless it is up; able to serve at `loadedMs`. */
  start(loadedMs: number): void {
    if (this.#engine !== undefined) return;
    this.#engine = new Engine(this.model.profile);
    this.#engine.slowFactor = this.model.slowFactor * this.#ails.slowFactor;
    this.#loadedMs = loadedMs;
    this.#healthySinceMs = this.#ails === well ? loadedMs : undefined;
    if (!isUseless(this.#ails)) this.#uselessSinceMs = undefined;
  }

  /** Goes down. Returns the requests that it took with it. */
  kill(nowMs: number): number[] {
    this.#busyMs = this.busyMs;
    this.#engine = undefined;
    this.#healthySinceMs = undefined;
    this.#uselessSinceMs ??= nowMs;
    const lost = [...this.inFlight];
    this.inFlight.clear();
    return lost;
  }

  /** From now on this is wrong with it; what is not named is well. */
  ail(ailments: Partial<Ailments>, nowMs: number): void {
    this.#ails = { ...well, ...ailments };
    if (isUseless(this.#ails)) this.#uselessSinceMs ??= nowMs;
    this.#failureOwed = 0;
    this.#healthySinceMs = undefined;
    this.#tune();
  }

  /** Nothing is wrong with it any more. */
  recover(nowMs: number): void {
    this.#ails = well;
    this.#healthySinceMs = this.isDown ? undefined : Math.max(nowMs, this.#loadedMs);
    if (!this.isDown) this.#uselessSinceMs = undefined;
    this.#tune();
  }

  #tune(): void {
    if (this.#engine !== undefined) this.#engine.slowFactor = this.model.slowFactor * this.#ails.slowFactor;
  }

  /** What a probe finds now, which takes a connection and an answer. */
  probe(nowMs: number): ProbeFinding {
    if (this.isDown || !this.#ails.probesPass) return 'failing';
    return nowMs < this.#loadedMs ? 'loading' : 'passing';
  }

  send(id: number, request: WorkloadRequest, nowMs: number): SendOutcome {
    if (this.#engine === undefined) return 'refused-connection';
    if (nowMs < this.#loadedMs || this.#fails()) return 'failed';
    if (!this.hangs) {
      const result = this.#engine.submit(toEngineRequest(id, request, this.model.profile.blockTokens), nowMs);
      if (result !== 'queued') return result;
    }
    this.inFlight.add(id);
    this.requests += 1;
    return 'taken';
  }

  /** Spreads the failures evenly. */
  #fails(): boolean {
    this.#failureOwed += this.#ails.failShare;
    // Sums of tenths fall short of 1 by a rounding error.
    if (this.#failureOwed < 1 - 1e-9) return false;
    this.#failureOwed -= 1;
    return true;
  }

  cancel(id: number, nowMs: number): void {
    // An engine may have been run on to the next event of all, which is later than what its own last event brings about.
    if (!this.hangs) this.#engine?.cancel(id, Math.max(nowMs, this.#advancedMs));
    this.ended(id);
  }

  /** A request is over: complete, or given up. */
  ended(id: number): void {
    this.inFlight.delete(id);
  }

  advanceBefore(nowMs: number): readonly EngineEvent[] {
    this.#advancedMs = nowMs;
    return this.hangs ? [] : (this.#engine?.advanceBefore(nowMs) ?? []);
  }
}

function isUseless({ failShare, cuts, hangs }: Ailments): boolean {
  return failShare >= 1 || cuts || hangs;
}

function toEngineRequest(id: number, { promptTokens, outputTokens, blockHashes, outputBlockHashes }: WorkloadRequest, blockTokens: number): EngineRequest {
  const parts = prefixBlockTokens / blockTokens;
  if (parts === 1) return { id, promptTokens, outputTokens, blockHashes, outputBlockHashes };
  // Engines with smaller blocks find the same prefixes, in more pieces.
  const split = (blocks: readonly number[]): number[] => blocks.flatMap((block) => Array.from({ length: parts }, (_, part) => block * parts + part));
  const all = [...split(blockHashes), ...split(outputBlockHashes)];
  const promptBlocks = Math.floor(promptTokens / blockTokens);
  return { id, promptTokens, outputTokens, blockHashes: all.slice(0, promptBlocks), outputBlockHashes: all.slice(promptBlocks) };
}
