import { BlockCache, type BlockHash } from './block-cache.ts';
import { contextTokensMax, decodeMs, type EngineProfile, prefillMs } from './engine-profiles.ts';
import { createSequence, type EngineRequest, type EngineRequestId, type Sequence, SequenceList, StepAgenda } from './sequence.ts';

/**
 * What `submit` made of a request: `queue-full` means every sequence and every place in the queue is taken; `too-long` means prompt
 * plus output can never fit in the KV memory.
 */
export type SubmitResult = 'queued' | 'queue-full' | 'too-long';

/** Something a client of the server would notice, in the order it happens. Times are the caller's milliseconds. */
export type EngineEvent =
  | { readonly kind: 'first-token'; readonly id: EngineRequestId; readonly atMs: number; readonly submittedMs: number; readonly cachedTokens: number }
  /** One more token; only with `tokenEvents`. */
  | { readonly kind: 'token'; readonly id: EngineRequestId; readonly atMs: number }
  | {
      readonly kind: 'done';
      readonly id: EngineRequestId;
      readonly atMs: number;
      readonly submittedMs: number;
      /** When it left the queue for the first time. */
      readonly scheduledMs: number;
      readonly firstTokenMs: number;
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly outputTokens: number;
    };

/** The engine now, and its totals since the start. */
export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  /** Blocks held by running sequences, of `blocks`; cached ones that nobody holds count as free. */
  readonly blocksHeld: number;
  readonly blocks: number;
  readonly blocksCached: number;
  /** Prompt tokens looked up in the prefix cache, and found: once per request, when first scheduled. */
  readonly queriedTokens: number;
  readonly cachedTokens: number;
  /** Tokens prefilled: prompts less what was cached, plus what preemption made again. */
  readonly prefilledTokens: number;
  readonly generatedTokens: number;
  readonly finished: number;
  readonly cancelled: number;
  readonly rejected: number;
  readonly preemptions: number;
  readonly evictions: number;
  readonly steps: number;
  /** Milliseconds spent in finished and current steps. */
  readonly busyMs: number;
}

export interface EngineOptions {
  /** Whether to report each token after the first. Off, a decode step costs O(1) however many sequences run. Default false. */
  readonly tokenEvents?: boolean;
}

/**
 * A model server's engine without the model: continuous batching with chunked prefill, a FIFO queue, and a KV memory with a prefix
 * cache. Pure: time is an argument, nothing is random, so the same calls give the same events. A caller drives it with real timers or
 * in virtual time: `submit`, then `advance` to `nextEventMs()`, and so on. Times must not go backwards.
 *
 * A step gives each decoding sequence one token and spends the rest of its token budget on prompts: first the one it is in the middle
 * of, then the queue in order, as long as a sequence is free and the whole prompt fits in memory. A prompt's blocks can be reused by
 * others as soon as they are scheduled; at least one token of every prompt is computed. Without room for a decoding sequence's next
 * block the sequence admitted last is preempted: it gives up its blocks and goes to the head of the queue.
 *
 * A step that begins at t sees what was submitted at t, if `submit` was called before `advance(t)`.
 */
export class Engine {
  readonly profile: EngineProfile;
  readonly #tokenEvents: boolean;
  readonly #cache: BlockCache;
  readonly #sequences = new Map<EngineRequestId, Sequence>();
  readonly #waiting = new SequenceList();
  /** In order of admission. */
  readonly #running = new SequenceList();
  readonly #blockAgenda = new StepAgenda();
  readonly #lastTokenAgenda = new StepAgenda();
  /** The one sequence whose prompt is longer than the budget left to it; FIFO admission leaves at most one. */
  #partial: Sequence | undefined = undefined;
  /** Sequences that get a token at the end of the current step because their prefill ends with it. */
  #completing: Sequence[] = [];
  #decoding = 0;
  /** Prompt and generated tokens of all decoding sequences. */
  #contextTokens = 0;
  /** Decode steps finished. */
  #decodeSteps = 0;
  #stepDecodes = false;
  /** End of the current step. */
  #stepEndMs: number | undefined = undefined;
  /** When the next step may begin; set iff there is work and no step. */
  #wakeMs: number | undefined = undefined;
  #nowMs = -Infinity;
  #slowFactor = 1;
  #events: EngineEvent[] = [];
  #queriedTokens = 0;
  #cachedTokens = 0;
  #prefilledTokens = 0;
  #generatedTokens = 0;
  #finished = 0;
  #cancelled = 0;
  #rejected = 0;
  #preemptions = 0;
  #steps = 0;
  #busyMs = 0;

