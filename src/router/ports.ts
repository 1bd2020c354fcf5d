import type { DecisionAccount } from '../core/explain.ts';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import type { EndpointChange } from '../fleet/endpoint-change.ts';
import type { LoadEvent } from '../fleet/shared-state.ts';
import type { Routed } from './routed.ts';

export type { LoadEvent };

/** The only source of time: the process's clock in service, a virtual one in the simulator. */
export interface Clock {
  /** Milliseconds, monotonic; only differences mean anything. */
  nowMs(): number;
  /** Milliseconds since the Unix epoch, for schedules; absent: `nowMs` counts from the epoch. */
  wallMs?(): number;
}

/** The only source of chance; seeded in tests and in the simulator. */
export interface Rng {
  /** Even in [0, 1). */
  draw(): number;
}

/** How a request ended, as far as anyone could tell. */
export type Ending =
  /** A complete response. */
  | 'finished'
  /** The client went away. */
  | 'client-abort'
  /** The endpoint could not be reached, reset, or timed out. */
  | 'upstream-failure'
  /** Envoy answered itself, or another filter refused the request. */
  | 'not-proxied'
  /** The ext_proc stream broke before the request was under way. */
  | 'stream-error'
  /** No sign ever came. */
  | 'expired'
  /** None yet: a long answer or an open websocket goes on. Such a report keeps the request counted, and is told to nobody else. */
  | 'open';

/** Which channel reported the end of a request. */
export type CompletionSignal = 'access-log' | 'response-phases' | 'ext-proc' | 'timer';

/** What a completion report says of a request. */
export interface Completion {
  readonly ending: Ending;
  readonly signal: CompletionSignal;
  /** HTTP status sent to the client, where known. */
  readonly status?: number | undefined;
  /** From Envoy's sight of the request to the first response byte from upstream; NOT the first token of a stream. */
  readonly firstByteMs?: number | undefined;
  /** From the request's first byte sent to the endpoint to the answer's last byte received from it. */
  readonly answerMs?: number | undefined;
  /** Bytes of the answer's body. */
  readonly responseBytes?: number | undefined;
  /** Times that an endpoint was tried: more than 1 after a retry. */
  readonly attempts?: number | undefined;
  /** Address that really answered, after retries. */
  readonly servedBy?: string | undefined;
}

/** Another router, or this one, as the exchange knows it. */
export interface RouterStatus {
  readonly id: string;
  /** Since it was last heard, in ms. */
  readonly ageMs: number;
  readonly requestsInFlight: number;
}

/** How the exchange stands. */
export interface ExchangeStatus {
  /** Whether our own words come back: the others can hear us and we them. */
  readonly connected: boolean;
  /** Whether events are pushed as they happen; false: snapshots alone carry the load. */
  readonly pushing: boolean;
  /** Routers, this one included, when last anything was heard. */
  readonly routersLastSeen: number;
  readonly routers: readonly RouterStatus[];
}

/** An endpoint with an exact limit of requests in flight, over all routers. */
export interface CappedEndpoint {
  readonly address: string;
  readonly requestsMax: number;
}

/**
 * Places on capped endpoints, counted exactly over all routers. The one thing that may cost a request a round trip: only requests to
 * pools with `limits.requests` ask.
 */
export interface CapLeases {
  /** Takes a place on the first of the endpoints that has one. `unavailable`: nobody could be asked. Never rejects. */
  acquire(pool: string, lease: string, endpoints: readonly CappedEndpoint[]): Promise<{ readonly taken: string | undefined } | 'unavailable'>;
  /** Gives a place back; returns at once. Idempotent. */
  release(pool: string, address: string, lease: string): void;
  /** This router's part of a limit while nobody can be asked: the limit divided among the routers last seen. */
  shareOf(requestsMax: number): number;
}

/** What goes between routers. The request path only appends to it and never waits for it. */
export interface StateExchange {
  /** What carries it: nothing, since this router is alone; threads of one process; Redis. */
  readonly kind: 'memory' | 'workers' | 'redis';
  /** Tells the other routers; returns at once. */
  publish(event: LoadEvent): void;
  /** Hands a completion report to the router that owns the lease. False: there is no way to it. */
  forward(owner: string, lease: string, completion: Completion): boolean;
  /** Starts exchanging. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Pools came or went: from now on it is for those that the fleet has now. */
  poolsChanged(): void;
  /** Age of what is known of the others, in ms; undefined where nothing is shared. */
  snapshotAgeMs(): number | undefined;
  status(): ExchangeStatus;
  /** What is wrong with what carries it now; undefined: nothing known. */
  trouble(): ExchangeTrouble | undefined;
  /** Exact limits over all routers; undefined where this router is alone and its own counts are exact. */
  readonly caps: CapLeases | undefined;
}

