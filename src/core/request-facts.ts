/** A fact about a request that a policy or a route may need before it can decide. */
export type FactNeed =
  | 'model'
  | 'session'
  | 'tenant'
  | 'promptTokens'
  /** The prompt's length as the body shows it, where no length is declared that could stand for it. */
  | 'measuredPrompt'
  | 'prefix'
  | 'maxTokens'
  | 'stream';

/** Prompt blocks that prefixes are compared by, in tokens: as the public traces cut them, and a multiple of what servers cut. */
export const prefixBlockTokens = 512;

/** What is known of one request. Everything here came from a client: bounded and checked by the parser, trusted by nobody. */
export interface RequestFacts {
  /** Request path without its query. */
  readonly path: string;
  readonly model: string | undefined;
  /** Session key as the client sent it; never logged, never leaves the process: see `AffinityKey`. */
  readonly session: string | undefined;
  readonly tenant: string | undefined;
  /** Estimated prompt length in tokens. */
  readonly promptTokens: number | undefined;
  /** The client's limit of tokens to generate. */
  readonly maxTokens: number | undefined;
  /** Whether the client asked for a stream of tokens. */
  readonly stream: boolean | undefined;
  /** Chained hashes of the prompt's leading blocks of `prefixBlockTokens`; empty when the body was not read. */
  readonly prefixHashes: readonly number[];
  /** Addresses (`ip:port`) that the gateway allows for this request; undefined: the whole pool. */
  readonly subset: ReadonlySet<string> | undefined;
  /** First values of those headers that routes or filters name, by name in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  /** 0 is normal; each step up is twice as hard to turn away, each step down half. From a source that the operator trusts. */
  readonly priority: number;
  /** Time that is left until the client wants its first token, in ms, from the moment of the decision; undefined: it does not say. */
  readonly deadlineMs: number | undefined;
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
  headers: new Map(),
  priority: 0,
  deadlineMs: undefined,
};
