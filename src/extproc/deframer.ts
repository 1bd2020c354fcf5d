import type { SpareBuffers } from './spare-buffers.ts';

/** What is wrong with the framing of a call; nothing can be read after it. */
export type FramingError = 'too-large' | 'compressed' | 'bad-flag';

/** Bytes of a message's prefix: flag and length. */
export const prefixBytes = 5;
/** Allocated at first for a message that spans chunks: a prefix alone, which costs its sender nothing, must not take its whole length. */
const firstAllocationBytes = 262_144;

/**
 * Cuts a call's bytes into gRPC messages: a flag byte (1: compressed), four bytes of length, the message (PROTOCOL-HTTP2.md,
 * Length-Prefixed-Message). A message within one chunk is a view into it; one that spans chunks is put together in one allocation.
 */
export class Deframer {
  readonly #bytesMax: number;
  readonly #buffers: SpareBuffers | undefined;
  /** The buffer of the last message, where that was put together in a lent one. */
  #lent: Buffer | undefined;
  #chunk: Buffer = none;
  #at = 0;
  /** A message that spans chunks, how much of it is there, and how long it will be. */
  #partial: Buffer | undefined;
  #partialBytes = 0;
  #messageBytes = 0;
  /** A prefix that spans chunks. */
  #prefix: Buffer | undefined;
  #prefixBytes = 0;
  #error: FramingError | undefined;

  /**
   * `bytesMax`: largest message taken. `buffers`: lends those in which messages are put together; whoever has read one says so by {@link giveBack}.
   * Absent: each message has one of its own.
   */
  constructor(bytesMax: number, buffers?: SpareBuffers) {
    this.#bytesMax = bytesMax;
    this.#buffers = buffers;
  }

  get error(): FramingError | undefined {
    return this.#error;
  }

  /** Part of a message came, and not the rest. */
  get isMidMessage(): boolean {
    return this.#partial !== undefined || this.#prefixBytes > 0;
  }

  /** Bytes of the last {@link push} that no message had yet. */
  get unreadBytes(): number {
    return this.#chunk.length - this.#at;
  }

  /** Gives it the next bytes; take all messages with {@link next} before the next ones. */
  push(chunk: Buffer): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** The next message; undefined where there is none yet, or none any more ({@link error}). */
  next(): Buffer | undefined {
    if (this.#error !== undefined) return undefined;
    if (this.#partial !== undefined) return this.#fill(this.#partial);
    const chunk = this.#chunk;
    const left = chunk.length - this.#at;
    if (left === 0) return undefined;
    let prefix = chunk;
    let at = this.#at;
    if (this.#prefixBytes > 0 || left < prefixBytes) {
      this.#prefix ??= Buffer.allocUnsafe(prefixBytes);
      const taken = chunk.copy(this.#prefix, this.#prefixBytes, at, at + prefixBytes - this.#prefixBytes);
      this.#prefixBytes += taken;
      this.#at += taken;
      if (this.#prefixBytes < prefixBytes) return undefined;
      this.#prefixBytes = 0;
      prefix = this.#prefix;
      at = 0;
    } else {
      this.#at += prefixBytes;
    }
    const flag = prefix[at];
    const bytes = prefix.readUInt32BE(at + 1);
    if (flag !== 0) this.#error = flag === 1 ? 'compressed' : 'bad-flag';
    else if (bytes > this.#bytesMax) this.#error = 'too-large';
    if (this.#error !== undefined) return undefined;
    const start = this.#at;
    if (chunk.length - start >= bytes) {
      this.#at = start + bytes;
      return chunk.subarray(start, start + bytes);
    }
    this.#messageBytes = bytes;
    this.#partialBytes = 0;
    return this.#fill(this.#allocate(Math.min(bytes, firstAllocationBytes)));
  }

  /** Nobody looks at the last message any more. */
  giveBack(): void {
    if (this.#lent === undefined) return;
    this.#buffers?.takeBack(this.#lent);
    this.#lent = undefined;
  }

  #allocate(bytes: number): Buffer {
    return this.#buffers?.lend(bytes) ?? Buffer.allocUnsafeSlow(bytes);
  }

  #fill(partial: Buffer): Buffer | undefined {
    const taken = Math.min(this.#chunk.length - this.#at, this.#messageBytes - this.#partialBytes);
    let target = partial;
    if (this.#partialBytes + taken > target.length) {
      const bytes = Math.max(this.#partialBytes + taken, 2 * target.length);
      target = this.#allocate(Math.min(bytes, this.#messageBytes));
      partial.copy(target, 0, 0, this.#partialBytes);
      this.#buffers?.takeBack(partial);
    }
    this.#chunk.copy(target, this.#partialBytes, this.#at, this.#at + taken);
    this.#at += taken;
    this.#partialBytes += taken;
    const isWhole = this.#partialBytes === this.#messageBytes;
    this.#partial = isWhole ? undefined : target;
    if (!isWhole) return undefined;
    if (this.#buffers === undefined) return target;
    this.#lent = target;
    return target.subarray(0, this.#messageBytes);
  }
}

const none = Buffer.alloc(0);
