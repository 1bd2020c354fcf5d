/** What the probes say of a model server: of every endpoint behind its address, where it has several data-parallel ranks. */
export type ProbeVerdict =
  /** It can serve. */
  | { readonly kind: 'passing' }
  /** It answers, and its model is not loaded yet. `detail` is for people. */
  | { readonly kind: 'loading'; readonly detail: string }
  /** It cannot serve. `detail` is for people. */
  | { readonly kind: 'failing'; readonly detail: string };

/** How the model servers of one pool are probed: `pools[].health.probe`. */
export interface ProbeSettings {
  /** Asked by GET: 2xx passes, every other status fails. */
  readonly path: string;
  /** Undefined: the endpoint's own. */
  readonly port?: number | undefined;
  /** Model that the server must list; undefined: it is not asked for its models. */
  readonly model?: string | undefined;
  /** Where it lists them, in the shape of OpenAI's list of models. Only asked for where `model` is set. */
  readonly modelsPath: string;
  readonly intervalMs: number;
  /** For the whole probe: connections, questions, answers. Undefined: half a second, or the interval if that is less. */
  readonly timeoutMs?: number | undefined;
  /** Failed probes in a row after which a server that passed no longer does. */
  readonly failures: number;
  /** Passed probes in a row after which a server that did not pass does. */
  readonly passes: number;
}

/**
 * Age in ms from which on what was told of a server is stale, and every router probes it, whoever's share it is: three intervals, and no
 * less than three seconds, since routers repeat what has not changed once a second.
 */
export function verdictStaleMs({ intervalMs }: Pick<ProbeSettings, 'intervalMs'>): number {
  return Math.max(3 * intervalMs, 3_000);
}
