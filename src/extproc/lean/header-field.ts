/** What a header field means to a gRPC server. */
export const FieldKind = { OTHER: 0, METHOD: 1, PATH: 2, SCHEME: 3, AUTHORITY: 4, CONTENT_TYPE: 5, GRPC_ENCODING: 6, TE: 7, FORBIDDEN: 8 } as const;

export type FieldKind = (typeof FieldKind)[keyof typeof FieldKind];

/** One header field, as HPACK's tables hold it. */
export interface HeaderField {
  readonly name: string;
  readonly value: string;
  /** What its name says. */
  readonly nameKind: FieldKind;
  /** What name and value say: FORBIDDEN where the value makes a request malformed. */
  readonly kind: FieldKind;
  /** Size by which tables and lists of fields are limited: its bytes and 32 more (RFC 7541, section 4.1). */
  readonly bytes: number;
}

const named = new Map<string, FieldKind>([
  [':method', FieldKind.METHOD],
  [':path', FieldKind.PATH],
  [':scheme', FieldKind.SCHEME],
  [':authority', FieldKind.AUTHORITY],
  ['content-type', FieldKind.CONTENT_TYPE],
  ['grpc-encoding', FieldKind.GRPC_ENCODING],
  ['te', FieldKind.TE],
  // Fields of one HTTP/1.1 connection mean nothing here (RFC 9113, section 8.2.2).
  ...['connection', 'proxy-connection', 'keep-alive', 'transfer-encoding', 'upgrade'].map((name): [string, FieldKind] => [name, FieldKind.FORBIDDEN]),
]);

/** Whether a name is one: of HTTP's token characters, in lower case (RFC 9113, section 8.2.1). Other pseudo-header fields than those named above are none. */
const isName = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
/** Values without line breaks and zeros, nor blanks at either end (same section). */
const isBadValue = /[\0\r\n]|^[ \t]|[ \t]$/;

/** Makes a field from text in Latin-1: each character is a byte. */
export function toField(name: string, value: string): HeaderField {
  return toFieldOf(name, named.get(name) ?? (isName.test(name) ? FieldKind.OTHER : FieldKind.FORBIDDEN), value);
}

/** Makes a field whose name is known. */
export function toFieldOf(name: string, nameKind: FieldKind, value: string): HeaderField {
  const isBad = isBadValue.test(value) || (nameKind === FieldKind.TE && value !== 'trailers') || (nameKind === FieldKind.PATH && value === '');
  return { name, value, nameKind, kind: isBad ? FieldKind.FORBIDDEN : nameKind, bytes: name.length + value.length + 32 };
}
