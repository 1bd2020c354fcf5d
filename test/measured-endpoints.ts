import { type EndpointSnapshot, type EngineMetrics, idleEndpoint } from '../src/core/fleet-snapshot.ts';

const nothingTold: EngineMetrics = {
  scrapedMs: 0,
  requestsRunning: undefined,
  requestsQueued: undefined,
  kvUsage: undefined,
  kvTokensMax: undefined,
  adapters: undefined,
  adaptersMax: undefined,
};

/** An idle endpoint whose model server said this of itself. */
export function measured(told: Partial<EngineMetrics>, address = '10.0.0.1:80'): EndpointSnapshot {
  return { ...idleEndpoint(address), metrics: { ...nothingTold, ...told } };
}

/** What a window of latencies holds; times of first tokens are left out where none of the three is given. */
export interface Timed {
  readonly mean?: number;
  readonly p95?: number;
  readonly p99?: number;
  readonly tpotP95?: number;
  readonly failureShare?: number;
  readonly samples?: number;
}

/** An idle endpoint whose last requests took this long. */
export function timed({ mean, p95 = mean, p99 = p95, tpotP95, failureShare = 0, samples = 100 }: Timed, address = '10.0.0.1:80'): EndpointSnapshot {
  const ttftMs = p95 === undefined || p99 === undefined ? undefined : { mean: mean ?? p95, p95, p99 };
  const tpotMs = tpotP95 === undefined ? undefined : { mean: tpotP95, p95: tpotP95, p99: tpotP95 };
  return { ...idleEndpoint(address), latency: { samples: ttftMs === undefined ? 0 : samples, ttftMs, tpotMs, failureShare } };
}
