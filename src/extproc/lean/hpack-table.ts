import { type HeaderField, toField } from './header-field.ts';
import { defaultHeaderTableBytes } from './protocol.ts';

/** The fields that every table begins with, from index 1 (RFC 7541, appendix A). */
const staticFields: readonly HeaderField[] = (
  [
    [':authority', ''],
    [':method', 'GET'],
    [':method', 'POST'],
    [':path', '/'],
    [':path', '/index.html'],
    [':scheme', 'http'],
    [':scheme', 'https'],
    ...['200', '204', '206', '304', '400', '404', '500'].map((status) => [':status', status]),
    ['accept-charset', ''],
    ['accept-encoding', 'gzip, deflate'],
    ...[
      'accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control content-disposition content-encoding',
      'content-language content-length content-location content-range content-type cookie date etag expect expires from host if-match',
      'if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate',
      'proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via',
      'www-authenticate',
    ].flatMap((names) => names.split(' ').map((name) => [name, ''])),
  ] as [string, string][]
).map(([name, value]) => toField(name, value));

const staticCount = staticFields.length;

/** Largest dynamic table taken, in bytes: we announce no other. */
const tableBytesMax = defaultHeaderTableBytes;

/** As many fields as fit, since each counts for 32 bytes at least. */
const slots = tableBytesMax / 32;

/** Static and dynamic table of one connection (RFC 7541, section 2.3), a ring of fields. */
export class HpackTable {
  readonly #ring: (HeaderField | undefined)[] = new Array<HeaderField | undefined>(slots).fill(undefined);
  /** Where the next field goes; the newest is before it. */
  #next = 0;
  #count = 0;
  #bytes = 0;
  #bytesMax = tableBytesMax;

  /** The field at an index from 1; undefined: there is none. */
  at(index: number): HeaderField | undefined {
    if (index <= staticCount) return staticFields[index - 1];
    const age = index - staticCount;
    if (age > this.#count) return undefined;
    return this.#ring[(this.#next - age + slots) % slots];
  }

  /** Adds a field as the newest. One that is larger than the table empties it (RFC 7541, section 4.4). */
  add(field: HeaderField): void {
    this.#bytes += field.bytes;
    this.#evict();
    if (field.bytes > this.#bytesMax) {
      this.#bytes = 0;
      return;
    }
    this.#ring[this.#next] = field;
    this.#next = (this.#next + 1) % slots;
    this.#count += 1;
  }

  /** Changes the limit; false: it is larger than what we allow. */
  resize(bytesMax: number): boolean {
    if (bytesMax > tableBytesMax) return false;
    this.#bytesMax = bytesMax;
    this.#evict();
    return true;
  }

  /** Drops the oldest fields until what is counted fits, or nothing is left. */
  #evict(): void {
    while (this.#bytes > this.#bytesMax && this.#count > 0) {
      const oldest = (this.#next - this.#count + slots) % slots;
      this.#bytes -= this.#ring[oldest]?.bytes ?? 0;
      this.#ring[oldest] = undefined;
      this.#count -= 1;
    }
  }
}
