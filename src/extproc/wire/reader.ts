import { isUtf8 } from 'node:buffer';

/** Bytes that are no protobuf message. */
export class WireError extends Error {}

/** How values are written (protobuf.dev/programming-guides/encoding, "Message Structure"). A tag is `field << 3 | wire type`. */
const WireType = { VARINT: 0, FIXED64: 1, BYTES: 2, START_GROUP: 3, END_GROUP: 4, FIXED32: 5 } as const;

/** Deepest nesting taken, of messages and groups: as much as protobuf's own parsers take. */
export const depthMax = 100;

/**
 * Reads protobuf's wire format from one buffer. Throws {@link WireError} for what is none, and nothing else. Nothing is copied but strings.
 *
 * A message is read in a loop of {@link tag} until `at` is at its end; `end` may be moved past only by what is broken, so {@link leave}
 * checks that after each message.
 */
export class WireReader {
  readonly bytes: Buffer;
  at = 0;
  readonly #length: number;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.#length = bytes.length;
  }

  /** The next field's tag. */
  tag(): number {
    const tag = this.uint32();
    if (tag < 8 || this.#high !== 0) throw new WireError('no field number');
    return tag;
  }

  /** A varint's low 32 bits, unsigned: what int32, uint32, enum and tags are. */
  uint32(): number {
    const { bytes, at } = this;
    if (at < this.#length) {
      const byte = bytes[at] ?? 0;
      if (byte < 0x80) {
        this.at = at + 1;
        this.#high = 0;
        return byte;
      }
    }
    return this.#longVarint();
  }

  /** An int32 or an enum: negative ones come in ten bytes. */
  int32(): number {
    return this.uint32() | 0;
  }

  bool(): boolean {
    const low = this.uint32();
    return low !== 0 || this.#high !== 0;
  }

  /** Exact up to 2^53. */
  int64(): number {
    const low = this.uint32();
    return (this.#high | 0) * 0x1_0000_0000 + low;
  }

  /** Exact up to 2^53. */
  uint64(): number {
    const low = this.uint32();
    return this.#high * 0x1_0000_0000 + low;
  }

  double(): number {
    const at = this.at;
    this.#advance(8);
    return this.bytes.readDoubleLE(at);
  }

  /** Begins a length-delimited value: where it ends. */
  enter(): number {
    const length = this.uint32();
    if (this.#high !== 0 || length > this.#length - this.at) throw new WireError('length beyond the end');
    return this.at + length;
  }

  /** Ends a message that {@link enter} began: its fields must fill it. */
  leave(end: number): void {
    if (this.at !== end) throw new WireError('field beyond the end of its message');
  }

  /** A bytes field: a view. */
  view(): Buffer {
    const end = this.enter();
    const { at } = this;
    this.at = end;
    return this.bytes.subarray(at, end);
  }

  /** A string field. Protobuf takes valid UTF-8 only. */
  string(): string {
    const end = this.enter();
    const { at } = this;
    this.at = end;
    return toText(this.bytes, at, end);
  }

  /** Passes over the value of a field that is not read. */
  skip(tag: number, depth = 0): void {
    switch (tag & 7) {
      case WireType.VARINT:
        this.uint32();
        return;
      case WireType.FIXED64:
        this.#advance(8);
        return;
      case WireType.BYTES:
        this.at = this.enter();
        return;
      case WireType.FIXED32:
        this.#advance(4);
        return;
      case WireType.START_GROUP: {
        if (depth >= depthMax) throw new WireError('nested too deeply');
        for (;;) {
          const inner = this.tag();
          if ((inner & 7) === WireType.END_GROUP) {
            if (inner >>> 3 !== tag >>> 3) throw new WireError('end of another group');
            return;
          }
          this.skip(inner, depth + 1);
        }
      }
      default:
        throw new WireError(`wire type ${tag & 7}`);
    }
  }

  /** The upper 32 bits of the last varint. */
  #high = 0;

  #advance(bytes: number): void {
    if (bytes > this.#length - this.at) throw new WireError('value beyond the end');
    this.at += bytes;
  }

  #longVarint(): number {
    const { bytes } = this;
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.at >= this.#length) throw new WireError('varint beyond the end');
      const byte = bytes[this.at] ?? 0;
      this.at += 1;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else if (shift < 63) high |= bits << (shift - 32);
      // The tenth byte has room for one bit.
      else high |= (bits & 1) << 31;
      if (byte < 0x80) {
        this.#high = high >>> 0;
        return low >>> 0;
      }
    }
    throw new WireError('varint of more than ten bytes');
  }
}

/** Text of these bytes; throws where they are no UTF-8. */
export function toText(bytes: Buffer, at: number, end: number): string {
  for (let i = at; i < end; i += 1) {
    if ((bytes[i] ?? 0) < 0x80) continue;
    if (!isUtf8(bytes.subarray(at, end))) throw new WireError('string that is no UTF-8');
    return bytes.toString('utf8', at, end);
  }
  return bytes.toString('latin1', at, end);
}
