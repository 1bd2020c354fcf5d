import { z } from 'zod';

/**
 * How a simulated server behaves at the moment:
 * `ok` answers; `fail` answers every request with `failStatus`; `hang` accepts and never answers; `reset` breaks the connection after
 * `resetAfterChunks` chunks of a stream, or in the middle of a plain body; `refuse` closes the port.
 */
export type Mode = 'ok' | 'fail' | 'hang' | 'reset' | 'refuse';

/** The faults a simulated server can be told to show, at the start or while it runs. They concern the model API, /echo and /headers. */
export interface Switches {
  readonly mode: Mode;
  /** Status of mode `fail` and of `failRatio`. */
  readonly failStatus: number;
  /** Share of the requests that fail in mode `ok`, spread evenly: 0.25 fails every fourth. */
  readonly failRatio: number;
  /** How many times slower than its profile the engine runs. */
  readonly slowFactor: number;
  /** What /health and /health/ready say of a loaded server, whatever the truth: true with mode `fail` is one that fails and calls itself well. */
  readonly healthOk: boolean;
  /** Whether /health, /health/ready and /v1/models accept and never answer: with mode `hang`, a process that stands still as a whole. */
  readonly healthHangs: boolean;
  /** Chunks of a stream that get through in mode `reset`; an answer of fewer is cut before its last. */
  readonly resetAfterChunks: number;
}

/** A restart: every connection breaks, the cache is lost, and the model has to be loaded again. Milliseconds of the clock. */
export interface Restart {
  /** How long the port stays closed. */
  readonly downMs: number;
  /** How long it then loads: health pages answer 503, no model is listed, requests get 503. */
  readonly loadMs: number;
}

export const defaultSwitches: Switches = {
  mode: 'ok',
  failStatus: 503,
  failRatio: 0,
  slowFactor: 1,
  healthOk: true,
  healthHangs: false,
  resetAfterChunks: 3,
};

const durationMs = z.int().min(0).max(600_000);

const switchesSchema = z.strictObject({
  mode: z.enum(['ok', 'fail', 'hang', 'reset', 'refuse']).optional(),
  failStatus: z.int().min(400).max(599).optional(),
  failRatio: z.number().min(0).max(1).optional(),
  slowFactor: z.number().positive().max(10_000).optional(),
  healthOk: z.boolean().optional(),
  healthHangs: z.boolean().optional(),
  resetAfterChunks: z.int().min(0).optional(),
});

const controlSchema = switchesSchema.extend({ restart: z.strictObject({ downMs: durationMs.default(0), loadMs: durationMs.default(0) }).optional() });

export type SwitchesResult =
  | { readonly ok: true; readonly change: Partial<Switches>; readonly restart: Restart | undefined }
  | { readonly ok: false; readonly problems: readonly string[] };

/** Reads a change of some switches, and an order to restart; all problems at once. */
export function parseSwitches(input: unknown): SwitchesResult {
  const result = controlSchema.safeParse(input);
  if (!result.success) {
    const problems = result.error.issues.map(({ path, message }) => (path.length === 0 ? message : `${path.join('.')}: ${message}`));
    return { ok: false, problems };
  }
  const { restart, ...change } = result.data;
  // The schema types an absent key as `T | undefined`; a key that is there has a value.
  return { ok: true, change: change as Partial<Switches>, restart };
}
