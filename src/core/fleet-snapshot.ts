import type { Hash64 } from './hash.ts';

/** Whether an endpoint may be sent requests, and why not. */
export type EndpointState = 'ready' | 'not-ready' | 'ejected' | 'draining';

/** One model server as a decision sees it. Load is the whole fleet's: this router's own plus what the others told. */
export interface EndpointSnapshot {
  /** `ip:port`, IPv6 in brackets; also the endpoint's id. */
  readonly address: string;
  /** `hashName(address)`. */
  readonly hash: Hash64;
  /** Relative capacity; > 0. */
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: EndpointState;
  /** Most requests in flight that the configuration allows here; undefined: no limit. */
  readonly requestsMax: number | undefined;
  /** Whether that limit is reached, as far as this router knows. */
  readonly full: boolean;
  /** Requests in flight. */
  readonly requests: number;
  /** Prompt tokens of all requests in flight. */
  readonly promptTokens: number;
  /** Prompt tokens of requests in flight that have not given a first token yet. */
  readonly promptTokensWaiting: number;
}

/** One pool as a decision sees it; not changed while the decision runs. */
export interface PoolSnapshot {
  readonly name: string;
  /** Sorted by address, so that equal fleets give equal decisions whatever order they were configured in. */
  readonly endpoints: readonly EndpointSnapshot[];
}
