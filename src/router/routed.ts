import type { Decision } from '../core/decision.ts';
import type { DecisionAccount } from '../core/explain.ts';
import type { RoutedPool } from './routing-table.ts';

/** A request on its way: what Envoy has to be told. */
export interface Routed {
  readonly kind: 'route';
  /** Names this request in completion reports: `owner.sequence`. */
  readonly lease: string;
  /** Name of the route. */
  readonly route: string;
  readonly pool: RoutedPool;
  /** The pool stands in for the route's target, which had nobody who could take the request. */
  readonly isFallback: boolean;
  /** Model that the body has to name; undefined: whatever it names. */
  readonly model: string | undefined;
  /** Ids of endpoints, best first: the choice, and what a retry may go to with the same headers. */
  readonly addresses: readonly string[];
  readonly decision: Extract<Decision, { kind: 'route' }>;
  /** How it came about, pools that could not take the request included. */
  readonly account: DecisionAccount;
  /** Prompt length that the request is counted with, in tokens. */
  readonly promptTokens: number;
  /** Of them, those that the endpoint is not believed to have cached. */
  readonly uncachedTokens: number;
  /** Whether the client asked for a stream of tokens; undefined: not known. */
  readonly streams: boolean | undefined;
  /**
   * The endpoint has an exact limit over all routers, and no place on it was taken yet: `Router.secure` has to agree before the answer
   * goes out.
   */
  readonly needsPlace: boolean;
  /** Time it took to decide. */
  readonly decisionMs: number;
  /** What chance and order contributed: a second decision for the same request repeats them. */
  readonly chance: Chance;
}

/** What a decision takes from chance and order. */
export interface Chance {
  readonly draw: number;
  /** This request's number within each pool that it was considered for, one entry a pool: mostly there is one. */
  readonly sequences: { readonly pool: string; readonly sequence: number }[];
}
