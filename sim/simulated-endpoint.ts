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

/** What became of a request that was sent to an endpoint. */
export type SendOutcome = 'taken' | 'refused-connection' | 'queue-full' | 'too-long';

/** A simulated engine that can slow down, die with all that it holds, and come back empty. */
export class SimulatedEndpoint {
  readonly model: EndpointModel;
  /** What was sent and has not ended, by request. */
  readonly inFlight = new Set<number>();
  #engine: Engine | undefined;
  #slowFactor = 1;
  /** Totals of engines that died. */
  #busyMs = 0;
  requests = 0;

  constructor(model: EndpointModel) {
    this.model = model;
    if (prefixBlockTokens % model.profile.blockTokens !== 0) throw new Error(`${model.profile.name}: blocks of ${model.profile.blockTokens} tokens do not fit into ${prefixBlockTokens}`);
    this.start();
  }

  get isDown(): boolean {
    return this.#engine === undefined;
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
    return this.#engine?.nextEventMs();
  }

  start(): void {
    this.#engine ??= new Engine(this.model.profile);
    this.#engine.slowFactor = this.model.slowFactor * this.#slowFactor;
  }

  /** Goes down. Returns the requests that it took with it. */
  kill(): number[] {
    this.#busyMs = this.busyMs;
    this.#engine = undefined;
    const lost = [...this.inFlight];
    this.inFlight.clear();
    return lost;
  }

  /** Runs so many times slower than it should, until told otherwise. */
  slowDown(factor: number): void {
    this.#slowFactor = factor;
    if (this.#engine !== undefined) this.#engine.slowFactor = this.model.slowFactor * factor;
  }

  send(id: number, request: WorkloadRequest, nowMs: number): SendOutcome {
    if (this.#engine === undefined) return 'refused-connection';
    const result = this.#engine.submit(toEngineRequest(id, request, this.model.profile.blockTokens), nowMs);
    if (result !== 'queued') return result;
    this.inFlight.add(id);
    this.requests += 1;
    return 'taken';
  }

  cancel(id: number, nowMs: number): void {
    this.#engine?.cancel(id, nowMs);
    this.ended(id);
  }

  /** A request is over: complete, or given up. */
  ended(id: number): void {
    this.inFlight.delete(id);
  }

  advanceBefore(nowMs: number): readonly EngineEvent[] {
    return this.#engine?.advanceBefore(nowMs) ?? [];
  }
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
