import type { RefusalCode } from '../src/router/ports.ts';

/** How a request ended in the simulation. */
export type RequestEnding = 'finished' | 'client-abort' | 'endpoint-failed' | 'too-long' | `refused: ${RefusalCode}`;

/** What became of one request. */
export interface RequestOutcome {
  /** Since the workload's start, in ms. */
  readonly arrivalMs: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Session of the workload, for who followed whom. */
  readonly session: string | undefined;
  /** Where it was served; undefined: nowhere. */
  address: string | undefined;
  /** Where it was sent first and not taken, or failed at once; undefined: it was taken there. */
  turnedAwayBy: string | undefined;
  /** Stable code for what tipped the decision; undefined: there was none. */
  reason: string | undefined;
  /** From arrival to the first token, in ms; undefined: none came. */
  ttftMs: number | undefined;
  /** From arrival to the last token, in ms; undefined: it did not come. */
  durationMs: number | undefined;
  /** Prompt tokens that its engine found cached. */
  cachedTokens: number;
  /** Times it was sent, retries included. */
  sent: number;
  ending: RequestEnding | undefined;
}

/** Load of all endpoints at one time. */
export interface LoadSample {
  readonly atMs: number;
  /** Requests in flight, in the endpoints' order. */
  readonly inFlight: readonly number[];
}
