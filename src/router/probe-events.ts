/** What was read of a model server is stale, and not used any more, after so many of the intervals in which it is read. */
export const metricsStaleIntervals = 5;

/** Why a model server's metrics could not be read, as a stable code. */
export type ScrapeFailure =
  /** No connection, or it broke. */
  | 'unreachable'
  | 'timeout'
  /** Another status than 200. */
  | 'status'
  | 'too-large'
  /** The page tells nothing of requests or KV cache under any name of the kind that is expected. */
  | 'no-metrics';

/** Why a probe of a model server failed, as a stable code. */
export type ProbeFailure =
  /** No connection, or it broke. */
  | 'unreachable'
  | 'timeout'
  /** 503: of a server that has not passed since it started, the model is taken to be loading. */
  | 'unavailable'
  /** Another status than 2xx. */
  | 'status'
  | 'too-large'
  /** Not HTTP, or no list of models where there should be one. */
  | 'malformed'
  /** The server does not list the model. */
  | 'model-missing';

/** Every failure, for whoever counts by it. */
export const probeFailures = ['unreachable', 'timeout', 'unavailable', 'status', 'too-large', 'malformed', 'model-missing'] as const satisfies readonly ProbeFailure[];

/** What happens when model servers are asked how they are, for metrics and logs. Returns at once, never throws. */
export interface ProbeEvents {
  /** A model server's metrics were read; `address` is its `ip:port`. */
  metricsScraped(pool: string, address: string): void;
  /** They could not be. `detail` is for people. */
  scrapeFailed(pool: string, address: string, cause: ScrapeFailure, detail: string): void;
  /** A model server passed a probe, `durationMs` after it began; `address` is its `ip:port`. */
  probePassed(pool: string, address: string, durationMs: number): void;
  /** It did not. `detail` is for people. */
  probeFailed(pool: string, address: string, cause: ProbeFailure, detail: string): void;
}
