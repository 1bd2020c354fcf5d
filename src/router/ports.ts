import type { Routed } from './routed.ts';

/** The only source of time: the process's clock in service, a virtual one in the simulator. */
export interface Clock {
  /** Milliseconds, monotonic; only differences mean anything. */
  nowMs(): number;
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
  | 'expired';

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
  /** Address that really answered, after retries. */
  readonly servedBy?: string | undefined;
}

/** Load changes other routers should hear of. */
export type LoadEvent =
  | { readonly kind: 'dispatch'; readonly pool: string; readonly address: string; readonly promptTokens: number; readonly affinityId: string | undefined }
  | { readonly kind: 'first-token' | 'done'; readonly pool: string; readonly address: string; readonly promptTokens: number };

/** What goes between routers. The request path only appends to it and never waits for it. */
export interface StateExchange {
  readonly kind: 'memory' | 'redis';
  /** Tells the other routers; returns at once. */
  publish(event: LoadEvent): void;
  /** Hands a completion report to the router that owns the lease. False: there is no way to it. */
  forward(owner: string, lease: string, completion: Completion): boolean;
  /** Starts exchanging. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Age of what is known of the others, in ms; undefined where nothing is shared. */
  snapshotAgeMs(): number | undefined;
}

/** What happened, for metrics and logs. Called on the request path: implementations return at once and never throw. */
export interface RouterEvents {
  /** A request was routed. */
  decided(routed: Routed): void;
  /** A request was refused with this stable code. */
  refused(code: RefusalCode): void;
  firstToken(pool: string, address: string, sinceDispatchMs: number): void;
  released(pool: string, address: string, completion: Completion, durationMs: number): void;
  /** A report named a lease of another router, and could or could not be handed on. */
  foreignReport(owner: string, forwarded: boolean): void;
  /** A report named a lease of ours that is over already or never was. */
  unknownLease(): void;
  /** Requests were sent for a while and no sign of any end has come: load is being guessed. */
  noCompletionSignal(requests: number): void;
}

/** Stable codes of refusals: part of the API, in error bodies, logs and metrics. */
export type RefusalCode = 'model_required' | 'model_not_found' | 'route_not_found' | 'no_ready_endpoint' | 'subset_unavailable' | 'overloaded' | 'internal_error';
