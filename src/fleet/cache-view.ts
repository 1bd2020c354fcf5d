/* eslint-disable @typescript-eslint/no-non-null-assertion -- slots are kept in bounds; a check for undefined per endpoint would cost time */
import { LRUCache } from 'lru-cache';
import { placeOfAddress } from '../core/address-order.ts';
import type { CachedTokens } from '../core/cached-tokens.ts';
import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import { prefixBlockTokens } from '../core/request-facts.ts';
import { BlockHolders } from './block-holders.ts';
import { BlockLru } from './block-lru.ts';

/** What of a request decides what a cache may hold of it. */
export interface CachedPrompt {
  /** The session's keyed hash; undefined: it has none. */
  readonly keyId: string | undefined;
  readonly promptTokens: number;
  /** Chained hashes of its leading blocks; empty where the body was not read. */
  readonly prefixHashes: readonly number[];
}

/** A session's prompt at one endpoint, and which of the endpoint's caches it was sent to. */
interface Visit {
  readonly address: string;
  tokens: number;
  generation: number;
}

/** An endpoint's blocks, and the number by which the pool's `BlockHolders` knows it. */
interface Holder {
  readonly slot: number;
  /** Another one after the endpoint was emptied: visits from before are void. */
  readonly generation: number;
  blocks: BlockLru;
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
/** And of all endpoints of a pool together, as far as their number stays the same. */
const blocksMax = 2_000_000;
/**
 * How many times the bound of an endpoint may be off before what it holds is written anew, on the request path: that takes milliseconds, and
 * with each endpoint that comes or goes the bounds of all of them change.
 */
const boundErrorMax = 1.25;

/**
 * What the endpoints of one pool are believed to hold in their prefix caches, from what was sent to them by all routers: an LRU of block
 * hashes for each; and for requests whose body was not read, where their session was last.
 */
export class CacheView {
  /** Of one endpoint, for the memory's sake. */
  #blocksMax: number;
  readonly #kvTokensOf: (address: string) => number | undefined;
  readonly #endpoints = new Map<string, Holder>();
  readonly #holders = new BlockHolders();
  /** Slots that were given back. */
  readonly #freeSlots: number[] = [];
  /** Slots given so far, those given back included. */
  #slots = 0;
  /** Made anew for each prompt, this would be garbage of a size for thousands of endpoints. */
  #bySlot = new Float64Array(0);
  /** For the endpoints last asked about, the slot of each in their order, -1 for none; undefined: to be made again. */
  #slotsInOrder: { readonly endpoints: readonly EndpointSnapshot[]; readonly slots: Int32Array } | undefined;
  /** Made when the first session comes: it takes its memory, some MB, at once, and many pools have policies that never ask. */
  #sessions: LRUCache<string, Session> | undefined;
  /** Holders made so far. */
  #generations = 0;

  /** `endpoints`: how many share the memory. `kvTokensOf`: size of an endpoint's KV cache in tokens, as far as it is known. */
  constructor(endpoints: number, kvTokensOf: (address: string) => number | undefined = () => undefined) {
    this.#blocksMax = shareOfBlocks(endpoints);
    this.#kvTokensOf = kvTokensOf;
  }

  /** From now on so many endpoints share the memory. Where that makes much of a difference, what one holds is cut down, or may grow, when it is next sent a prompt. */
  shareAmong(endpoints: number): void {
    this.#blocksMax = shareOfBlocks(endpoints);
  }

  /** A prompt was sent to an endpoint: its cache holds it from now on. */
  note(address: string, { keyId, promptTokens, prefixHashes }: CachedPrompt): void {
    const session = keyId === undefined ? undefined : this.#sessions?.get(keyId);
    const distinct = prefixHashes.length > 0 ? this.#distinct(session, prefixHashes) : session?.distinct;
    const { blocks, generation } = this.#holder(address);
    if (prefixHashes.length > 0) blocks.touchAll(prefixHashes);
    else if (distinct !== undefined) blocks.touch(distinct.block);
    if (keyId === undefined) return;
    if (session === undefined) {
      this.#sessions ??= new LRUCache({ max: sessionsMax });
      this.#sessions.set(keyId, { visits: [{ address, tokens: promptTokens, generation }], distinct });
      return;
    }
    session.distinct = distinct;
    const [latest] = session.visits;
    if (latest?.address === address) {
      // It is where it was, as nearly always: nothing is made anew, which would be old before it goes.
      latest.tokens = promptTokens;
      latest.generation = generation;
      return;
    }
    const others = session.visits.filter((visit) => visit.address !== address);
    session.visits = [{ address, tokens: promptTokens, generation }, ...others].slice(0, visitsMax);
  }

  /** Tokens of a prompt that endpoints are believed to hold, by address; of every prompt at least one token is left to compute. */
  cachedTokens(prompt: CachedPrompt): ReadonlyMap<string, number> {
    const tokens = this.#tokensBySlot(prompt);
    const cached = new Map<string, number>();
    if (tokens === undefined) return cached;
    for (const [address, { slot }] of this.#endpoints) {
      const held = tokens[slot] ?? 0;
      if (held > 0) cached.set(address, held);
    }
    return cached;
  }