/** What is wrong with what carries the exchange. */
export interface ExchangeTrouble {
  /** Stable code. */
  readonly code: string;
  /** Cause and cure, for people. Holds no password. */
  readonly message: string;
  /** Waiting does not help: the configuration is wrong. */
  readonly permanent: boolean;
}

/** What the exchange tells of itself, for logs and metrics. Returns at once, never throws. */
export interface ExchangeEvents {
  /** What carries the exchange cannot be used as it should; told when the cause changes. */
  exchangeTrouble(trouble: ExchangeTrouble): void;
  /** It can be used again. */
  exchangeRecovered(): void;
  /** A message was not sent, or nobody knows whether it arrived. */
  exchangeDropped(): void;
  /** Pushing was given up for snapshots alone, or taken up again. */
  pushingChanged(pushing: boolean): void;
}

/** What happened, for metrics and logs. Called on the request path: implementations return at once and never throw. */
export interface RouterEvents {
  /** A request was routed. */
  decided(routed: Routed): void;
  /** A request was refused with this stable code. `pool`: the first that it was to go to; undefined: there was none. */
  refused(code: RefusalCode, pool: string | undefined): void;
  firstToken(pool: string, address: string, sinceDispatchMs: number): void;
  released(pool: string, address: string, completion: Completion, durationMs: number): void;
  /** A report named a lease of another router, and could or could not be handed on. */
  foreignReport(owner: string, forwarded: boolean): void;
  /** A report named a lease of ours that is over already or never was. */
  unknownLease(): void;
  /** Requests were sent for a while and no sign of any end has come: load is being guessed. */
  noCompletionSignal(requests: number): void;
  /** The pool's policy reckons with first tokens, and none of so many complete responses gave notice of one. */
  noFirstToken(pool: string, responses: number): void;
  /** An endpoint's state changed, whoever found it out. */
  endpointChanged(change: EndpointChange): void;
  /** An endpoint should be left out for this cause, and stays: as many of its pool are left out as may be. */
  ejectionWithheld(pool: string, address: string, cause: string): void;
}

/**
 * Is told how each final decision came about, and what became of the request: for records, explanations and the shadow policies' scores.
 * Called on the request path, on every decision: implementations return at once and never throw.
 */
export interface DecisionLog {
  /** A request was routed: `routed.account` says how. */
  decided(routed: Routed): void;
  /** A request was refused. */
  refused(code: RefusalCode, account: DecisionAccount): void;
  firstToken(lease: string, sinceDispatchMs: number): void;
  /** The request is over. Told exactly once for each that was routed. */
  ended(lease: string, completion: Completion, durationMs: number): void;
}

/** Stable codes of refusals: part of the API, in error bodies, logs and metrics. */
export type RefusalCode =
  | 'model_required'
  | 'model_not_found'
  | 'route_not_found'
  | 'no_ready_endpoint'
  | 'residency_unavailable'
  | 'subset_unavailable'
  | 'overloaded'
  | 'shed_priority'
  | 'deadline_unreachable'
  | 'prompt_too_long'
  | 'body_not_rewritable'
  | 'rewrite_unsupported'
  | 'internal_error';

/** What a source says of a pool's endpoints. Returns at once, never throws. */
export interface DiscoveryListener {
  /** All endpoints that the source names now: they replace those it named before. */
  found(endpoints: readonly EndpointDefinition[]): void;
  /** The source cannot be read, or what it says cannot be right: what it said last holds. */
  failed(problem: DiscoveryProblem): void;
}

/** Why a source was not followed. */
export interface DiscoveryProblem {
  /** Where: a file, a name. */
  readonly source: string;
  /** Every cause with its path within the source; the path is empty for the source as a whole. */
  readonly causes: readonly { readonly path: string; readonly message: string }[];
}

/** Finds out which endpoints a pool has, again and again. */
export interface Discovery {
  /** Begins. Resolves when the source was asked once, whatever came of it; never rejects. */
  start(): Promise<void>;
  /** Asks the source now, without waiting for a change or a time. */
  refresh(): void;
  /** Ends at once: the listener hears nothing more. Idempotent. */
  stop(): void;
}
