/** Why an endpoint was left out. */
export interface Rejection {
  readonly address: string;
  /** Name of the filter. */
  readonly filter: string;
  /** The filter's stable code. */
  readonly reason: string;
}

/** How many endpoints a filter left out for the same reason. */
export interface RejectionCount {
  readonly filter: string;
  readonly reason: string;
  readonly count: number;
}

/** Everything needed to tell afterwards how a decision came about. Its lists may be written out only when they are read. */
export interface DecisionTrace {
  readonly policy: string;
  readonly candidates: readonly string[];
  readonly rejections: readonly Rejection[];
  /** The same counted, for whoever needs no more: to write out thousands costs time. Absent: count them. */
  readonly rejectionCounts?: readonly RejectionCount[];
  /** Endpoints that `candidates` and `rejections` name; absent: count them. */
  readonly endpoints?: number;
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
      /** The first of `addresses`, a few of them or all; absent: `addresses` costs nothing. */
      readonly best?: readonly string[];
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

/** What was left out, counted by filter and reason, in the order in which each came up first. */
export function countRejections(trace: Pick<DecisionTrace, 'rejections' | 'rejectionCounts'>): readonly RejectionCount[] {
  if (trace.rejectionCounts !== undefined) return trace.rejectionCounts;
  const counts = new Map<string, RejectionCount>();
  for (const { filter, reason } of trace.rejections) {
    const name = `${filter}:${reason}`;
    counts.set(name, { filter, reason, count: (counts.get(name)?.count ?? 0) + 1 });
  }
  return [...counts.values()];
}