  constructor(profile: EngineProfile, options: EngineOptions = {}) {
    // A decoding sequence must never wait for budget, and prefill must always get some: both are assumed below.
    if (profile.stepTokensMax <= profile.sequencesMax) throw new RangeError(`${profile.name}: stepTokensMax must exceed sequencesMax`);
    this.profile = profile;
    this.#tokenEvents = options.tokenEvents ?? false;
    this.#cache = new BlockCache(profile.blocks);
  }

  /** How many times slower than its profile the engine runs; takes effect with the next step. */
  get slowFactor(): number {
    return this.#slowFactor;
  }

  set slowFactor(factor: number) {
    if (!(factor > 0 && Number.isFinite(factor))) throw new RangeError(`slowFactor must be a positive number, not ${factor}`);
    this.#slowFactor = factor;
  }

  /** Requests running and waiting. */
  get inFlight(): number {
    return this.#sequences.size;
  }

  get stats(): EngineStats {
    return {
      running: this.#running.size,
      waiting: this.#waiting.size,
      blocksHeld: this.#cache.held,
      blocks: this.#cache.blocks,
      blocksCached: this.#cache.cached,
      queriedTokens: this.#queriedTokens,
      cachedTokens: this.#cachedTokens,
      prefilledTokens: this.#prefilledTokens,
      generatedTokens: this.#generatedTokens,
      finished: this.#finished,
      cancelled: this.#cancelled,
      rejected: this.#rejected,
      preemptions: this.#preemptions,
      evictions: this.#cache.evictions,
      steps: this.#steps,
      busyMs: this.#busyMs,
    };
  }

