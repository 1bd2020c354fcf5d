import { type HeaderField, toField, toFieldOf } from './header-field.ts';
import { HpackTable } from './hpack-table.ts';
import { decodeHuffman } from './huffman.ts';
import { ConnectionError, ErrorCode } from './protocol.ts';

/** Takes the fields of a block, one after another. */
export interface FieldSink {
  add(field: HeaderField): void;
}

/** Integers have four bytes after their prefix at most: enough for any length or index here, and far from overflowing. */
const shiftMax = 21;

/**
 * Decodes the header blocks of one connection, in the order in which they come (RFC 7541). Fields that are in a table are handed on as they
 * are, so that a block which repeats what was sent before makes nothing. Throws a ConnectionError for what is no block: what comes after
 * it cannot be decoded either.
 */
export class HpackDecoder {
  readonly #table = new HpackTable();
  #bytes: Buffer = none;
  #at = 0;
  #end = 0;

  decode(bytes: Buffer, start: number, end: number, sink: FieldSink): void {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
    this.#readSizes();
    while (this.#at < end) {
      const byte = bytes[this.#at] as number;
      if (byte >= 0x80) {
        // Indexed (section 6.1).
        if (byte !== 0xff) this.#at += 1;
        sink.add(this.#fieldAt(byte === 0xff ? this.#integer(0x7f) : byte & 0x7f));
      } else if (byte >= 0x40) {
        // Literal, to be added to the table (section 6.2.1).
        const field = this.#literal(0x3f);
        this.#table.add(field);
        sink.add(field);
      } else if (byte < 0x20) {
        // Literal, not to be added, or never (sections 6.2.2 and 6.2.3).
        sink.add(this.#literal(0x0f));
      } else {
        throw broken('change of the table size within a block');
      }
    }
    this.#bytes = none;
  }

  /** Changes of the table's size, which may stand at the beginning of a block (section 6.3). Two say all that can be said (section 4.2). */
  #readSizes(): void {
    for (let count = 0; this.#at < this.#end && ((this.#bytes[this.#at] as number) & 0xe0) === 0x20; count += 1) {
      if (count === 2) throw broken('table size changed more than twice');
      if (!this.#table.resize(this.#integer(0x1f))) throw broken('table size above the limit');
    }
  }

  #fieldAt(index: number): HeaderField {
    const field = this.#table.at(index);
    if (field === undefined) throw broken('index of no field');
    return field;
  }

  #literal(mask: number): HeaderField {
    const index = this.#integer(mask);
    if (index === 0) return toField(this.#string(), this.#string());
    const { name, nameKind } = this.#fieldAt(index);
    return toFieldOf(name, nameKind, this.#string());
  }

  /** An integer whose prefix is the bits of `mask` (section 5.1). */
  #integer(mask: number): number {
    if (this.#at >= this.#end) throw broken('integer beyond the end');
    let value = (this.#bytes[this.#at++] as number) & mask;
    if (value < mask) return value;
    for (let shift = 0; shift <= shiftMax; shift += 7) {
      if (this.#at >= this.#end) throw broken('integer beyond the end');
      const byte = this.#bytes[this.#at++] as number;
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw broken('integer too large');
  }

  /** A string, in Latin-1 (section 5.2). */
  #string(): string {
    const isHuffman = this.#at < this.#end && (this.#bytes[this.#at] as number) >= 0x80;
    const length = this.#integer(0x7f);
    if (length > this.#end - this.#at) throw broken('string beyond the end');
    const start = this.#at;
    this.#at += length;
    if (!isHuffman) return this.#bytes.toString('latin1', start, this.#at);
    const text = decodeHuffman(this.#bytes, start, this.#at);
    if (text === undefined) throw broken('no Huffman code');
    return text;
  }
}

function broken(what: string): ConnectionError {
  return new ConnectionError(ErrorCode.COMPRESSION_ERROR, what);
}

const none = Buffer.alloc(0);
