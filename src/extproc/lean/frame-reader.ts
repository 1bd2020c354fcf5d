import { ConnectionError, defaultFrameBytesMax, ErrorCode, Flag, frameHeadBytes, FrameType, preface } from './protocol.ts';

/** Takes what a connection's bytes say. All may throw a ConnectionError. */
export interface FrameSink {
  /** A frame that is not DATA, whole. Its payload is `bytes` from `start` to `end`, which may change afterwards. */
  onFrame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void;
  /** A DATA frame begins; `length`: of its payload with all padding, which is what flow control counts. */
  onDataFrame(flags: number, streamId: number, length: number): void;
  /** Some of its data, as it arrives. These bytes may change afterwards. */
  onData(bytes: Buffer, start: number, end: number): void;
  onDataFrameEnd(): void;
}

/**
 * Cuts a connection's bytes into frames (RFC 9113, section 4) where they lie in the chunks that the socket gave. DATA is handed on as it
 * comes; of other frames, those that a chunk ends within are put together.
 */
export class FrameReader {
  readonly #sink: FrameSink;
  /** Bytes of the preface that came. */
  #prefaceBytes = 0;
  #isFirstFrame = true;
  /** The beginning of a frame that is not whole yet; `#held` bytes of it are there. */
  #partial: Buffer | undefined;
  #held = 0;
  /** Inside of a DATA frame. */
  #isInData = false;
  #needsPadLength = false;
  #dataLeft = 0;
  #padLeft = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** The client's preface and its first SETTINGS were read. */
  get hasBegun(): boolean {
    return !this.#isFirstFrame;
  }

  take(chunk: Buffer): void {
    const { length } = chunk;
    let at = this.#prefaceBytes < preface.length ? this.#takePreface(chunk) : 0;
    for (;;) {
      if (this.#isInData) {
        at = this.#takeData(chunk, at);
        if (this.#isWithinData()) return;
      }
      if (this.#held > 0) {
        at = this.#complete(chunk, at);
        if (this.#held > 0) return;
        continue;
      }
      const left = length - at;
      if (left < frameHeadBytes) {
        if (left > 0) this.#hold(chunk, at, length);
        return;
      }
      const bytes = ((chunk[at] as number) << 16) | ((chunk[at + 1] as number) << 8) | (chunk[at + 2] as number);
      const type = chunk[at + 3] as number;
      this.#checkHead(type, bytes, chunk[at + 4] as number);
      if (type !== FrameType.DATA && left < frameHeadBytes + bytes) {
        this.#hold(chunk, at, length);
        return;
      }
      this.#pass(chunk, at, bytes, type);
      at += type === FrameType.DATA ? frameHeadBytes : frameHeadBytes + bytes;
    }
  }

  #takePreface(chunk: Buffer): number {
    const bytes = Math.min(preface.length - this.#prefaceBytes, chunk.length);
    if (preface.compare(chunk, 0, bytes, this.#prefaceBytes, this.#prefaceBytes + bytes) !== 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, 'no HTTP/2');
    this.#prefaceBytes += bytes;
    return bytes;
  }

  /** Section 4.2; and the first frame is SETTINGS (section 3.4). */
  #checkHead(type: number, bytes: number, flags: number): void {
    if (bytes > defaultFrameBytesMax) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'frame too large');
    if (this.#isFirstFrame) {
      if (type !== FrameType.SETTINGS || (flags & Flag.ACK) !== 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, 'no SETTINGS in the preface');
      this.#isFirstFrame = false;
    }
  }

  /** Hands on a frame whose head is at `at`; of DATA, its beginning. */
  #pass(chunk: Buffer, at: number, bytes: number, type: number): void {
    const flags = chunk[at + 4] as number;
    // The highest bit is reserved and ignored.
    const streamId = (((chunk[at + 5] as number) & 0x7f) << 24) | ((chunk[at + 6] as number) << 16) | ((chunk[at + 7] as number) << 8) | (chunk[at + 8] as number);
    if (type !== FrameType.DATA) {
      const start = at + frameHeadBytes;
      this.#sink.onFrame(type, flags, streamId, chunk, start, start + bytes);
      return;
    }
    this.#sink.onDataFrame(flags, streamId, bytes);
    this.#isInData = true;
    this.#needsPadLength = (flags & Flag.PADDED) !== 0;
    if (this.#needsPadLength && bytes === 0) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'no room for the padding');
    this.#dataLeft = bytes;
    this.#padLeft = 0;
  }

  #takeData(chunk: Buffer, from: number): number {
    let at = from;
    if (this.#needsPadLength) {
      if (at === chunk.length) return at;
      this.#needsPadLength = false;
      this.#padLeft = chunk[at++] as number;
      this.#dataLeft -= 1 + this.#padLeft;
      if (this.#dataLeft < 0) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, 'more padding than frame');
    }
    const data = Math.min(this.#dataLeft, chunk.length - at);
    if (data > 0) {
      this.#dataLeft -= data;
      this.#sink.onData(chunk, at, at + data);
      at += data;
    }
    const padding = Math.min(this.#padLeft, chunk.length - at);
    this.#padLeft -= padding;
    at += padding;
    if (this.#dataLeft === 0 && this.#padLeft === 0) {
      this.#isInData = false;
      this.#sink.onDataFrameEnd();
    }
    return at;
  }

  /** A method, since the compiler would not expect a call in between to have changed it. */
  #isWithinData(): boolean {
    return this.#isInData;
  }

  #hold(chunk: Buffer, start: number, end: number): void {
    this.#partial ??= Buffer.allocUnsafeSlow(frameHeadBytes + defaultFrameBytesMax);
    chunk.copy(this.#partial, this.#held, start, end);
    this.#held += end - start;
  }

  /** Goes on with a frame that is held; nothing is held any more once it was handed on. */
  #complete(chunk: Buffer, from: number): number {
    const partial = this.#partial as Buffer;
    let at = from;
    if (this.#held < frameHeadBytes) {
      const taken = Math.min(frameHeadBytes - this.#held, chunk.length - at);
      this.#hold(chunk, at, at + taken);
      at += taken;
      if (this.#held < frameHeadBytes) return at;
    }
    const bytes = partial.readUIntBE(0, 3);
    const type = partial[3] as number;
    this.#checkHead(type, bytes, partial[4] as number);
    if (type !== FrameType.DATA) {
      const taken = Math.min(frameHeadBytes + bytes - this.#held, chunk.length - at);
      if (taken > 0) this.#hold(chunk, at, at + taken);
      at += taken;
      if (this.#held < frameHeadBytes + bytes) return at;
    }
    this.#held = 0;
    this.#pass(partial, 0, bytes, type);
    return at;
  }
}