  /** Queues a request. Throws where the caller broke the contract: an id in use, a count below 1, time running backwards. */
  submit(request: EngineRequest, nowMs: number): SubmitResult {
    if (!(Number.isInteger(request.promptTokens) && request.promptTokens >= 1)) throw new RangeError('promptTokens must be an integer of at least 1');
    if (!(Number.isInteger(request.outputTokens) && request.outputTokens >= 1)) throw new RangeError('outputTokens must be an integer of at least 1');
    this.#runBefore(nowMs);
    if (this.#sequences.has(request.id)) throw new Error(`request ${request.id} is already in flight`);
    if (request.promptTokens + request.outputTokens > contextTokensMax(this.profile)) {
      this.#rejected += 1;
      return 'too-long';
    }
    if (this.#sequences.size >= this.profile.sequencesMax + this.profile.queueMax) {
      this.#rejected += 1;
      return 'queue-full';
    }
    const sequence = createSequence(request, nowMs);
    this.#sequences.set(request.id, sequence);
    this.#waiting.append(sequence);
    if (this.#stepEndMs === undefined) this.#wakeMs ??= nowMs;
    return 'queued';
  }

  /**
   * Drops a request and frees its blocks at once; no further event names it, except those of before `nowMs` not yet handed out. The
   * current step keeps its length. False if the id is not in flight (any more).
   */
  cancel(id: EngineRequestId, nowMs: number): boolean {
    this.#runBefore(nowMs);
    const sequence = this.#sequences.get(id);
    if (sequence === undefined) return false;
    if (sequence.state === 'waiting') this.#waiting.remove(sequence);
    else this.#leaveRunning(sequence);
    sequence.state = 'ended';
    this.#sequences.delete(id);
    this.#cancelled += 1;
    if (this.#sequences.size === 0) this.#wakeMs = undefined;
    return true;
  }

  /** When `advance` will next have something to do, never in the past; undefined while idle. */
  nextEventMs(): number | undefined {
    if (this.#events.length > 0) return this.#nowMs;
    return this.#stepEndMs ?? this.#wakeMs;
  }

  /** Runs every step that ends by `nowMs`, begins the one that follows, and hands out what happened since the last call, in order of time. */
  advance(nowMs: number): readonly EngineEvent[] {
    this.#setNow(nowMs);
    for (;;) {
      if (this.#stepEndMs !== undefined) {
        if (this.#stepEndMs > nowMs) break;
        this.#endStep(this.#stepEndMs);
      } else {
        if (this.#wakeMs === undefined || this.#wakeMs > nowMs) break;
        this.#beginStep(this.#wakeMs);
      }
    }
    return this.#takeEvents();
  }

  /** Like `advance`, but without what happens at `nowMs` itself: a step that begins then sees what is still to be submitted then. */
  advanceBefore(nowMs: number): readonly EngineEvent[] {
    this.#runBefore(nowMs);
    return this.#takeEvents();
  }

  #takeEvents(): readonly EngineEvent[] {
    const events = this.#events;
    if (events.length > 0) this.#events = [];
    return events;
  }

  /** Like `advance`, up to but not including `nowMs`, so that a request submitted now can be part of a step that begins now. */
  #runBefore(nowMs: number): void {
    this.#setNow(nowMs);
    for (;;) {
      if (this.#stepEndMs !== undefined) {
        if (this.#stepEndMs >= nowMs) return;
        this.#endStep(this.#stepEndMs);
      } else {
        if (this.#wakeMs === undefined || this.#wakeMs >= nowMs) return;
        this.#beginStep(this.#wakeMs);
      }
    }
  }

  #setNow(nowMs: number): void {
    if (!(nowMs >= this.#nowMs)) throw new RangeError(`time went backwards: ${nowMs} after ${this.#nowMs}`);
    this.#nowMs = nowMs;
  }

  #beginStep(startMs: number): void {
    if (this.#decoding > 0) this.#makeRoomForDecodes();
    let budget = this.profile.stepTokensMax - this.#decoding;
    let promptTokens = 0;
    if (this.#partial !== undefined) {
      const tokens = this.#prefill(this.#partial, budget);
      budget -= tokens;
      promptTokens += tokens;
    }
    // A sequence preempted just now is first in the queue and never fits again at once: it lacks the block that it was preempted for.
    while (budget > 0 && this.#running.size < this.profile.sequencesMax) {
      const head = this.#waiting.first;
      if (head === undefined || !this.#admit(head, startMs)) break;
      const tokens = this.#prefill(head, budget);
      budget -= tokens;
      promptTokens += tokens;
    }
    this.#stepDecodes = this.#decoding > 0;
    const durationMs =
      (prefillMs(this.profile, promptTokens) + (this.#stepDecodes ? decodeMs(this.profile, this.#contextTokens) : 0)) * this.#slowFactor;
    // The queue's head always fits once nothing runs, and a lone sequence always fits: submit() checked that.
    if (promptTokens === 0 && !this.#stepDecodes) throw new Error('a step without work');
    this.#prefilledTokens += promptTokens;
    this.#steps += 1;
    this.#busyMs += durationMs;
    this.#wakeMs = undefined;
    this.#stepEndMs = startMs + durationMs;
  }

  #endStep(endMs: number): void {
    this.#stepEndMs = undefined;
    if (this.#stepDecodes) {
      this.#decodeSteps += 1;
      this.#contextTokens += this.#decoding;
      this.#generatedTokens += this.#decoding;
      if (this.#tokenEvents) {
        for (let sequence = this.#running.first; sequence !== undefined; sequence = sequence.next) {
          if (sequence.state === 'decoding') this.#events.push({ kind: 'token', id: sequence.request.id, atMs: endMs });
        }
      }
      const last = this.#lastTokenAgenda.take(this.#decodeSteps);
      if (last !== undefined) {
        for (const sequence of last) {
          if (sequence.state === 'decoding' && sequence.lastStep === this.#decodeSteps) this.#finish(sequence, endMs);
        }
      }
    }
    if (this.#completing.length > 0) {
      const completing = this.#completing;
      this.#completing = [];
      for (const sequence of completing) {
        if (sequence.state === 'prefilling') this.#endPrefill(sequence, endMs);
      }
    }
    if (this.#sequences.size > 0) this.#wakeMs = endMs;
  }

  /** Gives every decoding sequence whose next token starts a new block that block, if need be by preemption. */
  #makeRoomForDecodes(): void {
    const step = this.#decodeSteps + 1;
    const due = this.#blockAgenda.take(step);
    if (due === undefined) return;
    for (const sequence of due) {
      if (sequence.state !== 'decoding' || sequence.blockStep !== step) continue;
      let block = this.#cache.allocate();
      for (let victim = this.#running.last; block === undefined && victim !== undefined; victim = this.#running.last) {
        this.#preempt(victim);
        if (victim === sequence) break;
        block = this.#cache.allocate();
      }
      if (block === undefined) continue;
      this.#nameBlocks(sequence, sequence.blocks.length * this.profile.blockTokens);
      sequence.blocks.push(block);
      this.#planBlock(sequence, step + this.profile.blockTokens);
    }
  }

  /** Moves the queue's head to the running ones with all its blocks, reusing what is cached; false if they don't fit. */
  #admit(sequence: Sequence, nowMs: number): boolean {
    const { blockTokens } = this.profile;
    // The next token needs the attention of at least one computed position, so the last token is never taken from the cache.
    const reusable = Math.floor((sequence.prefillTokens - 1) / blockTokens);
    const blocks: number[] = [];
    let idle = 0;
    while (blocks.length < reusable) {
      const hash = this.#hashAt(sequence.request, blocks.length);
      const block = hash === undefined ? undefined : this.#cache.find(hash);
      if (block === undefined) break;
      if (this.#cache.isIdle(block)) idle += 1;
      blocks.push(block);
    }
    const fresh = Math.ceil(sequence.prefillTokens / blockTokens) - blocks.length;
    if (fresh > this.#cache.available - idle) return false;

    for (const block of blocks) this.#cache.hold(block);
    sequence.namedBlocks = blocks.length;
    sequence.prefilledTokens = blocks.length * blockTokens;
    for (let count = 0; count < fresh; count += 1) {
      const block = this.#cache.allocate();
      if (block === undefined) throw new Error('fewer blocks available than counted');
      blocks.push(block);
    }
    sequence.blocks = blocks;
    if (Number.isNaN(sequence.scheduledMs)) {
      sequence.scheduledMs = nowMs;
      sequence.cachedTokens = sequence.prefilledTokens;
      this.#queriedTokens += sequence.request.promptTokens;
      this.#cachedTokens += sequence.cachedTokens;
    }
    sequence.state = 'prefilling';
    this.#waiting.remove(sequence);
    this.#running.append(sequence);
    return true;
  }

  /** Schedules as much of a prompt as the budget allows; returns how many tokens. */
  #prefill(sequence: Sequence, budget: number): number {
    const left = sequence.prefillTokens - sequence.prefilledTokens;
    const tokens = Math.min(left, budget);
    sequence.prefilledTokens += tokens;
    this.#nameBlocks(sequence, sequence.prefilledTokens);
    if (tokens === left) {
      if (this.#partial === sequence) this.#partial = undefined;
      this.#completing.push(sequence);
    } else {
      this.#partial = sequence;
    }
    return tokens;
  }

  #endPrefill(sequence: Sequence, nowMs: number): void {
    const { id, promptTokens, outputTokens } = sequence.request;
    sequence.state = 'decoding';
    sequence.generatedTokens += 1;
    sequence.enteredAtStep = this.#decodeSteps;
    this.#decoding += 1;
    this.#contextTokens += promptTokens + sequence.generatedTokens;
    this.#generatedTokens += 1;
    if (Number.isNaN(sequence.firstTokenMs)) {
      sequence.firstTokenMs = nowMs;
      this.#events.push({ kind: 'first-token', id, atMs: nowMs, submittedMs: sequence.submittedMs, cachedTokens: sequence.cachedTokens });
    } else if (this.#tokenEvents) {
      this.#events.push({ kind: 'token', id, atMs: nowMs });
    }
    sequence.lastStep = this.#decodeSteps + outputTokens - sequence.generatedTokens;
    if (sequence.lastStep === this.#decodeSteps) {
      this.#finish(sequence, nowMs);
      return;
    }
    this.#lastTokenAgenda.add(sequence.lastStep, sequence);
    // The next decode step writes the newest token's place in memory: the one after the prefilled tokens.
    const room = sequence.blocks.length * this.profile.blockTokens - sequence.prefillTokens;
    this.#planBlock(sequence, this.#decodeSteps + 1 + room);
  }

  #planBlock(sequence: Sequence, step: number): void {
    sequence.blockStep = step;
    if (step <= sequence.lastStep) this.#blockAgenda.add(step, sequence);
  }

  #finish(sequence: Sequence, nowMs: number): void {
    const { id, promptTokens, outputTokens } = sequence.request;
    // The last token is sent, never written to memory.
    this.#nameBlocks(sequence, promptTokens + outputTokens - 1);
    this.#leaveRunning(sequence);
    sequence.state = 'ended';
    this.#sequences.delete(id);
    this.#finished += 1;
    this.#events.push({
      kind: 'done',
      id,
      atMs: nowMs,
      submittedMs: sequence.submittedMs,
      scheduledMs: sequence.scheduledMs,
      firstTokenMs: sequence.firstTokenMs,
      promptTokens,
      cachedTokens: sequence.cachedTokens,
      outputTokens,
    });
  }

  /** Takes a running sequence's memory away and puts it first in the queue; it will compute prompt and output so far again. */
  #preempt(sequence: Sequence): void {
    const { promptTokens } = sequence.request;
    sequence.generatedTokens = this.#generatedBy(sequence);
    this.#nameBlocks(sequence, sequence.state === 'decoding' ? promptTokens + sequence.generatedTokens - 1 : sequence.prefilledTokens);
    this.#leaveRunning(sequence);
    sequence.state = 'waiting';
    sequence.prefillTokens = promptTokens + sequence.generatedTokens;
    sequence.prefilledTokens = 0;
    this.#waiting.prepend(sequence);
    this.#preemptions += 1;
  }

  #leaveRunning(sequence: Sequence): void {
    if (sequence.state === 'decoding') {
      this.#decoding -= 1;
      this.#contextTokens -= sequence.request.promptTokens + this.#generatedBy(sequence);
    }
    if (this.#partial === sequence) this.#partial = undefined;
    this.#running.remove(sequence);
    // Tail first: of one prefix the end is evicted before the start, without which it would be of no use.
    for (const block of sequence.blocks.reverse()) this.#cache.release(block);
    sequence.blocks = [];
    sequence.namedBlocks = 0;
  }

  #generatedBy(sequence: Sequence): number {
    return sequence.state === 'decoding' ? sequence.generatedTokens + this.#decodeSteps - sequence.enteredAtStep : sequence.generatedTokens;
  }

  /** Makes the blocks that lie wholly within the first `tokens` tokens known to the prefix cache. */
  #nameBlocks(sequence: Sequence, tokens: number): void {
    const whole = Math.floor(tokens / this.profile.blockTokens);
    for (; sequence.namedBlocks < whole; sequence.namedBlocks += 1) {
      const hash = this.#hashAt(sequence.request, sequence.namedBlocks);
      const block = sequence.blocks[sequence.namedBlocks];
      if (hash !== undefined && block !== undefined) this.#cache.name(block, hash);
    }
  }

  #hashAt(request: EngineRequest, index: number): BlockHash | undefined {
    const promptBlocks = Math.floor(request.promptTokens / this.profile.blockTokens);
    return index < promptBlocks ? request.blockHashes[index] : request.outputBlockHashes?.[index - promptBlocks];
  }
}
