import type { Socket } from 'node:net';
import type { SpareBuffers } from '../spare-buffers.ts';
import { answerBlock, okTrailersBlock } from './answer-headers.ts';
import { type ErrorCode, Flag, frameHeadBytes, FrameType, type Setting } from './protocol.ts';

/** What is sent is gathered in pieces of this size, in bytes. */
const gatherBytes = 32_768;
/** A gather buffer with less room is given up while the socket still needs what is in it. */
const roomBytesMin = 2_048;

/** A change of the table's size to 0 (RFC 7541, section 6.3). */
const tableUnused = Buffer.from([0x20]);
const none = Buffer.alloc(0);

/** A frame as it is sent each time, but for its stream. */
function toTemplate(block: Buffer, flags: number): Buffer {
  const head = Buffer.alloc(frameHeadBytes);
  head.writeUIntBE(block.length, 0, 3);
  head[3] = FrameType.HEADERS;
  head[4] = flags;
  return Buffer.concat([head, block]);
}

const answerFrame = toTemplate(answerBlock, Flag.END_HEADERS);
const okTrailersFrame = toTemplate(okTrailersBlock, Flag.END_HEADERS | Flag.END_STREAM);

/**
 * Writes frames to a connection's socket (RFC 9113, section 6). They are gathered until {@link flush} hands all to the socket at once. Everything is
 * copied, large bodies too: they lie in buffers that the next bytes to be read will need.
 */
export class FrameWriter {
  readonly #socket: Socket;
  /** Pieces that the system has taken go back there. */
  readonly #buffers: SpareBuffers;
  #gather: Buffer;
  /** What is gathered and in no part yet: from here, */
  #from = 0;
  /** to here. */
  #at = 0;
  /** What comes before it. */
  #parts: Buffer[] = [];
  #partsBytes = 0;
  /** Gather buffers that are full, with what was not flushed yet. */
  #full: Buffer[] = [];
  #handedBytes = 0;
  #owesTableSize = false;

  constructor(socket: Socket, buffers: SpareBuffers) {
    this.#socket = socket;
    this.#buffers = buffers;
    this.#gather = buffers.lend(gatherBytes);
  }

  /** Where the next byte goes, counted from the connection's beginning. */
  get position(): number {
    return this.#handedBytes + this.#partsBytes + this.#at - this.#from;
  }

  /** Where the bytes end that have left this process. */
  get sentPosition(): number {
    return this.#handedBytes - this.#socket.writableLength;
  }

  /** Bytes that are still in this process. */
  get unsentBytes(): number {
    return this.position - this.sentPosition;
  }

  /**
   * The client has made its header table smaller: the next header block has to begin by saying that we use none, or it would not be taken
   * (RFC 9113, section 4.3.1). Once is enough.
   */
  sayTableIsUnused(): void {
    this.#owesTableSize = true;
  }

  /** The beginning of an answer. */
  answerHeaders(streamId: number): void {
    this.#template(answerFrame, streamId);
  }

  /** The end of an answer with status OK. */
  okTrailers(streamId: number): void {
    this.#template(okTrailersFrame, streamId);
  }

  /** Any header block that ends its stream. It has to fit into a frame. */
  lastHeaders(streamId: number, block: Buffer): void {
    this.#headers(block, 0, Flag.END_HEADERS | Flag.END_STREAM, streamId);
  }

  /** The beginning of a DATA frame; its `length` bytes have to follow by {@link bytes}. */
  dataHead(streamId: number, length: number): void {
    this.#head(length, FrameType.DATA, 0, streamId);
  }

