import type { BlockHash } from './block-cache.ts';

export type EngineRequestId = string | number;

/** One prompt to complete. */
export interface EngineRequest {
  readonly id: EngineRequestId;
  /** At least 1. */
  readonly promptTokens: number;
  /** Chained hashes of the prompt's whole blocks, first block first; entries past the last whole block are ignored. */
  readonly blockHashes: readonly BlockHash[];
  /** At least 1; how many tokens it will generate. */
  readonly outputTokens: number;
  /**
   * Chained hashes of the whole blocks after the prompt's whole ones, which generation fills. With them a next turn that repeats this
   * answer finds it cached; without them generated blocks are forgotten at the end.
   */
  readonly outputBlockHashes?: readonly BlockHash[];
}

/** A request on its way through the engine. Mutable, owned by the engine. */
export interface Sequence {
  readonly request: EngineRequest;
  readonly submittedMs: number;
  state: 'waiting' | 'prefilling' | 'decoding' | 'ended';
  /** KV blocks held, in order. */
  blocks: number[];
  /** Leading blocks that were reused or have been offered to the cache. */
  namedBlocks: number;
  /** Tokens to have in memory before the next token comes: the prompt, and after a preemption what was generated before it. */
  prefillTokens: number;
  /** How many of those are in memory or in the current step. */
  prefilledTokens: number;
  /** Tokens generated when it last entered decoding; those since follow from the step counter. */
  generatedTokens: number;
  /** Number of the decode step after which it last entered decoding. */
  enteredAtStep: number;
  /** Number of the decode step that brings its last token. */
  lastStep: number;
  /** Number of the decode step that needs one more block. */
  blockStep: number;
  /** Prompt tokens found cached when first scheduled. */
  cachedTokens: number;
  /** When it first left the queue; NaN until then. */
  scheduledMs: number;
  /** NaN until it has come. */
  firstTokenMs: number;
  previous: Sequence | undefined;
  next: Sequence | undefined;
}

export function createSequence(request: EngineRequest, submittedMs: number): Sequence {
  return {
    request,
    submittedMs,
    state: 'waiting',
    blocks: [],
    namedBlocks: 0,
    prefillTokens: request.promptTokens,
    prefilledTokens: 0,
    generatedTokens: 0,
    enteredAtStep: 0,
    lastStep: -1,
    blockStep: -1,
    cachedTokens: 0,
    scheduledMs: NaN,
    firstTokenMs: NaN,
    previous: undefined,
    next: undefined,
  };
}

/** A doubly linked list through the sequences themselves: both ends and removal in O(1). A sequence is in one list at a time. */
export class SequenceList {
  first: Sequence | undefined = undefined;
  last: Sequence | undefined = undefined;
  size = 0;

  append(sequence: Sequence): void {
    sequence.previous = this.last;
    sequence.next = undefined;
    if (this.last === undefined) this.first = sequence;
    else this.last.next = sequence;
    this.last = sequence;
    this.size += 1;
  }

  prepend(sequence: Sequence): void {
    sequence.previous = undefined;
    sequence.next = this.first;
    if (this.first === undefined) this.last = sequence;
    else this.first.previous = sequence;
    this.first = sequence;
    this.size += 1;
  }

  remove(sequence: Sequence): void {
    if (sequence.previous === undefined) this.first = sequence.next;
    else sequence.previous.next = sequence.next;
    if (sequence.next === undefined) this.last = sequence.previous;
    else sequence.next.previous = sequence.previous;
    sequence.previous = undefined;
    sequence.next = undefined;
    this.size -= 1;
  }
}

/** What is due at which decode step. Steps are taken in order, each once; what was cancelled meanwhile the reader must skip. */
export class StepAgenda {
  readonly #due = new Map<number, Sequence[]>();

  add(step: number, sequence: Sequence): void {
    const due = this.#due.get(step);
    if (due === undefined) this.#due.set(step, [sequence]);
    else due.push(sequence);
  }

  take(step: number): readonly Sequence[] | undefined {
    const due = this.#due.get(step);
    if (due !== undefined) this.#due.delete(step);
    return due;
  }
}
