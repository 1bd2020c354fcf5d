import { status as grpcStatus } from '@grpc/grpc-js';
import type { SpareBuffers } from '../spare-buffers.ts';
import { Deframer, prefixBytes } from '../deframer.ts';
import type { GrpcCall, Method } from '../grpc-call.ts';
import { toCallFault } from '../grpc-status.ts';
import type { CallListener } from '../grpc-transport.ts';
import type { BatchReader, StreamPeer } from '../stream.ts';
import { toTrailersBlock, toTrailersOnlyBlock } from './answer-headers.ts';
import { int31Max } from './protocol.ts';
import type { Sender, WaitingCall } from './sender.ts';

/** Bytes that a client may send on a stream ahead of us. Bodies come whole or in large pieces: with HTTP/2's 64 KiB, one of 220 KB would wait for each. */
export const streamWindowBytes = 1_048_576;
/** The window is opened again when this much of it was used: short calls never get there. */
const windowUpdateBytes = streamWindowBytes / 2;
/** A call with so much to send is not read on, in bytes, */
const queuedBytesMax = 65_536;
/** until no more than this is left. */
const resumedBytesMax = 16_384;

/** The connection of a call, as the call sees it. */
export interface CallCarrier {
  readonly sender: Sender;
  readonly peer: StreamPeer;
  readonly messageBytesMax: number;
  readonly buffers: SpareBuffers;
  /** The call has sent its end, and needs nothing any more. */
  forget(streamId: number): void;
  /** So many bytes of DATA are no longer kept. */
  release(bytes: number): void;
  /** As in `ProcessCall`. */
  onceRead(reader: BatchReader): void;
}

/** One gRPC call on a stream of HTTP/2. */
export class Call<Request, Response> implements GrpcCall<Response>, WaitingCall {
  readonly #streamId: number;
  readonly #carrier: CallCarrier;
  readonly #method: Method<Request, Response>;
  /** `grpc-encoding` of the request: the compression of messages whose flag says so. */
  readonly #encoding: string | undefined;
  #listener: CallListener<Request> | undefined;

  /** The client sends no more. */
  #isHalfClosed = false;
  /** We ended the call, or it is gone. */
  #isOver = false;
  /** The stream is gone: nothing is sent any more. */
  #isGone = false;
  /** The response was begun. */
  #isAnswered = false;
  /** Something was to be sent when the stream was gone. */
  #isDropped = false;

  /** Only for messages that span pieces. */
  #deframer: Deframer | undefined;
  /** What the client may still send, in bytes. */
  #receiveBytes = streamWindowBytes;
  /** What of the window was used and not opened again. */
  #usedBytes = 0;
  /** What came while the call is not read on. */
  #held: Buffer | undefined;
  #heldStart = 0;
  #heldEnd = 0;

  /** What the client takes beyond the window that each stream begins with; sending lowers it below 0. */
  #sendBytes = 0;
  /** Answers that wait. */
  #queue: Buffer[] | undefined;
  /** Bytes of the first of them that were sent. */
  #queueStart = 0;
  #queuedBytes = 0;
  /** What follows the answers; undefined: the call goes on. */
  #trailers: Buffer | 'ok' | undefined;
  /** Where the answers end among the connection's bytes. */
  #position = 0;

  constructor(streamId: number, carrier: CallCarrier, method: Method<Request, Response>, encoding: string | undefined) {
    this.#streamId = streamId;
    this.#carrier = carrier;
    this.#method = method;
    this.#encoding = encoding;
  }

  /** Opens the call at its service. Once, and before anything else. */
  open(): void {
    this.#listener = this.#method.open(this);
  }

  get peer(): StreamPeer {
    return this.#carrier.peer;
  }

  /** Something was not sent, or waits to be: for room in a window or in the socket. */
  get isUnheard(): boolean {
    return this.#isDropped || this.#queuedBytes > 0 || this.#position > this.#carrier.sender.writer.sentPosition;
  }

  /** The response was begun. */
  get isAnswered(): boolean {
    return this.#isAnswered;
  }

  get isHalfClosed(): boolean {
    return this.#isHalfClosed;
  }

  onceRead(reader: BatchReader): void {
    this.#carrier.onceRead(reader);
  }

