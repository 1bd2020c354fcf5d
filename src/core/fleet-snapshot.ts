import { type Hash64, hashName } from './hash.ts';

/** Where an endpoint stands, and so whether it may be sent requests. */
export type EndpointState =
  /** Known, and not yet shown able to serve: no probe has passed, or its model is still being loaded. */
  | 'joining'
  /** Able to serve since a moment ago: takes a growing part of its share. */
  | 'warming'
  | 'ready'
  /** Up, but much slower than its peers: takes requests only where no other can. */
  | 'slow'
  /** Failed or was slow, and takes a few trial requests now. */
  | 'half-open'
  /** Failed too often: takes nothing until its back-off is over. */
  | 'ejected'
  /** Cannot serve, say the probes or an operator. */
  | 'not-ready'
  /** Leaves: takes no new requests, finishes those it has. */
  | 'draining'
  /** Kept in reserve: joins when its pool is under pressure. */
  | 'standby';

/** Every state, in the order of an endpoint's life. */
export const endpointStates = [
  'joining',
  'warming',
  'ready',
  'slow',
  'half-open',
  'ejected',
  'not-ready',
  'draining',
  'standby',
] as const satisfies readonly EndpointState[];

/** How long responses of one endpoint take, over its last requests; failures are left out, so that failing fast does not look fast. */
export interface LatencySnapshot {
  /** First tokens that this rests on. */
  readonly samples: number;
  /** Time to first token: exponential mean and tail, in ms; undefined: none came, every request failed. */
  readonly ttftMs: { readonly mean: number; readonly p95: number; readonly p99: number } | undefined;
  /** Time per output token after the first, in ms, estimated from response bytes; undefined: no streamed response was seen. */
  readonly tpotMs: { readonly mean: number; readonly p95: number; readonly p99: number } | undefined;
  /** Share of the last requests that failed (5xx, reset, no connection), 0 to 1. */
  readonly failureShare: number;
}

/** What a model server says of itself, scraped from its metrics. Whatever it does not say is undefined. */
export interface EngineMetrics {
  /** Router's clock when it was scraped, in ms. */
  readonly scrapedMs: number;
  readonly requestsRunning: number | undefined;
  readonly requestsQueued: number | undefined;
  /** Share of the KV cache in use, 0 to 1. */
  readonly kvUsage: number | undefined;
  /** Size of the KV cache in tokens. */
  readonly kvTokensMax: number | undefined;
  /** LoRA adapters in memory; undefined: the server does not tell. */
  readonly adapters: ReadonlySet<string> | undefined;
  /** Most adapters that fit into memory. */
  readonly adaptersMax: number | undefined;
}

/** One model server as a decision sees it. Load is the whole fleet's: this router's own plus what the others told. */
export interface EndpointSnapshot {
  /** The endpoint's id: `ip:port`, IPv6 in brackets; of one rank of several `ip:port#rank` (see data-parallel-rank.ts). */
  readonly address: string;
  /** `hashName(address)`. */
  readonly hash: Hash64;
  /** Relative capacity; > 0. */
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: EndpointState;
  /** Trial requests that a half-open endpoint still takes now; 0 in every other state. */
  readonly trialsFree: number;
  /** Router's clock when the endpoint last became ready, in ms; undefined: it was ready from the start. */
  readonly readySinceMs: number | undefined;
  /** Most requests in flight that the configuration allows here; undefined: no limit. */
  readonly requestsMax: number | undefined;
  /** Most tokens of prompt and answer together that its model takes; undefined: not configured. */
  readonly contextTokensMax: number | undefined;
  /** Whether the limit of requests is reached, as far as this router knows. */
  readonly full: boolean;
  /** Requests in flight. */
  readonly requests: number;
  /** Prompt tokens of all requests in flight. */
  readonly promptTokens: number;
  /** Requests in flight that have not given a first token yet. */
  readonly requestsWaiting: number;
  /** Prompt tokens of these, less what was believed to be in the endpoint's cache: the prefill that is still to be done. */
  readonly uncachedTokensWaiting: number;
  /** Uncached tokens of the one of them that was sent first, which is what the endpoint is believed to work on; 0: nothing waits. */
  readonly headTokens: number;
  /** Router's clock when the endpoint last gave a first token or that request became the first in line, whichever is later, in ms. */
  readonly headSinceMs: number;
  /** Undefined: nothing was measured yet. */
  readonly latency: LatencySnapshot | undefined;
  /** Undefined: never scraped. */
  readonly metrics: EngineMetrics | undefined;
}

/** What changes of an endpoint with each request, or is measured. */
type EndpointLoad =
  | 'full'
  | 'requests'
  | 'promptTokens'
  | 'requestsWaiting'
  | 'uncachedTokensWaiting'
  | 'headTokens'
  | 'headSinceMs'
  | 'latency'
  | 'metrics';

/** All else: what an endpoint is and where it stands, which changes seldom beside the requests. */
export type EndpointStanding = Omit<EndpointSnapshot, EndpointLoad>;

/** An endpoint of which nothing is known but its address: ready, idle, never measured. */
export function idleEndpoint(address: string): EndpointSnapshot {
  return {
    address,
    hash: hashName(address),
    weight: 1,
    labels: {},
    state: 'ready',
    trialsFree: 0,
    readySinceMs: undefined,
    requestsMax: undefined,
    contextTokensMax: undefined,
    full: false,
    requests: 0,
    promptTokens: 0,
    requestsWaiting: 0,
    uncachedTokensWaiting: 0,
    headTokens: 0,
    headSinceMs: 0,
    latency: undefined,
    metrics: undefined,
  };
}
