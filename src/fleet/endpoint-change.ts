import type { EndpointState } from '../core/fleet-snapshot.ts';

/** Why an endpoint changed its state, as a stable code: part of logs, metrics and the API. */
export type ChangeCause =
  /** Named by the configuration, a file, DNS or an operator. */
  | 'discovered'
  /** No longer named: it drains, and is gone with its last request. */
  | 'removed'
  /** Named again before it was gone. */
  | 'returned'
  | 'probe-passed'
  | 'probe-failed'
  /** It answers, but its model is not loaded. */
  | 'model-loading'
  /** It failed too many requests: 5xx, reset, no connection, timeout. */
  | 'failures'
  /** Its first tokens take much longer than those of its peers. */
  | 'slower-than-peers'
  /** Requests wait there and no first token comes. */
  | 'stalled'
  /** Its back-off is over. */
  | 'back-off-over'
  | 'trials-passed'
  | 'trial-failed'
  /** Its slow start is over. */
  | 'warmed-up'
  /** An operator said so. */
  | 'operator'
  /** The pool's load stayed high, or low, for a while. */
  | 'pressure'
  | 'calm'
  /** Too large a share of the pool would be left out: the worst stay, so that somebody serves. */
  | 'ejection-limit';

/** Every cause, for whoever counts by it. */
export const changeCauses = [
  'discovered',
  'removed',
  'returned',
  'probe-passed',
  'probe-failed',
  'model-loading',
  'failures',
  'slower-than-peers',
  'stalled',
  'back-off-over',
  'trials-passed',
  'trial-failed',
  'warmed-up',
  'operator',
  'pressure',
  'calm',
  'ejection-limit',
] as const satisfies readonly ChangeCause[];

/** One change of one endpoint's state: what is logged, counted, shown and told to the other routers. */
export interface EndpointChange {
  readonly pool: string;
  readonly address: string;
  /** Undefined: it was not known before. */
  readonly from: EndpointState | undefined;
  /** Undefined: it is gone. */
  readonly to: EndpointState | undefined;
  readonly cause: ChangeCause;
  /** For people: status, error, figures. Never holds what a client sent. */
  readonly detail: string | undefined;
  /** Router that found it out; undefined: this one. */
  readonly by: string | undefined;
  /** Router's clock, in ms. */
  readonly atMs: number;
  /** When an ejected or slow endpoint is tried again, on the router's clock in ms; undefined: nothing is waited for. */
  readonly untilMs: number | undefined;
}
