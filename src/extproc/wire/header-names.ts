import { toText } from './reader.ts';

/** Longest name kept, in bytes. */
const bytesMax = 48;
const slots = 1_024;

/**
 * Names of headers, by their bytes: the same few come with every request, and comparing bytes is cheaper than making a string. A slot keeps
 * the last name that fell on it, so that whatever clients send, it neither grows nor stays full of what comes no more.
 */
export class HeaderNames {
  readonly #names = new Array<string>(slots).fill('');
  /** Their bytes, and how many: to look into strings one by one is slow where strings of many kinds come along. */
  readonly #bytes = new Uint8Array(slots * bytesMax);
  readonly #lengths = new Uint8Array(slots);

  /** The name in these bytes; throws a WireError where they are no UTF-8. */
  read(bytes: Buffer, at: number, end: number): string {
    const length = end - at;
    if (length === 0 || length > bytesMax) return toText(bytes, at, end);
    const middle = bytes[at + (length >>> 1)] ?? 0;
    const mixed = ((bytes[at] ?? 0) * 31 + middle * 97 + (bytes[end - 1] ?? 0) * 193 + (bytes[at + (length >>> 2)] ?? 0) * 389 + length * 769) >>> 0;
    const slot = mixed & (slots - 1);
    if (this.#lengths[slot] === length && this.#isAt(slot * bytesMax, length, bytes, at)) return this.#names[slot] ?? '';
    const name = toText(bytes, at, end);
    this.#names[slot] = name;
    this.#lengths[slot] = length;
    this.#bytes.set(bytes.subarray(at, end), slot * bytesMax);
    return name;
  }

  #isAt(knownAt: number, length: number, bytes: Buffer, at: number): boolean {
    const known = this.#bytes;
    for (let i = 0; i < length; i += 1) if (known[knownAt + i] !== bytes[at + i]) return false;
    return true;
  }
}
