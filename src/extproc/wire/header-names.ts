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

  /** The name in these bytes; throws a WireError where they are no UTF-8. */
  read(bytes: Buffer, at: number, end: number): string {
    const length = end - at;
    if (length === 0 || length > bytesMax) return toText(bytes, at, end);
    const middle = bytes[at + (length >>> 1)] ?? 0;
    const mixed = ((bytes[at] ?? 0) * 31 + middle * 97 + (bytes[end - 1] ?? 0) * 193 + (bytes[at + (length >>> 2)] ?? 0) * 389 + length * 769) >>> 0;
    const slot = mixed & (slots - 1);
    const known = this.#names[slot] ?? '';
    if (known.length === length && isAt(known, bytes, at)) return known;
    const name = toText(bytes, at, end);
    this.#names[slot] = name;
    return name;
  }
}

/** A name with other characters than ASCII is longer in bytes, or differs in the first of them. */
function isAt(name: string, bytes: Buffer, at: number): boolean {
  for (let i = 0; i < name.length; i += 1) if (name.charCodeAt(i) !== bytes[at + i]) return false;
  return true;
}
