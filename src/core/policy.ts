import type { CachedTokens } from './cached-tokens.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import type { AffinityKey } from './hash.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';
import type { FactNeed, RequestFacts } from './request-facts.ts';

/** All that a decision depends on. Equal inputs give equal decisions: time, chance and order of arrival come in here. */
export interface DecisionInput {
  readonly facts: RequestFacts;
  readonly pool: PoolSnapshot;
  /** Keyed hash of tenant and session; undefined where the request has no session. */
  readonly affinityKey: AffinityKey | undefined;
  /** Address where this session was last sent when that was not its home; undefined otherwise. */
  readonly placedOn: string | undefined;
  /** Prompt length to reckon with, in tokens: the request's own, else the pool's running mean. */
  readonly promptTokens: number;
  /** Tokens of this prompt that an endpoint's cache is believed to hold, by address; an endpoint left out holds none. */
  readonly cachedTokens: CachedTokens;
  /** Routers that send to this pool at the same time, this one included; absent: this one alone. */
  readonly routers?: number;
  /** Uncached prompt tokens that the other routers are believed to send to this pool at this moment, unheard of yet; absent: none. */
  readonly unheardTokens?: number;
  /** Milliseconds of the router's clock. */
  readonly nowMs: number;
  /** Random, even in [0, 1): breaks ties. */
  readonly draw: number;
  /** How many requests this router sent to this pool before this one. */
  readonly sequence: number;
}

/**
 * Says why an endpoint may not take the request, as a stable code; undefined: it may. What a filter promises beside spares asking it about
 * thousands of endpoints for each request; a promise that is not made costs time and nothing else.
 */
export interface Filter {
  (endpoint: EndpointSnapshot, input: DecisionInput): string | undefined;
  /** It says the same for every request as long as the endpoint's standing is the same: see `PoolSnapshot.version`. */
  readonly standing?: boolean;
  /** Whether it surely has nothing against any endpoint of the pool for this request. */
  readonly passesAll?: (input: DecisionInput) => boolean;
}

/** Rates every candidate from 0 to 1, higher is better, in the candidates' order. What is unknown rates 0.5. */
export type Scorer = (candidates: readonly EndpointSnapshot[], input: DecisionInput) => readonly number[];

/** How many of the best a picker finds without putting all candidates in order: as many as Envoy is told unless configured otherwise. */
export const bestMax = 8;

/** Candidates in the order in which they should be tried, and a stable code for what tipped it. */
export interface Preference {
  /** All candidates. May be worked out only when it is read; it is that of the moment of the decision all the same. */
  readonly order: readonly EndpointSnapshot[];
  /** The first of `order`, `bestMax` of them or all; absent: `order` costs nothing. */
  readonly best?: readonly EndpointSnapshot[];
  readonly reason: string;
  /** The affinity key's first choice, where the picker has one. */
  readonly home: string | undefined;
  /** What each candidate was reckoned to cost, in the candidates' order, where the picker weighs costs; lower is better. */
  readonly costs?: readonly number[];
}

/**
 * Orders the candidates. `scores` are the weighted sums of all scorers, in the candidates' order; candidates are never empty, and come in the
 * order of the pool's endpoints.
 */
export type Picker = (candidates: readonly EndpointSnapshot[], scores: readonly number[], input: DecisionInput) => Preference;

/** A strategy in its place in a policy, under the name that traces and metrics show. */
export interface Step<S> {
  readonly name: string;
  readonly run: S;
}

/** How a pool chooses: filters, then weighted scorers, then one picker. */
export interface Policy {
  readonly name: string;
  /** A `soft` filter is a preference: where it would leave no candidate, it is ignored. Hard ones are applied first. */
  readonly filters: readonly (Step<Filter> & { readonly soft?: boolean })[];
  readonly scorers: readonly (Step<Scorer> & { readonly weight: number })[];
  readonly picker: Step<Picker>;
  /** Facts without which this policy would choose worse. */
  readonly needs: ReadonlySet<FactNeed>;
  /** Request headers that filters look at, in lower case; undefined: none. */
  readonly headers?: ReadonlySet<string> | undefined;
  /** Whether it reckons with prompts that wait, and so wants to hear of each response's first token. */
  readonly wantsFirstToken: boolean;
}
