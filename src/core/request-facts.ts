/** A fact about a request that a policy or a route may need before it can decide. */
export type FactNeed = 'model' | 'session' | 'promptTokens' | 'prefix' | 'maxTokens' | 'stream';

/** What is known of one request. Everything here came from a client: bounded and checked by the parser, trusted by nobody. */
export interface RequestFacts {
  /** Request path without its query. */
  readonly path: string;
  readonly model: string | undefined;
  /** Session key as the client sent it; never logged, never stored: see `AffinityKey`. */
  readonly session: string | undefined;
  readonly tenant: string | undefined;
  /** Estimated prompt length in tokens. */
  readonly promptTokens: number | undefined;
  /** The client's limit of tokens to generate. */
  readonly maxTokens: number | undefined;
  /** Whether the client asked for a stream of tokens. */
  readonly stream: boolean | undefined;
  /** Chained hashes of the prompt's leading blocks; empty when the body was not read. */
  readonly prefixHashes: readonly number[];
  /** Addresses (`ip:port`) that the gateway allows for this request; undefined: the whole pool. */
  readonly subset: ReadonlySet<string> | undefined;
}

/** Facts of a request of which nothing is known. */
export const noFacts: RequestFacts = {
  path: '',
  model: undefined,
  session: undefined,
  tenant: undefined,
  promptTokens: undefined,
  maxTokens: undefined,
  stream: undefined,
  prefixHashes: [],
  subset: undefined,
};
