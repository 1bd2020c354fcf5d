import type { FrameWriter } from './frame-writer.ts';
import { defaultFrameBytesMax, defaultWindowBytes, int31Max } from './protocol.ts';

/** Answers wait in their calls while this much is still in this process, in bytes. */
const unsentBytesMax = 262_144;

/** A call with answers that wait to be sent. */
export interface WaitingCall {
  /** Sends one DATA frame of at most so many bytes, and what follows the last of them; returns how many it sent. 0: it waits for its own window. */
  takeTurn(bytesMax: number): number;
}

/** Sends the answers of one connection's calls, as far as its windows (RFC 9113, section 5.2) and its socket have room for them. */
export class Sender {
  readonly writer: FrameWriter;
  /** Window that each stream begins with. A stream's own count starts at 0, so that a change of this reaches all. */
  initialWindowBytes = defaultWindowBytes;
  frameBytesMax = defaultFrameBytesMax;
  #windowBytes = defaultWindowBytes;
  /** In the order of their turns. */
  readonly #waiting = new Set<WaitingCall>();
  #isFlushing = false;
  readonly #scheduleFlush: () => void;

  /** `scheduleFlush`: told that there is something to {@link flush}. */
  constructor(writer: FrameWriter, scheduleFlush: () => void) {
    this.writer = writer;
    this.#scheduleFlush = scheduleFlush;
  }

  /** Whether a message may go out now as one frame. `streamBytes`: its stream's own count. */
  admits(bytes: number, streamBytes: number): boolean {
    return bytes <= this.frameBytesMax && bytes <= this.#windowBytes && bytes <= this.initialWindowBytes + streamBytes && this.#hasRoom();
  }

  /** Counts DATA that was written. */
  count(bytes: number): void {
    this.#windowBytes -= bytes;
  }

  /** Something was written. */
  touch(): void {
    this.#scheduleFlush();
  }

  /** The client takes more on this connection; false: more than there can be (section 6.9.1). */
  grant(bytes: number): boolean {
    this.#windowBytes += bytes;
    if (this.#waiting.size > 0) this.#scheduleFlush();
    return this.#windowBytes <= int31Max;
  }

  /** A call has something to send. */
  add(call: WaitingCall): void {
    this.#waiting.add(call);
    this.#scheduleFlush();
  }

  /** A call is gone. */
  remove(call: WaitingCall): void {
    this.#waiting.delete(call);
  }

  /** Sends what may be sent, as long as the socket takes it. Calls that had waited are read on meanwhile. */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    try {
      do {
        this.#takeTurns();
        this.writer.flush();
      } while (this.#waiting.size > 0 && this.#windowBytes > 0 && this.#hasRoom());
    } finally {
      this.#isFlushing = false;
    }
  }

  #hasRoom(): boolean {
    return this.writer.unsentBytes < unsentBytesMax;
  }

  /** One frame of each call in turn; those that are not done go to the end of the line. */
  #takeTurns(): void {
    for (const call of this.#waiting) {
      if (this.#windowBytes <= 0 || !this.#hasRoom()) return;
      this.#waiting.delete(call);
      this.#windowBytes -= call.takeTurn(Math.min(this.frameBytesMax, this.#windowBytes));
    }
  }
}
