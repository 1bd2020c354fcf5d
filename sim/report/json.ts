import type { RunSummary } from './summary.ts';

/** One run as one line of JSON. The fields are a contract: scripts read them. */
export function toJsonLine({ policy, endpoints, speed, routers, requests, reuse, ttftMs, loadCv }: RunSummary): string {
  const { mean, p50, p90, p99 } = ttftMs;
  return JSON.stringify({
    policy,
    endpoints,
    speed,
    routers,
    requests,
    reuse: round(reuse, 4),
    ttftMs: { mean: round(mean, 2), p50: round(p50, 2), p90: round(p90, 2), p99: round(p99, 2) },
    loadCv: round(loadCv, 4),
  });
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
