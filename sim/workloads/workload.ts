import { prefixBlockTokens } from '../../src/core/request-facts.ts';

/** One request of a workload: what a client sends, and how long the answer is. */
export interface WorkloadRequest {
  /** Since the workload's start, in ms. */
  readonly arrivalMs: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Chained names of the prompt's whole blocks of `prefixBlockTokens`: equal names, equal prompts up to there. */
  readonly blockHashes: readonly number[];
  /** The same for the blocks that the answer fills, where the next turn repeats it; empty where that is not known. */
  readonly outputBlockHashes: readonly number[];
  readonly session: string | undefined;
  readonly model: string | undefined;
  readonly tenant: string | undefined;
  readonly path: string;
}

/** Requests in order of arrival. */
export interface Workload {
  readonly name: string;
  readonly requests: readonly WorkloadRequest[];
  /** What had to be assumed, because the source does not tell. */
  readonly assumptions: readonly string[];
}

/** The outcome of reading a workload: usable, or what is wrong, with cause and cure. */
export type WorkloadOutcome = { readonly ok: true; readonly workload: Workload } | { readonly ok: false; readonly message: string };

/** Where clients of the OpenAI API send chats. */
export const chatPath = '/v1/chat/completions';

/** Longest prompt or answer taken for one, in tokens. */
export const tokensMax = 100_000_000;

/** Whole blocks in a prompt. */
export function wholeBlocks(tokens: number): number {
  return Math.floor(tokens / prefixBlockTokens);
}

/**
 * Names for blocks that nothing else has: sessions whose texts only grow get the same names turn after turn, as long as the same
 * `key` is asked for.
 */
export class BlockNames {
  readonly #names = new Map<string, number[]>();
  #next: number;

  constructor(first = 1) {
    this.#next = first;
  }

  /** The leading blocks of a text that only grows, named by `key`. */
  of(key: string, blocks: number): readonly number[] {
    let names = this.#names.get(key);
    if (names === undefined) {
      names = [];
      this.#names.set(key, names);
    }
    while (names.length < blocks) names.push(this.#take());
    return names.slice(0, blocks);
  }

  /** Blocks of a text that never comes again. */
  fresh(blocks: number): readonly number[] {
    return Array.from({ length: blocks }, () => this.#take());
  }

  #take(): number {
    const name = this.#next;
    this.#next += 1;
    return name;
  }
}

/** A whole count of tokens from 1 to the largest taken; undefined for anything else. */
export function toTokens(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value >= 1 && value <= tokensMax ? Math.round(value) : undefined;
}
