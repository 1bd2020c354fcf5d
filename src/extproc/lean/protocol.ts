// The numbers of HTTP/2 (RFC 9113, sections 6, 7 and 11), and what its violations are thrown as.

/** Types of frames (section 6). */
export const FrameType = {
  DATA: 0,
  HEADERS: 1,
  PRIORITY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PUSH_PROMISE: 5,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;

/** Flags of frames; ACK and END_STREAM share a bit. */
export const Flag = { END_STREAM: 0x1, ACK: 0x1, END_HEADERS: 0x4, PADDED: 0x8, PRIORITY: 0x20 } as const;

/** Parameters of SETTINGS (section 6.5.2). */
export const Setting = {
  HEADER_TABLE_SIZE: 1,
  ENABLE_PUSH: 2,
  MAX_CONCURRENT_STREAMS: 3,
  INITIAL_WINDOW_SIZE: 4,
  MAX_FRAME_SIZE: 5,
  MAX_HEADER_LIST_SIZE: 6,
} as const;

/** Codes of RST_STREAM and GOAWAY (section 7). */
export const ErrorCode = {
  NO_ERROR: 0,
  PROTOCOL_ERROR: 1,
  INTERNAL_ERROR: 2,
  FLOW_CONTROL_ERROR: 3,
  STREAM_CLOSED: 5,
  FRAME_SIZE_ERROR: 6,
  REFUSED_STREAM: 7,
  CANCEL: 8,
  COMPRESSION_ERROR: 9,
  ENHANCE_YOUR_CALM: 11,
} as const;

export type ErrorCode = (typeof ErrorCode)[keyof typeof ErrorCode];

/** What a client begins with, before its first SETTINGS (section 3.4). */
export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

/** Bytes of a frame before its payload: length, type, flags, stream (section 4.1). */
export const frameHeadBytes = 9;

/** Largest payload that everybody takes, and that we take (section 4.2). */
export const defaultFrameBytesMax = 16_384;

/** Largest payload that a setting may allow. */
export const settableFrameBytesMax = 16_777_215;

/** Dynamic tables of header compression begin with it, in bytes (section 6.5.2). */
export const defaultHeaderTableBytes = 4_096;

/** Windows begin with it (section 6.9.2). */
export const defaultWindowBytes = 65_535;

/** Largest window, and last of all streams. */
export const int31Max = 0x7fff_ffff;

/** A client broke the protocol in a way that ends its connection (section 5.4.1). Thrown while its bytes are read, and nowhere else. */
export class ConnectionError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
