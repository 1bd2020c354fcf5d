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

/** What happens when model servers are asked how they are, for metrics and logs. Returns at once, never throws. */
export interface ProbeEvents {
  /** A model server's metrics were read; `address` is its `ip:port`. */
  metricsScraped(pool: string, address: string): void;
  /** They could not be. `detail` is for people. */
  scrapeFailed(pool: string, address: string, cause: ScrapeFailure, detail: string): void;
}
