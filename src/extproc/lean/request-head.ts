import { FieldKind, type HeaderField } from './header-field.ts';

/** Largest list of header fields taken, in bytes as RFC 7541, section 4.1, counts them. Announced to clients. */
export const headerListBytesMax = 65_536;

/** What a gRPC server needs of the fields that a stream begins or ends with. One serves a whole connection, block after block. */
export class RequestHead {
  method = '';
  path = '';
  contentType: string | undefined;
  encoding: string | undefined;
  #bytes = 0;
  /** Pseudo-header fields seen, a bit for each kind. */
  #pseudo = 0;
  #hasRegular = false;
  #isMalformed = false;

  /** Forgets the last block. */
  begin(): void {
    this.method = '';
    this.path = '';
    this.contentType = undefined;
    this.encoding = undefined;
    this.#bytes = 0;
    this.#pseudo = 0;
    this.#hasRegular = false;
    this.#isMalformed = false;
  }

  add(field: HeaderField): void {
    this.#bytes += field.bytes;
    const { kind } = field;
    if (kind === FieldKind.OTHER) {
      this.#hasRegular = true;
      return;
    }
    switch (kind) {
      case FieldKind.METHOD:
        this.method = field.value;
        break;
      case FieldKind.PATH:
        this.path = field.value;
        break;
      case FieldKind.SCHEME:
      case FieldKind.AUTHORITY:
        break;
      case FieldKind.CONTENT_TYPE:
        this.contentType ??= field.value;
        this.#hasRegular = true;
        return;
      case FieldKind.GRPC_ENCODING:
        this.encoding ??= field.value;
        this.#hasRegular = true;
        return;
      case FieldKind.TE:
        this.#hasRegular = true;
        return;
      case FieldKind.FORBIDDEN:
        this.#isMalformed = true;
        return;
    }
    // Pseudo-header fields come before all others, each once (RFC 9113, section 8.3).
    const bit = 1 << kind;
    if (this.#hasRegular || (this.#pseudo & bit) !== 0) this.#isMalformed = true;
    this.#pseudo |= bit;
  }

  get isTooLarge(): boolean {
    return this.#bytes > headerListBytesMax;
  }

  /** Whether this can begin a request: `:method`, `:scheme` and `:path` are there (RFC 9113, section 8.3.1). No CONNECT: it has no path. */
  get isRequest(): boolean {
    return !this.#isMalformed && (this.#pseudo & required) === required;
  }

  /** Whether this can end one: there are no pseudo-header fields (section 8.1). */
  get isTrailers(): boolean {
    return !this.#isMalformed && this.#pseudo === 0;
  }
}

const required = (1 << FieldKind.METHOD) | (1 << FieldKind.SCHEME) | (1 << FieldKind.PATH);
