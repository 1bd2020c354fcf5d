import type { RequestOutcome } from '../outcomes.ts';
import type { SimulationResult } from '../simulation.ts';

/** Times in ms over all requests that got a first token. */
export interface Distribution {
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

/** What a run comes to, in numbers. */
export interface RunSummary {
  readonly policy: string;
  readonly endpoints: number;
  readonly speed: number;
  readonly routers: number;
  /** Requests that arrived. */
  readonly requests: number;
  /** Share of all served prompt tokens that engines found in their caches. */
  readonly reuse: number;
  readonly ttftMs: Distribution;
  /** Mean time between tokens after the first, in ms; undefined: no answer had two. */
  readonly tpotMs: number | undefined;
  /** Standard deviation over mean of the requests that endpoints got, per weight. */
  readonly loadCv: number;
  /** Requests a second whose first token came within the objective. */
  readonly goodputPerSecond: number;
  /** Share of all requests whose first token came within the objective. */
  readonly withinObjective: number;
  /** Seconds that engines were at work, for a thousand finished requests. */
  readonly busySecondsPerThousand: number;
  /** Share of a session's further turns that went where the turn before went; undefined: there were none. */
  readonly sameEndpoint: number | undefined;
  /** Requests that were refused, failed or were given up, by how they ended. */
  readonly unfinished: ReadonlyMap<string, number>;
  /** Decisions by what tipped them. */
  readonly reasons: ReadonlyMap<string, number>;
  readonly messages: number;
}

export interface SummaryOptions {
  readonly policy: string;
  readonly speed: number;
  readonly routers: number;
  /** Time to first token that a request is to keep, in ms. */
  readonly objectiveMs: number;
}

/** Sums up a run. */
export function summarise({ requests, endpoints, durationMs, messages }: SimulationResult, { policy, speed, routers, objectiveMs }: SummaryOptions): RunSummary {
  const ttfts = Float64Array.from(requests.flatMap(({ ttftMs }) => ttftMs ?? [])).sort();
  let promptTokens = 0;
  let cachedTokens = 0;
  let finished = 0;
  let decodeMs = 0;
  let decoded = 0;
  const reasons = new Map<string, number>();
  const unfinished = new Map<string, number>();
  for (const request of requests) {
    if (request.ttftMs !== undefined) {
      promptTokens += request.promptTokens;
      cachedTokens += request.cachedTokens;
    }
    if (request.reason !== undefined) count(reasons, request.reason);
    if (request.durationMs !== undefined && request.ttftMs !== undefined) {
      decodeMs += request.durationMs - request.ttftMs;
      decoded += request.outputTokens - 1;
    }
    if (request.ending === 'finished') finished += 1;
    else count(unfinished, request.ending ?? 'never ended');
  }
  const within = ttfts.findIndex((ms) => ms > objectiveMs);
  const kept = within === -1 ? ttfts.length : within;
  const busyMs = endpoints.reduce((sum, endpoint) => sum + endpoint.busyMs, 0);
  return {
    policy,
    endpoints: endpoints.length,
    speed,
    routers,
    requests: requests.length,
    reuse: promptTokens === 0 ? 0 : cachedTokens / promptTokens,
    ttftMs: { mean: mean(ttfts), p50: quantile(ttfts, 0.5), p90: quantile(ttfts, 0.9), p99: quantile(ttfts, 0.99) },
    tpotMs: decoded === 0 ? undefined : decodeMs / decoded,
    loadCv: variation(endpoints.map((endpoint) => endpoint.requests / endpoint.weight)),
    goodputPerSecond: durationMs === 0 ? 0 : kept / (durationMs / 1_000),
    withinObjective: requests.length === 0 ? 0 : kept / requests.length,
    busySecondsPerThousand: finished === 0 ? 0 : busyMs / finished,
    sameEndpoint: sameEndpointShare(requests),
    unfinished,
    reasons,
    messages,
  };
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function mean(values: Float64Array | readonly number[]): number {
  let sum = 0;
  for (const value of values) sum += value;
  return values.length === 0 ? 0 : sum / values.length;
}

/** The value that so large a share is at most, of sorted values; linear between neighbours. 0 of nothing. */
export function quantile(sorted: Float64Array | readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? 0;
  const high = sorted[Math.ceil(at)] ?? low;
  return low + (high - low) * (at - Math.floor(at));
}

function variation(values: readonly number[]): number {
  const average = mean(values);
  if (average === 0) return 0;
  return Math.sqrt(mean(values.map((value) => (value - average) ** 2))) / average;
}

function sameEndpointShare(requests: readonly RequestOutcome[]): number | undefined {
  const last = new Map<string, string>();
  let turns = 0;
  let same = 0;
  for (const { session, address } of requests) {
    if (session === undefined || address === undefined) continue;
    const before = last.get(session);
    if (before !== undefined) {
      turns += 1;
      if (before === address) same += 1;
    }
    last.set(session, address);
  }
  return turns === 0 ? undefined : same / turns;
}
