import type { Socket } from 'node:net';
import { status as grpcStatus } from '@grpc/grpc-js';
import { ChurnMap } from '../../core/churn-map.ts';
import type { SpareBuffers } from '../spare-buffers.ts';
import type { Method } from '../grpc-call.ts';
import { isGrpc } from '../grpc-status.ts';
import type { ConnectionLimits, ResetLimit } from '../grpc-transport.ts';
import { type Rate, RateGuard, unansweredResetRate } from '../rate-guard.ts';
import type { BatchReader, StreamPeer } from '../stream.ts';
import { fieldsTooLargeBlock, notAllowedBlock, toTrailersOnlyBlock, unsupportedTypeBlock } from './answer-headers.ts';
import { Call, type CallCarrier, streamWindowBytes } from './call.ts';
import { ConnectionClock } from './connection-clock.ts';
import { FrameReader, type FrameSink } from './frame-reader.ts';
import { FrameWriter } from './frame-writer.ts';
import { HeaderBlock } from './header-block.ts';
import { HpackDecoder } from './hpack-decoder.ts';
import { ConnectionError, defaultWindowBytes, ErrorCode, Flag, FrameType, int31Max, Setting } from './protocol.ts';
import { headerListBytesMax, RequestHead } from './request-head.ts';
import { Sender } from './sender.ts';
import { applySettings } from './settings.ts';

/** Bytes that a client may send on all its streams ahead of us: with HTTP/2's 64 KiB, all would share what one large body takes. */
const windowBytes = 16_777_216;
const windowUpdateBytes = windowBytes / 2;

/** Streams that a client may have open: far more than an Envoy worker has, and not without end. */
const streamsMax = 65_536;

/** While the socket has so much that it could not send, in bytes, nothing is read: answers to pings need no window. */
const unsentBytesMax = 1_048_576;

/**
 * Frames that bring nothing: pings, settings, empty DATA, priorities, unknown ones, streams that break the protocol. A client has a use for
 * a few; more are an attack (CVE-2019-9512, -9515, -9518).
 */
const idleFrameRate: Rate = { burst: 10_000, perSecond: 1_000 };
/** What settings, and streams that have to be reset, weigh among them: they cost more. */
const heavyFrameWeight = 10;
/** Windows opened by less than this, in bytes, make a client's answers into many small frames (CVE-2019-9511), and count as such a frame. */
const usefulWindowBytesMin = 256;

/** How long a client that was asked to leave has to hear of it before its new calls are ignored, in ms. */
const noticeMsMax = 1_000;
/** How long a connection that is over may take to send the rest, in ms. */
const lingerMs = 2_000;

const keepalivePing = Buffer.from('alive?\0\0', 'latin1');
const noticePing = Buffer.from('leaving\0', 'latin1');

/** What all connections of a server share. */
export interface ConnectionSettings {
  readonly methods: ReadonlyMap<string, Method<unknown, unknown>>;
  readonly messageBytesMax: number;
  readonly buffers: SpareBuffers;
  readonly limits: ConnectionLimits;
  readonly resetLimit: ResetLimit;
  /** Told of a bug of ours, which ended one connection. */
  readonly onError: (error: unknown) => void;
}

/** One client's connection, server side (RFC 9113): its frames, its calls, and how it ends. */
export class Connection implements FrameSink, CallCarrier {
  readonly #socket: Socket;
  readonly #settings: ConnectionSettings;
  readonly #clock: ConnectionClock;
  readonly #reader = new FrameReader(this);
  readonly #decoder = new HpackDecoder();
  readonly #head = new RequestHead();
  readonly #block = new HeaderBlock();
  readonly sender: Sender;
  readonly messageBytesMax: number;
  readonly buffers: SpareBuffers;
  /** What its streams find out about the client, for one another. */
  readonly peer: StreamPeer = { honoursOverrides: false };

  #calls = new ChurnMap<number, Call<unknown, unknown>>();
  /** Highest stream that the client opened. */
  #lastStreamId = 0;
  /** Last stream that is taken, once it was announced: later ones are ignored. */
  #finalStreamId = int31Max;
  /** Stream that was last told that nothing more is wanted. */
  #lateStreamId = 0;

  /** What the client may still send, in bytes. */
  #receiveBytes = windowBytes;
  /** What of the window was used and not opened again. */
  #usedBytes = 0;
  /** The DATA frame that is being read: its call, what was not accounted for yet, and its flags. */
  #dataCall: Call<unknown, unknown> | undefined;
  #dataBytes = 0;
  #dataEnds = false;
  #hasData = false;