  /** The same for the endpoints of a pool, in a column. */
  lookUp(prompt: CachedPrompt, endpoints: readonly EndpointSnapshot[]): CachedTokens {
    const bySlot = this.#tokensBySlot(prompt);
    if (bySlot === undefined) return nothingCached;
    const slots = this.#slotsOf(endpoints);
    const tokens = new Float64Array(endpoints.length);
    for (let i = 0; i < slots.length; i += 1) {
      const slot = slots[i]!;
      if (slot !== -1) tokens[i] = bySlot[slot]!;
    }
    return new CachedColumn(endpoints, tokens);
  }

  /** Undefined: nobody holds anything. Valid until the next prompt is asked about: to be read at once. */
  #tokensBySlot({ keyId, promptTokens, prefixHashes }: CachedPrompt): Float64Array | undefined {
    const tokensMax = promptTokens - 1;
    if (tokensMax <= 0) return undefined;
    if (prefixHashes.length > 0) {
      if (this.#holders.count(prefixHashes[0] ?? NaN) === 0) return undefined;
      const tokens = this.#emptyColumn();
      this.#holders.countLeading(prefixHashes, tokens, this.#endpoints.size);
      for (let slot = 0; slot < this.#slots; slot += 1) tokens[slot] = Math.min(tokens[slot]! * prefixBlockTokens, tokensMax);
      return tokens;
    }
    const session = keyId === undefined ? undefined : this.#sessions?.get(keyId);
    if (session === undefined) return undefined;
    const tokens = this.#emptyColumn();
    const note = (slot: number, held: number): void => {
      tokens[slot] = Math.max(tokens[slot] ?? 0, Math.min(held, tokensMax));
    };
    for (const { address, tokens: held, generation } of session.visits) {
      const holder = this.#endpoints.get(address);
      if (holder?.generation === generation) note(holder.slot, held);
    }
    const { distinct } = session;
    if (distinct !== undefined) this.#holders.forEach(distinct.block, (slot) => note(slot, (distinct.index + 1) * prefixBlockTokens));
    return tokens;
  }

  /** By slot, with a 0 for each. */
  #emptyColumn(): Float64Array {
    if (this.#bySlot.length < this.#slots) this.#bySlot = new Float64Array(2 * this.#slots);
    else this.#bySlot.fill(0, 0, this.#slots);
    return this.#bySlot;
  }

  #slotsOf(endpoints: readonly EndpointSnapshot[]): Int32Array {
    if (this.#slotsInOrder?.endpoints !== endpoints) {
      this.#slotsInOrder = { endpoints, slots: Int32Array.from(endpoints, ({ address }) => this.#endpoints.get(address)?.slot ?? -1) };
    }
    return this.#slotsInOrder.slots;
  }

  /** Whether a session's body was seen once: reading it again would add little. */
  knows(keyId: string): boolean {
    return this.#sessions?.peek(keyId)?.distinct !== undefined;
  }

  /** An endpoint starts with an empty cache. */
  forget(address: string): void {
    const holder = this.#endpoints.get(address);
    if (holder === undefined) return;
    holder.blocks.drop();
    this.#endpoints.delete(address);
    this.#freeSlots.push(holder.slot);
    this.#slotsInOrder = undefined;
  }

  #holder(address: string): Holder {
    const kvTokens = this.#kvTokensOf(address);
    const wanted = kvTokens === undefined ? blocksPerEndpointDefault : Math.max(1, Math.floor(kvTokens / prefixBlockTokens));
    const bound = Math.min(wanted, this.#blocksMax);
    const known = this.#endpoints.get(address);
    if (known !== undefined) {
      const { blocksMax: now } = known.blocks;
      if (Math.max(now, bound) > boundErrorMax * Math.min(now, bound)) known.blocks = known.blocks.resized(bound);
      return known;
    }
    const slot = this.#freeSlots.pop() ?? this.#slots;
    this.#slots = Math.max(this.#slots, slot + 1);
    const blocks = new BlockLru(bound, {
      added: (block) => this.#holders.add(block, slot),
      removed: (block) => this.#holders.remove(block, slot),
    });
    this.#generations += 1;
    const holder = { slot, generation: this.#generations, blocks };
    this.#endpoints.set(address, holder);
    this.#slotsInOrder = undefined;
    return holder;
  }

  #distinct(session: Session | undefined, blocks: readonly number[]): Session['distinct'] {
    const known = session?.distinct;
    if (known !== undefined && blocks[known.index] === known.block) return known;
    for (const [index, block] of blocks.entries()) {
      if (this.#holders.count(block) <= this.#endpoints.size / 2) return { block, index };
    }
    const index = blocks.length - 1;
    const block = blocks[index];
    return block === undefined ? undefined : { block, index };
  }
}

function shareOfBlocks(endpoints: number): number {
  return Math.max(256, Math.floor(blocksMax / Math.max(1, endpoints)));
}

const nothingCached: CachedTokens = new Map<string, number>();

/** What the endpoints of a pool hold of one prompt. */
class CachedColumn implements CachedTokens {
  readonly column: { readonly endpoints: readonly EndpointSnapshot[]; readonly tokens: Float64Array };

  constructor(endpoints: readonly EndpointSnapshot[], tokens: Float64Array) {
    this.column = { endpoints, tokens };
  }

  get(address: string): number | undefined {
    const { endpoints, tokens } = this.column;
    const held = tokens[placeOfAddress(endpoints, address)] ?? 0;
    return held > 0 ? held : undefined;
  }
}
