/** Why an endpoint was left out. */
export interface Rejection {
  readonly address: string;
  /** Name of the filter. */
  readonly filter: string;
  /** The filter's stable code. */
  readonly reason: string;
}

/** Everything needed to tell afterwards how a decision came about. */
export interface DecisionTrace {
  readonly policy: string;
  readonly candidates: readonly string[];
  readonly rejections: readonly Rejection[];
  /** Each scorer's ratings, in the candidates' order. */
  readonly scores: readonly { readonly scorer: string; readonly weight: number; readonly ratings: readonly number[] }[];
  /** The picker's costs, in the candidates' order, where it weighs costs; lower is better. */
  readonly costs?: readonly number[];
}

/**
 * Why there is no endpoint. `not-ready`: none can serve now. `saturated`: all that could are at their limit. `too-long`: the prompt exceeds the
 * context length of every one. `subset`: the gateway's subset left none.
 */
export type NoneCause = 'not-ready' | 'saturated' | 'too-long' | 'subset';

/** The outcome of deciding within one pool. */
export type Decision =
  | {
      readonly kind: 'route';
      /** Addresses, best first; never empty. The rest are what Envoy should try when the first fails. */
      readonly addresses: readonly string[];
      /** Stable code for what tipped it, such as `affinity-home`. */
      readonly reason: string;
      /** The session's first choice by hash, where the policy has one. */
      readonly home: string | undefined;
      readonly trace: DecisionTrace;
    }
  | {
      readonly kind: 'none';
      readonly cause: NoneCause;
      readonly trace: DecisionTrace;
    };
