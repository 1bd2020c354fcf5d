/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import { KeyedFractions } from './keyed-fractions.ts';

/** Lists of candidates of which it is remembered where each stands in the pool. */
const listsRemembered = 4;

/**
 * What decisions read of every endpoint, in columns: one row for each, in the order in which they were given. Thousands of endpoints are read
 * several times faster so than by asking each, since what is read for all lies side by side.
 *
 * Rows change with load: what outlives a decision must not read them later. `weights` are the exception: see there.
 */
export class EndpointColumns {
  readonly endpoints: readonly EndpointSnapshot[];
  /** Never written to once it was read: when a weight changes, another column takes its place. So it may be kept. */
  weights: Float64Array;
  /** By the endpoints' hashes. Addresses never change, and neither do these. */
  readonly fractions: KeyedFractions;
  readonly requests: Float64Array;
  readonly promptTokens: Float64Array;
  readonly requestsWaiting: Float64Array;
  readonly uncachedTokensWaiting: Float64Array;
  readonly headTokens: Float64Array;
  readonly headSinceMs: Float64Array;
  readonly #full: Uint8Array;
  #fullCount = 0;
  /** The latest list that was asked about is at `#latest`. */
  readonly #candidates: (CandidateColumns | undefined)[] = new Array<undefined>(listsRemembered).fill(undefined);
  #latest = 0;

  constructor(endpoints: readonly EndpointSnapshot[]) {
    const { length } = endpoints;
    this.endpoints = endpoints;
    this.weights = new Float64Array(length);
    this.fractions = new KeyedFractions(endpoints);
    this.requests = new Float64Array(length);
    this.promptTokens = new Float64Array(length);
    this.requestsWaiting = new Float64Array(length);
    this.uncachedTokensWaiting = new Float64Array(length);
    this.headTokens = new Float64Array(length);
    this.headSinceMs = new Float64Array(length);
    this.#full = new Uint8Array(length);
    endpoints.forEach(({ weight }, i) => {
      this.weights[i] = weight;
      this.refresh(i);
    });
  }

  /** How many endpoints have reached their limit of requests. */
  get fullCount(): number {
    return this.#fullCount;
  }

  /** Reads one endpoint anew. */
  refresh(i: number): void {
    const endpoint = this.endpoints[i]!;
    if (this.weights[i] !== endpoint.weight) {
      this.weights = this.weights.slice();
      this.weights[i] = endpoint.weight;
    }
    this.requests[i] = endpoint.requests;
    this.promptTokens[i] = endpoint.promptTokens;
    this.requestsWaiting[i] = endpoint.requestsWaiting;
    this.uncachedTokensWaiting[i] = endpoint.uncachedTokensWaiting;
    this.headTokens[i] = endpoint.headTokens;
    this.headSinceMs[i] = endpoint.headSinceMs;
    const full = endpoint.full ? 1 : 0;
    this.#fullCount += full - this.#full[i]!;
    this.#full[i] = full;
  }

  /** The rows of some of the endpoints, which come in the same order; undefined: not all of them are among them. */
  of(candidates: readonly EndpointSnapshot[]): CandidateColumns | undefined {
    const lists = this.#candidates;
    for (let back = 0; back < listsRemembered; back += 1) {
      const known = lists[(this.#latest - back) & (listsRemembered - 1)];
      if (known?.candidates === candidates) return known;
    }
    const at = placesOf(candidates, this.endpoints);
    if (at === undefined) return undefined;
    this.#latest = (this.#latest + 1) & (listsRemembered - 1);
    return (lists[this.#latest] = { candidates, at, columns: this });
  }
}

/** Candidates, and where each stands in the columns. */
export interface CandidateColumns {
  readonly candidates: readonly EndpointSnapshot[];
  /** The row of each candidate, in their order. */
  readonly at: Int32Array;
  readonly columns: EndpointColumns;
}

/** The columns in which the candidates' rows are: the pool's, or, where it has none, some made for the occasion. */
export function columnsOf(candidates: readonly EndpointSnapshot[], { columns }: { readonly columns?: EndpointColumns }): CandidateColumns {
  return columns?.of(candidates) ?? toColumns(candidates);
}

function toColumns(candidates: readonly EndpointSnapshot[]): CandidateColumns {
  return { candidates, at: Int32Array.from(candidates, (_, i) => i), columns: new EndpointColumns(candidates) };
}

/** The index of each candidate among the endpoints, which come in the same order; undefined: not all of them are among them. */
export function placesOf(candidates: readonly EndpointSnapshot[], endpoints: readonly EndpointSnapshot[]): Int32Array | undefined {
  const places = new Int32Array(candidates.length);
  let at = 0;
  for (let i = 0; i < candidates.length; i += 1) {
    while (at < endpoints.length && endpoints[at] !== candidates[i]) at += 1;
    if (at === endpoints.length) return undefined;
    places[i] = at;
    at += 1;
  }
  return places;
}