  #resetGuard: RateGuard | undefined;
  #idleGuard: RateGuard | undefined;
  /** The client has acknowledged our settings: it answers. */
  #isHeard = false;
  #isLeaving = false;
  #hasNotice = false;
  #isReading = false;
  /** Told when the chunk was read that is being read. */
  #batchReaders: BatchReader[] = [];
  #isFlushScheduled = false;
  /** Nothing is read any more. */
  #isOver = false;

  /** `socket`: connected, and secured. What it reads has to be given to {@link take}. */
  constructor(socket: Socket, settings: ConnectionSettings) {
    this.#socket = socket;
    this.#settings = settings;
    this.messageBytesMax = settings.messageBytesMax;
    this.buffers = settings.buffers;
    this.sender = new Sender(new FrameWriter(socket, settings.buffers), () => this.#scheduleFlush());
    this.#clock = new ConnectionClock(settings.limits, {
      ping: () => this.#ping(),
      leave: () => this.leave(),
      close: () => this.#close(ErrorCode.NO_ERROR),
    });
    const { writer } = this.sender;
    writer.settings([
      [Setting.MAX_CONCURRENT_STREAMS, streamsMax],
      [Setting.INITIAL_WINDOW_SIZE, streamWindowBytes],
      [Setting.MAX_HEADER_LIST_SIZE, headerListBytesMax],
    ]);
    writer.windowUpdate(0, windowBytes - defaultWindowBytes);
    this.#scheduleFlush();
    socket.on('drain', () => this.#takeDrain());
    socket.on('end', () => socket.destroy());
    socket.on('close', () => this.#takeClosed());
  }

  /**
   * Asks the client to go elsewhere, and closes when its calls have ended. First it is only told, and all its streams are still taken; when it must have
   * heard that, it is told which was the last, so that it may repeat later ones elsewhere (RFC 9113, section 6.8). A client that never
   * answered anything is told the last at once.
   */
  leave(): void {
    if (this.#isLeaving || this.#isOver) return;
    this.#isLeaving = true;
    if (!this.#isHeard) {
      this.#leaveNow();
      return;
    }
    this.#hasNotice = true;
    const { writer } = this.sender;
    writer.goAway(int31Max, ErrorCode.NO_ERROR);
    writer.ping(noticePing);
    this.#scheduleFlush();
    this.#clock.after(noticeMsMax, () => this.#leaveNow());
  }

  /** Ends all now. */
  destroy(): void {
    this.#close(ErrorCode.CANCEL);
  }

  forget(streamId: number): void {
    this.#calls.delete(streamId);
    this.#closeIfDone();
  }

  release(bytes: number): void {
    this.#usedBytes += bytes;
    if (this.#usedBytes < windowUpdateBytes) return;
    this.sender.writer.windowUpdate(0, this.#usedBytes);
    this.#receiveBytes += this.#usedBytes;
    this.#usedBytes = 0;
    this.#scheduleFlush();
  }

  onceRead(reader: BatchReader): void {
    this.#batchReaders.push(reader);
    this.#scheduleFlush();
  }

  onFrame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (this.#isOver) return;
    // A header block is not interrupted (section 4.3).
    if (this.#block.streamId !== 0 && (type !== FrameType.CONTINUATION || streamId !== this.#block.streamId)) throw violation('frame within a header block');
    switch (type) {
      case FrameType.HEADERS:
        this.#onHeaders(flags, streamId, bytes, start, end);
        return;
      case FrameType.RST_STREAM:
        this.#onReset(streamId, end - start);
        return;
      case FrameType.WINDOW_UPDATE:
        this.#onWindowUpdate(streamId, bytes, start, end);
        return;
      case FrameType.CONTINUATION:
        if (this.#block.streamId === 0) throw violation('CONTINUATION of nothing');
        this.#block.add(bytes, start, end);
        if ((flags & Flag.END_HEADERS) !== 0) {
          const { endsStream } = this.#block;
          const block = this.#block.finish();
          this.#onHeaderBlock(streamId, endsStream, block, 0, block.length);
        }
        return;
      case FrameType.SETTINGS:
        this.#onSettings(flags, streamId, bytes, start, end);
        return;
      case FrameType.PING:
        this.#onPing(flags, streamId, bytes, start, end);
        return;
      case FrameType.GOAWAY:
        // It opens no more streams, or will soon be gone; we open none.
        if (streamId !== 0) throw violation('GOAWAY on a stream');
        if (end - start < 8) throw badSize('GOAWAY');
        this.#countIdle(1);
        return;
      case FrameType.PUSH_PROMISE:
        throw violation('PUSH_PROMISE of a client');
      case FrameType.PRIORITY:
        if (streamId === 0) throw violation('PRIORITY of no stream');
        if (end - start !== 5) throw badSize('PRIORITY');
        this.#countIdle(1);
        return;
      default:
        // Unknown frames are ignored (section 5.5).
        this.#countIdle(1);
    }
  }

  onDataFrame(flags: number, streamId: number, length: number): void {
    this.#dataCall = undefined;
    this.#dataBytes = length;
    this.#dataEnds = (flags & Flag.END_STREAM) !== 0;
    if (this.#isOver) return;
    if (this.#block.streamId !== 0) throw violation('frame within a header block');
    this.#receiveBytes -= length;
    if (this.#receiveBytes < 0) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'DATA beyond the window of the connection');
    this.#hasData = false;
    const call = this.#calls.get(streamId);
    if (call === undefined) this.#onLateData(streamId);
    else if (call.isHalfClosed) this.#resetStream(streamId, ErrorCode.STREAM_CLOSED);
    else if (!call.admit(length)) this.#resetStream(streamId, ErrorCode.FLOW_CONTROL_ERROR);
    else this.#dataCall = call;
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#hasData = true;
    const call = this.#dataCall;
    if (call === undefined) return;
    const done = call.take(bytes, start, end);
    // What the call holds it releases later; what is left at the frame's end was padding, or of no call.
    this.#dataBytes -= end - start;
    this.release(done);
  }

  onDataFrameEnd(): void {
    if (!this.#hasData && !this.#dataEnds && !this.#isOver) this.#countIdle(1);
    const call = this.#dataCall;
    this.#dataCall = undefined;
    if (this.#dataBytes > 0) {
      this.release(this.#dataBytes);
      call?.use(this.#dataBytes);
    }
    if (this.#dataEnds) call?.takeEnd();
  }

  /** DATA of a stream that was forgotten. A client that goes on sending is told that nothing more is wanted; what was answered counts (section 8.1). */
  #onLateData(streamId: number): void {
    if (isUnopened(streamId, this.#lastStreamId)) throw violation('DATA of a stream that was not opened');
    if (this.#dataEnds || this.#dataBytes === 0 || streamId > this.#finalStreamId || streamId === this.#lateStreamId) return;
    this.#lateStreamId = streamId;
    this.sender.writer.reset(streamId, ErrorCode.NO_ERROR);
    this.#scheduleFlush();
  }

  #onHeaders(flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (streamId === 0) throw violation('HEADERS of no stream');
    let from = start;
    let to = end;
    if ((flags & (Flag.PADDED | Flag.PRIORITY)) !== 0) {
      if ((flags & Flag.PADDED) !== 0) {
        if (from === to) throw badSize('HEADERS');
        to -= bytes[from] as number;
        from += 1;
      }
      // Priorities mean nothing any more (section 5.3.2).
      if ((flags & Flag.PRIORITY) !== 0) from += 5;
      if (from > to) throw violation('more padding than frame');
    }
    const endsStream = (flags & Flag.END_STREAM) !== 0;
    if ((flags & Flag.END_HEADERS) !== 0) this.#onHeaderBlock(streamId, endsStream, bytes, from, to);
    else this.#block.begin(streamId, endsStream, bytes, from, to);
  }

  #onHeaderBlock(streamId: number, endsStream: boolean, bytes: Buffer, start: number, end: number): void {
    const head = this.#head;
    head.begin();
    // Each block has to be decoded, wanted or not: the next ones build on it.
    this.#decoder.decode(bytes, start, end, head);
    if (streamId <= this.#lastStreamId) {
      this.#onTrailers(streamId, endsStream);
      return;
    }
    if (streamId % 2 === 0) throw violation('stream of a server');
    this.#lastStreamId = streamId;
    if (streamId > this.#finalStreamId) return;
    if (head.isTooLarge) this.#refuse(streamId, fieldsTooLargeBlock);
    else if (!head.isRequest) this.#resetStream(streamId, ErrorCode.PROTOCOL_ERROR);
    else if (!isGrpc(head.contentType)) this.#refuse(streamId, unsupportedTypeBlock);
    else if (head.method !== 'POST') this.#refuse(streamId, notAllowedBlock);
    else this.#open(streamId, endsStream);
  }

  #open(streamId: number, endsStream: boolean): void {
    const { path, encoding } = this.#head;
    const method = this.#settings.methods.get(path);
    if (method === undefined) {
      this.#refuse(streamId, toTrailersOnlyBlock(grpcStatus.UNIMPLEMENTED, `unknown method ${path}`));
      return;
    }
    if (this.#calls.size >= streamsMax) {
      this.#resetStream(streamId, ErrorCode.REFUSED_STREAM);
      return;
    }
    const call = new Call(streamId, this, method, encoding);
    this.#calls.set(streamId, call);
    call.open();
    if (endsStream) call.takeEnd();
  }

  /** Answers a stream by its end, and forgets it. */
  #refuse(streamId: number, block: Buffer): void {
    this.sender.writer.lastHeaders(streamId, block);
    this.#scheduleFlush();
  }

  /** Further headers of a stream end it (section 8.1). A stream that was forgotten may still send them. */
  #onTrailers(streamId: number, endsStream: boolean): void {
    const call = this.#calls.get(streamId);
    if (call === undefined) {
      if (!endsStream || isUnopened(streamId, this.#lastStreamId)) throw new ConnectionError(ErrorCode.STREAM_CLOSED, 'HEADERS of a closed stream');
      return;
    }
    if (call.isHalfClosed) this.#resetStream(streamId, ErrorCode.STREAM_CLOSED);
    else if (!endsStream || !this.#head.isTrailers || this.#head.isTooLarge) this.#resetStream(streamId, ErrorCode.PROTOCOL_ERROR);
    else call.takeEnd();
  }

  #onReset(streamId: number, length: number): void {
    if (length !== 4) throw badSize('RST_STREAM');
    if (isUnopened(streamId, this.#lastStreamId)) throw violation('RST_STREAM of a stream that was not opened');
    const call = this.#calls.get(streamId);
    if (call === undefined) return;
    this.#calls.delete(streamId);
    const wasAnswered = call.isAnswered;
    call.takeGone();
    this.#closeIfDone();
    if (wasAnswered || this.#settings.resetLimit !== 'guard') return;
    const nowMs = performance.now();
    this.#resetGuard ??= new RateGuard(unansweredResetRate, nowMs);
    if (!this.#resetGuard.admits(nowMs)) throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, 'too many calls reset without an answer');
  }

  #onWindowUpdate(streamId: number, bytes: Buffer, start: number, end: number): void {
    if (end - start !== 4) throw badSize('WINDOW_UPDATE');
    const increment = bytes.readUInt32BE(start) & int31Max;
    if (increment < usefulWindowBytesMin) this.#countIdle(1);
    if (streamId === 0) {
      if (increment === 0) throw violation('WINDOW_UPDATE of nothing');
      if (!this.sender.grant(increment)) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'window too large');
      return;
    }
    if (isUnopened(streamId, this.#lastStreamId)) throw violation('WINDOW_UPDATE of a stream that was not opened');
    const call = this.#calls.get(streamId);
    if (call === undefined) return;
    if (increment === 0) this.#resetStream(streamId, ErrorCode.PROTOCOL_ERROR);
    else if (!call.grant(increment)) this.#resetStream(streamId, ErrorCode.FLOW_CONTROL_ERROR);
  }

  #onSettings(flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (streamId !== 0) throw violation('SETTINGS of a stream');
    if ((flags & Flag.ACK) !== 0) {
      if (end !== start) throw badSize('SETTINGS');
      this.#isHeard = true;
      this.#countIdle(1);
      return;
    }
    this.#clock.began();
    this.#countIdle(heavyFrameWeight);
    const before = this.sender.initialWindowBytes;
    applySettings(this.sender, bytes, start, end);
    if (this.sender.initialWindowBytes > before) {
      for (const call of this.#calls.values()) {
        if (!call.checkWindow()) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'window too large');
        call.resumeSending();
      }
    }
    this.sender.writer.settingsAck();
    this.#scheduleFlush();
  }

  #onPing(flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (streamId !== 0) throw violation('PING of a stream');
    if (end - start !== 8) throw badSize('PING');
    this.#countIdle(1);
    if ((flags & Flag.ACK) === 0) {
      this.sender.writer.pingAck(bytes, start);
      this.#scheduleFlush();
    } else if (keepalivePing.compare(bytes, start, end) === 0) {
      this.#clock.pong();
    } else if (this.#hasNotice && noticePing.compare(bytes, start, end) === 0) {
      this.#leaveNow();
    }
  }

  #resetStream(streamId: number, code: ErrorCode): void {
    this.#countIdle(heavyFrameWeight);
    this.sender.writer.reset(streamId, code);
    this.#scheduleFlush();
    const call = this.#calls.get(streamId);
    if (call === undefined) return;
    this.#calls.delete(streamId);
    call.takeGone();
    this.#closeIfDone();
  }

  #countIdle(weight: number): void {
    const nowMs = performance.now();
    this.#idleGuard ??= new RateGuard(idleFrameRate, nowMs);
    if (!this.#idleGuard.admits(nowMs, weight)) throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, 'too many frames that bring nothing');
  }

  /** Bytes of the client's, in their order. They may change once this has returned. */
  take(chunk: Buffer): void {
    if (this.#isOver) return;
    this.#isReading = true;
    try {
      this.#reader.take(chunk);
      this.#tellBatchReaders();
    } catch (error) {
      if (error instanceof ConnectionError) {
        this.#close(error.code);
      } else {
        // A bug of ours: it ends this connection, not all of them.
        this.#close(ErrorCode.INTERNAL_ERROR);
        this.#settings.onError(error);
      }
    } finally {
      this.#isReading = false;
    }
    this.#flush();
    if (this.#socket.writableLength > unsentBytesMax) this.#socket.pause();
  }

  #takeDrain(): void {
    this.#flush();
    if (this.#socket.isPaused()) this.#socket.resume();
  }

  /** While a chunk is read, all it brings is sent at its end; else in the next turn. */
  #scheduleFlush(): void {
    if (this.#isReading || this.#isFlushScheduled) return;
    this.#isFlushScheduled = true;
    process.nextTick(flushLater, this);
  }

  flushScheduled(): void {
    this.#isFlushScheduled = false;
    this.#tellBatchReaders();
    this.#flush();
  }

  #flush(): void {
    this.sender.flush();
  }

  #tellBatchReaders(): void {
    if (this.#batchReaders.length === 0) return;
    const readers = this.#batchReaders;
    this.#batchReaders = [];
    for (const reader of readers) reader.onRead();
  }

  #ping(): void {
    this.sender.writer.ping(keepalivePing);
    this.#scheduleFlush();
  }

  #leaveNow(): void {
    if (this.#isOver || this.#finalStreamId !== int31Max) return;
    this.#hasNotice = false;
    this.#finalStreamId = this.#lastStreamId;
    this.sender.writer.goAway(this.#finalStreamId, ErrorCode.NO_ERROR);
    this.#scheduleFlush();
    this.#closeIfDone();
  }

  #closeIfDone(): void {
    if (this.#finalStreamId !== int31Max && this.#calls.size === 0 && !this.#isOver) this.#end();
  }

  /** Ends the connection with all that is on it, and says why. */
  #close(code: ErrorCode): void {
    if (this.#isOver) return;
    this.sender.writer.goAway(Math.min(this.#lastStreamId, this.#finalStreamId), code);
    this.#end();
  }

  /** Sends the rest and closes. What still comes is read and dropped meanwhile: closing with unread bytes would take back what was sent. */
  #end(): void {
    this.#isOver = true;
    this.#clock.stop();
    this.#cancelCalls();
    process.nextTick(endSocket, this.sender, this.#socket);
    this.#clock.after(lingerMs, () => this.#socket.destroy());
  }

  #takeClosed(): void {
    this.#isOver = true;
    this.#clock.stop();
    this.#cancelCalls();
  }

  #cancelCalls(): void {
    const calls = this.#calls.values();
    this.#calls = new ChurnMap();
    for (const call of calls) call.takeGone();
  }
}

/** Whether a stream was not opened by now: higher ones are to come, and ours, the even ones, never are. */
function isUnopened(streamId: number, lastStreamId: number): boolean {
  return streamId > lastStreamId || streamId % 2 === 0;
}

function violation(what: string): ConnectionError {
  return new ConnectionError(ErrorCode.PROTOCOL_ERROR, what);
}

function badSize(what: string): ConnectionError {
  return new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, `${what} of a wrong size`);
}

function flushLater(connection: Connection): void {
  connection.flushScheduled();
}

function endSocket(sender: Sender, socket: Socket): void {
  sender.flush();
  socket.resume();
  socket.end();
}