  /** Bytes of a frame. */
  bytes(source: Buffer, start: number, end: number): void {
    let from = start;
    for (;;) {
      const taken = Math.min(end - from, this.#gather.length - this.#at);
      source.copy(this.#gather, this.#at, from, from + taken);
      this.#at += taken;
      from += taken;
      if (from === end) return;
      this.#closePart();
      this.#full.push(this.#gather);
      this.#renew();
    }
  }

  reset(streamId: number, code: ErrorCode): void {
    this.#head(4, FrameType.RST_STREAM, 0, streamId);
    this.#uint32(code);
  }

  /** `streamId` 0: of the connection. */
  windowUpdate(streamId: number, bytes: number): void {
    this.#head(4, FrameType.WINDOW_UPDATE, 0, streamId);
    this.#uint32(bytes);
  }

  settings(values: readonly (readonly [(typeof Setting)[keyof typeof Setting], number])[]): void {
    this.#head(6 * values.length, FrameType.SETTINGS, 0, 0);
    this.#reserve(6 * values.length);
    for (const [name, value] of values) {
      this.#at = this.#gather.writeUInt16BE(name, this.#at);
      this.#uint32(value);
    }
  }

  settingsAck(): void {
    this.#head(0, FrameType.SETTINGS, Flag.ACK, 0);
  }

  /** `data`: eight bytes. */
  ping(data: Buffer): void {
    this.#head(8, FrameType.PING, 0, 0);
    this.bytes(data, 0, 8);
  }

  /** Answers a ping, whose eight bytes are at `start`. */
  pingAck(bytes: Buffer, start: number): void {
    this.#head(8, FrameType.PING, Flag.ACK, 0);
    this.bytes(bytes, start, start + 8);
  }

  goAway(lastStreamId: number, code: ErrorCode): void {
    this.#head(8, FrameType.GOAWAY, 0, 0);
    this.#uint32(lastStreamId);
    this.#uint32(code);
  }

  /** Hands all to the socket, in one write. */
  flush(): void {
    const socket = this.#socket;
    this.#handedBytes = this.position;
    if (this.#parts.length === 0) {
      if (this.#at === this.#from) return;
      if (!socket.destroyed) socket.write(this.#gather.subarray(this.#from, this.#at));
    } else {
      this.#closePart();
      const parts = this.#parts;
      this.#parts = [];
      this.#partsBytes = 0;
      if (!socket.destroyed) {
        socket.cork();
        for (const part of parts) socket.write(part);
        socket.uncork();
      }
    }
    if (socket.writableLength === 0) {
      // The system has taken all.
      this.#from = 0;
      this.#at = 0;
      for (const buffer of this.#full) this.#buffers.takeBack(buffer);
    } else {
      this.#from = this.#at;
      if (this.#gather.length - this.#at < roomBytesMin) this.#renew();
    }
    if (this.#full.length > 0) this.#full = [];
  }

  #headers(block: Buffer, start: number, flags: number, streamId: number): void {
    const prefix = this.#owesTableSize ? tableUnused : none;
    this.#owesTableSize = false;
    this.#head(prefix.length + block.length - start, FrameType.HEADERS, flags, streamId);
    this.bytes(prefix, 0, prefix.length);
    this.bytes(block, start, block.length);
  }

  #template(frame: Buffer, streamId: number): void {
    if (this.#owesTableSize) {
      this.#headers(frame, frameHeadBytes, frame[4] ?? 0, streamId);
      return;
    }
    this.#reserve(frame.length);
    const gather = this.#gather;
    const at = this.#at;
    gather.set(frame, at);
    gather[at + 5] = streamId >>> 24;
    gather[at + 6] = streamId >>> 16;
    gather[at + 7] = streamId >>> 8;
    gather[at + 8] = streamId;
    this.#at = at + frame.length;
  }

  #head(length: number, type: number, flags: number, streamId: number): void {
    // With room for the payload of all small frames.
    this.#reserve(frameHeadBytes + 8);
    const gather = this.#gather;
    const at = this.#at;
    gather[at] = length >>> 16;
    gather[at + 1] = length >>> 8;
    gather[at + 2] = length;
    gather[at + 3] = type;
    gather[at + 4] = flags;
    gather[at + 5] = streamId >>> 24;
    gather[at + 6] = streamId >>> 16;
    gather[at + 7] = streamId >>> 8;
    gather[at + 8] = streamId;
    this.#at = at + frameHeadBytes;
  }

  #uint32(value: number): void {
    this.#at = this.#gather.writeUInt32BE(value, this.#at);
  }

  /** Makes a part of what was gathered since the last one. */
  #closePart(): void {
    const { length } = this.#parts;
    if (this.#at === this.#from) return;
    this.#parts[length] = this.#gather.subarray(this.#from, this.#at);
    this.#partsBytes += this.#at - this.#from;
    this.#from = this.#at;
  }

  /** Room for so many bytes in a row: fewer than a gather buffer has. */
  #reserve(bytes: number): void {
    if (this.#gather.length - this.#at >= bytes) return;
    this.#closePart();
    this.#full.push(this.#gather);
    this.#renew();
  }

  #renew(): void {
    this.#gather = this.#buffers.lend(gatherBytes);
    this.#from = 0;
    this.#at = 0;
  }
}
