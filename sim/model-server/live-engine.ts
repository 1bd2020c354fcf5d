import { Engine, type EngineEvent, type EngineStats, type SubmitResult } from '../engine/engine.ts';
import type { EngineProfile } from '../engine/engine-profiles.ts';
import type { EngineRequest, EngineRequestId } from '../engine/sequence.ts';

/**
 * Drives an engine by the clock on the wall. Engine time starts at 0 and runs `timeScale` times as fast; a timer that fires late
 * delays what a client sees, never the engine's own times.
 */
export class LiveEngine {
  readonly #engine: Engine;
  readonly #timeScale: number;
  readonly #startMs = performance.now();
  readonly #listeners = new Map<EngineRequestId, (event: EngineEvent) => void>();
  #timer: NodeJS.Timeout | undefined = undefined;

  constructor(profile: EngineProfile, timeScale: number) {
    this.#engine = new Engine(profile, { tokenEvents: true });
    this.#timeScale = timeScale;
  }

  /** Milliseconds of engine time. */
  get nowMs(): number {
    return (performance.now() - this.#startMs) * this.#timeScale;
  }

  get stats(): EngineStats {
    return this.#engine.stats;
  }

  set slowFactor(factor: number) {
    this.#engine.slowFactor = factor;
  }

  /** Queues a request; its events go to `listener`, never before this returns, the last of them `done`. */
  submit(request: EngineRequest, listener: (event: EngineEvent) => void): SubmitResult {
    const result = this.#engine.submit(request, this.nowMs);
    if (result === 'queued') this.#listeners.set(request.id, listener);
    this.#schedule();
    return result;
  }

  /** Drops a request if it is in flight; its listener hears nothing more. */
  cancel(id: EngineRequestId): void {
    if (!this.#listeners.delete(id)) return;
    this.#engine.cancel(id, this.nowMs);
    this.#schedule();
  }

  /** Stops for good. */
  close(): void {
    clearTimeout(this.#timer);
    this.#listeners.clear();
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    const nextMs = this.#engine.nextEventMs();
    if (nextMs === undefined) return;
    this.#timer = setTimeout(() => this.#run(), Math.max(1, Math.ceil((nextMs - this.nowMs) / this.#timeScale)));
  }

  #run(): void {
    for (const event of this.#engine.advance(this.nowMs)) {
      // Gone where an earlier listener of this round cancelled it.
      const listener = this.#listeners.get(event.id);
      if (event.kind === 'done') this.#listeners.delete(event.id);
      listener?.(event);
    }
    this.#schedule();
  }
}
