import { LRUCache } from 'lru-cache';
import { prefixBlockTokens } from '../core/request-facts.ts';
import { BlockLru } from './block-lru.ts';

/** What of a request decides what a cache may hold of it. */
export interface CachedPrompt {
  /** The session's keyed hash; undefined: it has none. */
  readonly keyId: string | undefined;
  readonly promptTokens: number;
  /** Chained hashes of its leading blocks; empty where the body was not read. */
  readonly prefixHashes: readonly number[];
}

/** A session's prompt at one endpoint, and how often the endpoint had been emptied by then. */
interface Visit {
  readonly address: string;
  readonly tokens: number;
  readonly generation: number;
}

/** Where a session was last, and how long its prompt was then. */
interface Session {
  /** Latest first. */
  visits: readonly Visit[];
  /** The first block that tells the session's prompt from what most endpoints hold anyway, and its place in the prompt. */
  distinct: { readonly block: number; readonly index: number } | undefined;
}

/** Sessions remembered in a pool, and endpoints remembered for each. */
const sessionsMax = 100_000;
const visitsMax = 3;
/**
 * Blocks remembered for an endpoint whose cache size is not known: 8 192 of 512 tokens are 4 M tokens. Too few cost much; too many, a
 * hundredth or two (docs/routing-quality.md).
 */
export const blocksPerEndpointDefault = 8_192;
/** And of all endpoints of a pool together. */
const blocksMax = 2_000_000;

/**
 * What the endpoints of one pool are believed to hold in their prefix caches, from what was sent to them by all routers: an LRU of block
 * hashes for each; and for requests whose body was not read, where their session was last.
 */
export class CacheView {
  /** Of one endpoint, for the memory's sake. */
  readonly #blocksMax: number;
  readonly #kvTokensOf: (address: string) => number | undefined;
  readonly #endpoints = new Map<string, BlockLru>();
  /** Made when the first session comes: it takes its memory, some MB, at once, and many pools have policies that never ask. */
  #sessions: LRUCache<string, Session> | undefined;
  /** How often endpoints were emptied: visits from before are void. */
  readonly #generations = new Map<string, number>();

  /** `endpoints`: how many share the memory. `kvTokensOf`: size of an endpoint's KV cache in tokens, as far as it is known. */
  constructor(endpoints: number, kvTokensOf: (address: string) => number | undefined = () => undefined) {
    this.#blocksMax = Math.max(256, Math.floor(blocksMax / Math.max(1, endpoints)));
    this.#kvTokensOf = kvTokensOf;
  }

  /** A prompt was sent to an endpoint: its cache holds it from now on. */
  note(address: string, { keyId, promptTokens, prefixHashes }: CachedPrompt): void {
    const session = keyId === undefined ? undefined : this.#sessions?.get(keyId);
    const distinct = prefixHashes.length > 0 ? this.#distinct(session, prefixHashes) : session?.distinct;
    const held = this.#held(address);
    if (prefixHashes.length > 0) held.touchAll(prefixHashes);
    else if (distinct !== undefined) held.touch(distinct.block);
    if (keyId === undefined) return;
    const others = session?.visits.filter((visit) => visit.address !== address) ?? [];
    const visit = { address, tokens: promptTokens, generation: this.#generationOf(address) };
    this.#sessions ??= new LRUCache({ max: sessionsMax });
    this.#sessions.set(keyId, { visits: [visit, ...others].slice(0, visitsMax), distinct });
  }

  /** Tokens of a prompt that endpoints are believed to hold, by address; of every prompt at least one token is left to compute. */
  cachedTokens({ keyId, promptTokens, prefixHashes }: CachedPrompt): ReadonlyMap<string, number> {
    const cached = new Map<string, number>();
    const tokensMax = promptTokens - 1;
    if (tokensMax <= 0) return cached;
    const note = (address: string, tokens: number): void => {
      if (tokens > (cached.get(address) ?? 0)) cached.set(address, Math.min(tokens, tokensMax));
    };
    if (prefixHashes.length > 0) {
      for (const [address, held] of this.#endpoints) note(address, held.countLeading(prefixHashes) * prefixBlockTokens);
      return cached;
    }
    const session = keyId === undefined ? undefined : this.#sessions?.get(keyId);
    if (session === undefined) return cached;
    for (const { address, tokens, generation } of session.visits) if (generation === this.#generationOf(address)) note(address, tokens);
    const { distinct } = session;
    if (distinct !== undefined) {
      for (const [address, held] of this.#endpoints) if (held.has(distinct.block)) note(address, (distinct.index + 1) * prefixBlockTokens);
    }
    return cached;
  }

  /** Whether a session's body was seen once: reading it again would add little. */
  knows(keyId: string): boolean {
    return this.#sessions?.peek(keyId)?.distinct !== undefined;
  }

  /** An endpoint starts with an empty cache. */
  forget(address: string): void {
    this.#endpoints.delete(address);
    this.#generations.set(address, this.#generationOf(address) + 1);
  }

  #generationOf(address: string): number {
    return this.#generations.get(address) ?? 0;
  }

  #held(address: string): BlockLru {
    const kvTokens = this.#kvTokensOf(address);
    const wanted = kvTokens === undefined ? blocksPerEndpointDefault : Math.max(1, Math.floor(kvTokens / prefixBlockTokens));
    const bound = Math.min(wanted, this.#blocksMax);
    let held = this.#endpoints.get(address);
    if (held?.blocksMax === bound) return held;
    held = held?.resized(bound) ?? new BlockLru(bound);
    this.#endpoints.set(address, held);
    return held;
  }

  #distinct(session: Session | undefined, blocks: readonly number[]): Session['distinct'] {
    const known = session?.distinct;
    if (known !== undefined && blocks[known.index] === known.block) return known;
    for (const [index, block] of blocks.entries()) {
      let holders = 0;
      for (const held of this.#endpoints.values()) if (held.has(block)) holders += 1;
      if (holders <= this.#endpoints.size / 2) return { block, index };
    }
    const index = blocks.length - 1;
    const block = blocks[index];
    return block === undefined ? undefined : { block, index };
  }
}
