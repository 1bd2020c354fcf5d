const firstBytes = 16_384;
/** A scratch buffer that one large message left behind is given up. */
const keptBytesMax = 262_144;
/** From this size on, bytes are sent from where they are: below it, copying is cheaper than one more piece to send. */
const tailBytesMin = 8_192;
/** Longest text written byte by byte; above it, a call into the runtime pays. */
const shortTextMax = 64;

/** Taken once: looked up on each text, where texts of many kinds come along, it is looked up anew for each character. */
// eslint-disable-next-line @typescript-eslint/unbound-method -- called with a text only
const { charCodeAt } = String.prototype;

/** An encoded message in the pieces in which it is sent. */
export interface Encoded {
  readonly head: Buffer;
  /** The rest; absent: `head` is all. */
  readonly tail: Buffer | undefined;
}

/**
 * Writes protobuf's wire format from back to front: the length that stands before a nested message is known when it is reached, with
 * nothing measured twice. So of a message the last field is written first: `const end = mark(); …fields, last to first…; close(tag, end)`.
 * Tags are `field << 3 | wire type` and at most 127 (fields up to 15).
 */
export class WireWriter {
  #bytes = Buffer.allocUnsafeSlow(firstBytes);
  /** Where the next byte ends: all from here on is written. */
  #at = firstBytes;
  #tail: Buffer | undefined;

  /** Takes what was written, after `prefixBytes` of room, and begins anew. */
  finish(prefixBytes: number): Encoded {
    const head = Buffer.allocUnsafe(prefixBytes + this.#bytes.length - this.#at);
    this.#bytes.copy(head, prefixBytes, this.#at);
    const tail = this.#tail;
    this.reset();
    return { head, tail };
  }

  /** Forgets what was written. */
  reset(): void {
    if (this.#bytes.length > keptBytesMax) this.#bytes = Buffer.allocUnsafeSlow(firstBytes);
    this.#at = this.#bytes.length;
    this.#tail = undefined;
  }

  /** Bytes written so far: where a nested message ends that is now begun. */
  mark(): number {
    return this.#bytes.length - this.#at + (this.#tail?.length ?? 0);
  }

  /** Puts length and tag before the message that {@link mark} began. */
  close(tag: number, end: number): void {
    this.varint(tag, this.mark() - end);
  }

  /** A field that is a varint: a bool, an enum, a uint32. `value`: from 0 to 2^32 - 1, or a negative int32. */
  varint(tag: number, value: number): void {
    this.#reserve(11);
    if (value >= 0 && value < 0x80) {
      this.#bytes[(this.#at -= 1)] = value;
    } else if (value >= 0 && value < 0x1_0000_0000) {
      const size = value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : value < 0x1000_0000 ? 4 : 5;
      this.#at -= size;
      let rest = value;
      for (let i = 0; i < size - 1; i += 1) {
        this.#bytes[this.#at + i] = (rest & 0x7f) | 0x80;
        rest = Math.floor(rest / 0x80);
      }
      this.#bytes[this.#at + size - 1] = rest;
    } else {
      this.#longVarint(value);
    }
    this.#bytes[(this.#at -= 1)] = tag;
  }

  bool(tag: number, value: boolean): void {
    this.varint(tag, value ? 1 : 0);
  }

  double(tag: number, value: number): void {
    this.#reserve(9);
    this.#at -= 8;
    this.#bytes.writeDoubleLE(value, this.#at);
    this.#bytes[(this.#at -= 1)] = tag;
  }

  string(tag: number, text: string): void {
    this.varint(tag, this.#text(text));
  }

  bytes(tag: number, value: Buffer): void {
    const { length } = value;
    if (length >= tailBytesMin && this.mark() === 0) {
      this.#tail = value;
    } else {
      this.#reserve(length);
      this.#at -= length;
      if (length <= shortTextMax) for (let i = 0; i < length; i += 1) this.#bytes[this.#at + i] = value[i] ?? 0;
      else value.copy(this.#bytes, this.#at);
    }
    this.varint(tag, length);
  }

  /** Writes a text's bytes; returns how many they are. */
  #text(text: string): number {
    const { length } = text;
    if (length <= shortTextMax) {
      this.#reserve(length);
      const at = this.#at - length;
      const bytes = this.#bytes;
      let i = 0;
      for (; i < length; i += 1) {
        const code = charCodeAt.call(text, i);
        if (code >= 0x80) break;
        bytes[at + i] = code;
      }
      if (i === length) {
        this.#at = at;
        return length;
      }
    }
    const size = Buffer.byteLength(text);
    this.#reserve(size);
    this.#at -= size;
    this.#bytes.write(text, this.#at);
    return size;
  }

  /** Two's complement in 64 bits, as protobuf wants int32, int64 and enums. */
  #longVarint(value: number): void {
    let rest = BigInt.asUintN(64, BigInt(Math.trunc(value)));
    const digits: number[] = [];
    do {
      digits.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
      rest >>= 7n;
    } while (rest > 0n);
    this.#at -= digits.length;
    this.#bytes.set(digits, this.#at);
  }

  #reserve(bytes: number): void {
    if (this.#at >= bytes) return;
    const written = this.#bytes.length - this.#at;
    const larger = Buffer.allocUnsafeSlow(Math.max(2 * this.#bytes.length, written + bytes));
    this.#bytes.copy(larger, larger.length - written, this.#at);
    this.#bytes = larger;
    this.#at = larger.length - written;
  }
}
