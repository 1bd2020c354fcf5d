import { ConnectionError, ErrorCode } from './protocol.ts';

/** Largest encoded block taken, in bytes: as much as its fields may have without any compression. */
const blockBytesMax = 65_536;
/** CONTINUATION frames that may follow a HEADERS frame: more than any block needs that is cut sensibly (CVE-2024-27316). */
const continuationsMax = 16;

/** Puts together a header block that spans frames (RFC 9113, section 6.10). */
export class HeaderBlock {
  /** Stream whose block is being put together; 0: none. */
  streamId = 0;
  endsStream = false;
  #bytes: Buffer = none;
  #length = 0;
  #continuations = 0;

  begin(streamId: number, endsStream: boolean, bytes: Buffer, start: number, end: number): void {
    this.streamId = streamId;
    this.endsStream = endsStream;
    this.#length = 0;
    this.#continuations = 0;
    this.#append(bytes, start, end);
  }

  /** Throws a ConnectionError for a client that sends frames without end. */
  add(bytes: Buffer, start: number, end: number): void {
    this.#continuations += 1;
    if (this.#continuations > continuationsMax || this.#length + end - start > blockBytesMax) throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, 'header block too large');
    this.#append(bytes, start, end);
  }

  /** The whole block; nothing is being put together any more. */
  finish(): Buffer {
    const block = this.#bytes.subarray(0, this.#length);
    this.streamId = 0;
    this.#bytes = none;
    return block;
  }

  #append(bytes: Buffer, start: number, end: number): void {
    const length = this.#length + end - start;
    if (length > this.#bytes.length) {
      const larger = Buffer.allocUnsafeSlow(2 * length);
      this.#bytes.copy(larger, 0, 0, this.#length);
      this.#bytes = larger;
    }
    bytes.copy(this.#bytes, this.#length, start, end);
    this.#length = length;
  }
}

const none = Buffer.alloc(0);