  send(response: Response): void {
    if (this.#isOver) {
      this.#isDropped = true;
      return;
    }
    const { head, tail } = this.#method.encode(response);
    const bytes = head.length + (tail === undefined ? 0 : tail.length);
    const length = bytes - prefixBytes;
    head[0] = 0;
    head[1] = length >>> 24;
    head[2] = length >>> 16;
    head[3] = length >>> 8;
    head[4] = length;
    const { sender } = this.#carrier;
    const { writer } = sender;
    if (!this.#isAnswered) {
      this.#isAnswered = true;
      writer.answerHeaders(this.#streamId);
    }
    if (this.#queuedBytes === 0 && sender.admits(bytes, this.#sendBytes)) {
      this.#sendBytes -= bytes;
      sender.count(bytes);
      writer.dataHead(this.#streamId, bytes);
      writer.bytes(head, 0, head.length);
      if (tail !== undefined) writer.bytes(tail, 0, tail.length);
      this.#position = writer.position;
      sender.touch();
      return;
    }
    this.#queue ??= [];
    this.#queue.push(head);
    // It may lie in what is being read, and that does not wait.
    if (tail !== undefined) this.#queue.push(Buffer.from(tail));
    this.#queuedBytes += bytes;
    sender.add(this);
  }

  end(): void {
    if (this.#isOver) return;
    if (!this.#isAnswered) {
      this.endWith(grpcStatus.OK, '');
      return;
    }
    this.#isOver = true;
    this.#trailers = 'ok';
    this.#finishIfSent();
  }

  fail(code: 'invalid-argument' | 'internal', message: string): void {
    this.endWith(code === 'internal' ? grpcStatus.INTERNAL : grpcStatus.INVALID_ARGUMENT, message);
  }

  endWith(code: grpcStatus, message: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#trailers = this.#isAnswered ? toTrailersBlock(code, message) : toTrailersOnlyBlock(code, message);
    this.#isAnswered = true;
    this.#finishIfSent();
  }

  takeTurn(bytesMax: number): number {
    const bytes = Math.min(bytesMax, this.#queuedBytes, this.#carrier.sender.initialWindowBytes + this.#sendBytes);
    // A window that became smaller can be below 0 (RFC 9113, section 6.9.2).
    if (bytes <= 0) return 0;
    const { sender } = this.#carrier;
    const { writer } = sender;
    const queue = this.#queue ?? [];
    writer.dataHead(this.#streamId, bytes);
    let left = bytes;
    let sent = 0;
    while (left > 0) {
      const first = queue[sent] as Buffer;
      const taken = Math.min(left, first.length - this.#queueStart);
      writer.bytes(first, this.#queueStart, this.#queueStart + taken);
      left -= taken;
      this.#queueStart += taken;
      if (this.#queueStart === first.length) {
        sent += 1;
        this.#queueStart = 0;
      }
    }
    if (sent > 0) queue.splice(0, sent);
    this.#queuedBytes -= bytes;
    this.#sendBytes -= bytes;
    this.#position = writer.position;
    if (this.#queuedBytes > 0) sender.add(this);
    else this.#finishIfSent();
    if (this.#held !== undefined && this.#queuedBytes <= resumedBytesMax) this.#readHeld(this.#held);
    return bytes;
  }

  /** The client takes more; false: more than there can be (RFC 9113, section 6.9.1). */
  grant(bytes: number): boolean {
    const { sender } = this.#carrier;
    if (sender.initialWindowBytes + this.#sendBytes + bytes > int31Max) return false;
    this.#sendBytes += bytes;
    this.resumeSending();
    return true;
  }

  /** The window that all streams begin with changed; false: as in {@link grant}. */
  checkWindow(): boolean {
    return this.#carrier.sender.initialWindowBytes + this.#sendBytes <= int31Max;
  }

  /** The window may have room again. */
  resumeSending(): void {
    if (this.#queuedBytes > 0) this.#carrier.sender.add(this);
  }

  /** A DATA frame begins; false: it is beyond the window. */
  admit(bytes: number): boolean {
    this.#receiveBytes -= bytes;
    return this.#receiveBytes >= 0;
  }

  /** Bytes of a DATA frame, which may change afterwards. Returns how many are done with; the carrier is told when the rest is. */
  take(bytes: Buffer, start: number, end: number): number {
    const at = this.#held === undefined ? this.#read(bytes, start, end) : start;
    if (at < end) this.#hold(bytes, at, end);
    if (at > start) this.use(at - start);
    return at - start;
  }

  /** Bytes of DATA frames are done with, also where they were padding: the window is opened again in large steps. */
  use(bytes: number): void {
    this.#usedBytes += bytes;
    if (this.#usedBytes < windowUpdateBytes || this.#isHalfClosed || this.#isOver) return;
    const { sender } = this.#carrier;
    sender.writer.windowUpdate(this.#streamId, this.#usedBytes);
    sender.touch();
    this.#receiveBytes += this.#usedBytes;
    this.#usedBytes = 0;
  }

  /** The client sends no more. */
  takeEnd(): void {
    this.#isHalfClosed = true;
    if (this.#held === undefined) this.#readEnd();
  }

  /** The stream is gone: it was reset, or its connection broke. */
  takeGone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    if (this.#queuedBytes > 0) {
      this.#isDropped = true;
      this.#carrier.sender.remove(this);
      this.#queue = undefined;
      this.#queuedBytes = 0;
    }
    this.#dropHeld();
    if (this.#isOver) return;
    this.#isOver = true;
    this.#listener?.onCancelled();
  }

  /**
   * Reads messages: those that lie whole in these bytes where they are, others put together. Returns where it stopped, which is before the end
   * where the client has to read our answers first.
   */
  #read(bytes: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end && !this.#isOver) {
      if (this.#queuedBytes > queuedBytesMax) return at;
      if (end - at >= prefixBytes && bytes[at] === 0 && this.#deframer?.isMidMessage !== true) {
        const length = bytes.readUInt32BE(at + 1);
        const next = at + prefixBytes + length;
        if (next <= end && length <= this.#carrier.messageBytesMax) {
          this.#pass(bytes.subarray(at + prefixBytes, next));
          at = next;
          continue;
        }
      }
      const deframer = (this.#deframer ??= new Deframer(this.#carrier.messageBytesMax, this.#carrier.buffers));
      deframer.push(bytes.subarray(at, end));
      const message = deframer.next();
      at = end - deframer.unreadBytes;
      if (message !== undefined) {
        this.#pass(message);
        deframer.giveBack();
      } else if (deframer.error !== undefined) {
        const { code, text } = toCallFault(deframer.error, this.#encoding);
        this.#break(code, text);
      }
    }
    // What comes after the end is passed over.
    return end;
  }

  /** Passes on one message. The call may end over it. */
  #pass(bytes: Buffer): void {
    let message: Request;
    try {
      message = this.#method.decode(bytes);
    } catch (error) {
      this.#break(grpcStatus.INTERNAL, `request that cannot be decoded: ${error instanceof Error ? error.message : String(error)}`);
      return;
    }
    this.#listener?.onMessage(message);
  }

  #readEnd(): void {
    if (this.#isOver) return;
    if (this.#deframer?.isMidMessage === true) this.#break(grpcStatus.INTERNAL, 'request that ends within a message');
    else this.#listener?.onEnd();
  }

  /** Keeps bytes for later, by copying them: small pieces would otherwise keep the large chunks in which they came. */
  #hold(bytes: Buffer, start: number, end: number): void {
    let held = this.#held ?? none;
    const kept = this.#heldEnd - this.#heldStart;
    if (this.#heldEnd + end - start > held.length) {
      const needed = kept + end - start;
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, Math.min(2 * needed, streamWindowBytes)));
      held.copy(larger, 0, this.#heldStart, this.#heldEnd);
      held = larger;
      this.#heldStart = 0;
      this.#heldEnd = kept;
    }
    this.#heldEnd += bytes.copy(held, this.#heldEnd, start, end);
    this.#held = held;
  }

  #readHeld(held: Buffer): void {
    const start = this.#heldStart;
    const at = this.#read(held, start, this.#heldEnd);
    // The end of the call has dropped the rest, and all of it.
    if (this.#isHoldingNothing()) return;
    this.#heldStart = at;
    const isDone = at === this.#heldEnd;
    if (isDone) this.#forgetHeld();
    this.use(at - start);
    this.#carrier.release(at - start);
    if (isDone && this.#isHalfClosed) this.#readEnd();
  }

  /** A method, since the compiler would not expect a call in between to have changed it. */
  #isHoldingNothing(): boolean {
    return this.#held === undefined;
  }

  #dropHeld(): void {
    if (this.#held === undefined) return;
    this.#carrier.release(this.#heldEnd - this.#heldStart);
    this.#forgetHeld();
  }

  #forgetHeld(): void {
    this.#held = undefined;
    this.#heldStart = 0;
    this.#heldEnd = 0;
  }

  /** Ends the call for a fault of the client's, which the listener sees as its end. */
  #break(code: grpcStatus, message: string): void {
    this.endWith(code, message);
    this.#listener?.onCancelled();
  }

  /** Sends the trailers, if all answers went out. */
  #finishIfSent(): void {
    // What came before the end is not read any more.
    if (this.#isOver) this.#dropHeld();
    if (this.#trailers === undefined || this.#queuedBytes > 0 || this.#isGone) return;
    this.#isGone = true;
    const { sender } = this.#carrier;
    if (this.#trailers === 'ok') sender.writer.okTrailers(this.#streamId);
    else sender.writer.lastHeaders(this.#streamId, this.#trailers);
    this.#position = sender.writer.position;
    sender.touch();
    this.#carrier.forget(this.#streamId);
  }
}

const none = Buffer.alloc(0);
