import type { ApiError } from './dialect.ts';
import { defaultSwitches, type Switches } from './switches.ts';

/** Holds the switches of one server and decides, request by request, what they do to it. */
export class FaultInjector {
  #switches: Switches;
  /** Share of a failure owed so far by `failRatio`. */
  #failureOwed = 0;

  constructor(switches: Partial<Switches> = {}) {
    this.#switches = { ...defaultSwitches, ...switches };
  }

  get switches(): Switches {
    return this.#switches;
  }

  change(change: Partial<Switches>): void {
    this.#switches = { ...this.#switches, ...change };
    if (change.failRatio !== undefined) this.#failureOwed = 0;
  }

  /** What becomes of the next request: an error to answer with, `hang`, or nothing out of the ordinary (mode `reset` strikes later). */
  next(): ApiError | 'hang' | undefined {
    const { mode, failRatio, failStatus } = this.#switches;
    if (mode === 'hang') return 'hang';
    if (mode !== 'fail') {
      if (mode === 'ok') this.#failureOwed += failRatio;
      // Sums of tenths fall short of 1 by a rounding error.
      if (this.#failureOwed < 1 - 1e-9) return undefined;
      this.#failureOwed -= 1;
    }
    return { status: failStatus, code: 'simulated_failure', message: 'simulated failure' };
  }

  /** Whether mode `reset` strikes before chunk `index` of `chunks`: no answer gets through whole. */
  cutsBefore(index: number, chunks: number): boolean {
    const { mode, resetAfterChunks } = this.#switches;
    return mode === 'reset' && index >= Math.min(resetAfterChunks, chunks - 1);
  }
}
