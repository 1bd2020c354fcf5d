import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream, type ServerStreamResponseOptions } from 'node:http2';
import { status as grpcStatus } from '@grpc/grpc-js';
import { Deframer, prefixBytes } from '../deframer.ts';
import type { GrpcCall, Method } from '../grpc-call.ts';
import { toCallFault, toMessageText } from '../grpc-status.ts';
import type { CallListener } from '../grpc-transport.ts';
import type { StreamPeer } from '../stream.ts';

/** What all calls of a server share. */
export interface CallSettings {
  readonly messageBytesMax: number;
  /** Told of each call that its client reset before anything was answered; undefined: of none. */
  readonly onUnansweredReset: ((stream: ServerHttp2Stream) => void) | undefined;
}

/** Node takes a list of names and values, which spares it an object, since 24.7. */
const takesHeaderList = ((): boolean => {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  return major > 24 || (major === 24 && minor >= 7);
})();

// Names and values are not changed by Node, so one list serves all answers.
const answerHeaders = [':status', '200', 'content-type', 'application/grpc'];
const respondHeaders = (takesHeaderList ? answerHeaders : { ':status': 200, 'content-type': 'application/grpc' }) as OutgoingHttpHeaders;
// Node's types lack `sendDate`.
const respondOptions: ServerStreamResponseOptions & { sendDate: false } = { waitForTrailers: true, sendDate: false };
const trailersOnlyOptions: ServerStreamResponseOptions & { sendDate: false } = { endStream: true, sendDate: false };
const okTrailers: OutgoingHttpHeaders = { 'grpc-status': '0' };

/** The call that a stream carries: listeners are shared by all streams and find it here. */
const callOf = Symbol('call');
type CarryingStream = ServerHttp2Stream & { [callOf]: Http2Call<unknown, unknown> };

/** One gRPC call on an HTTP/2 stream. */
export class Http2Call<Request, Response> implements GrpcCall<Response> {
  readonly #stream: ServerHttp2Stream;
  readonly #method: Method<Request, Response>;
  readonly #deframer: Deframer;
  /** `grpc-encoding` of the request: the compression of messages whose flag says so. */
  readonly #encoding: string | undefined;
  readonly #onUnansweredReset: CallSettings['onUnansweredReset'];
  readonly peer: StreamPeer | undefined;
  /** Something was to be sent when the stream was gone. */
  #isDropped = false;
  #listener: CallListener<Request> | undefined;
  /** We ended the call, or it is gone. */
  #isOver = false;
  #trailers: OutgoingHttpHeaders = okTrailers;
  /** The response was begun. */
  #isAnswered = false;
  /** Its trailers were given out. */
  #hasSentAll = false;
  #isClosing = false;

  private constructor(stream: ServerHttp2Stream, method: Method<Request, Response>, encoding: string | undefined, settings: CallSettings, peer?: StreamPeer) {
    this.#stream = stream;
    this.peer = peer;
    this.#method = method;
    this.#encoding = encoding;
    this.#deframer = new Deframer(settings.messageBytesMax);
    this.#onUnansweredReset = settings.onUnansweredReset;
  }

  /** Begins a call on a stream that asks for this method. */
  static start<Request, Response>(
    stream: ServerHttp2Stream,
    method: Method<Request, Response>,
    encoding: string | undefined,
    settings: CallSettings,
    peer?: StreamPeer,
  ): Http2Call<Request, Response> {
    const call = new Http2Call(stream, method, encoding, settings, peer);
    (stream as CarryingStream)[callOf] = call;
    call.#listener = method.open(call);
    stream.on('data', onData);
    stream.on('end', onEnd);
    stream.on('aborted', onAborted);
    stream.on('wantTrailers', onWantTrailers);
    stream.on('close', onClose);
    return call;
  }

  /** Something was not sent, or waits to be: for room in a window, or for Node to get to it. */
  get isUnheard(): boolean {
    return this.#isDropped || this.#stream.writableLength > 0;
  }

  send(response: Response): void {
    const stream = this.#stream;
    if (this.#isOver || stream.destroyed || stream.closed) {
      this.#isDropped = true;
      return;
    }
    const { head, tail } = this.#method.encode(response);
    head[0] = 0;
    head.writeUInt32BE(head.length - prefixBytes + (tail?.length ?? 0), 1);
    if (!this.#isAnswered) {
      this.#isAnswered = true;
      stream.respond(respondHeaders, respondOptions);
    }
    let hasRoom: boolean;
    if (tail === undefined) {
      hasRoom = stream.write(head);
    } else {
      stream.cork();
      stream.write(head);
      hasRoom = stream.write(tail);
      stream.uncork();
    }
    // A full send buffer stops the reading, so that a client that does not take answers cannot fill our memory.
    if (!hasRoom && !stream.isPaused()) {
      stream.pause();
      stream.once('drain', onDrain);
    }
  }

  end(): void {
    this.endWith(grpcStatus.OK, '');
  }

  fail(code: 'invalid-argument' | 'internal', message: string): void {
    this.endWith(code === 'internal' ? grpcStatus.INTERNAL : grpcStatus.INVALID_ARGUMENT, message);
  }

  /** Ends the call with any gRPC status. */
  endWith(code: grpcStatus, message: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    if (code !== grpcStatus.OK) this.#trailers = toTrailers(code, message);
    if (this.#isAnswered) {
      stream.end();
    } else {
      this.#isAnswered = true;
      respondTrailersOnly(stream, this.#trailers);
      this.#hasSentAll = true;
    }
    // What still comes is passed over.
    if (stream.isPaused()) stream.resume();
  }

  take(chunk: Buffer): void {
    if (this.#isOver) {
      // A reset without an error: what was answered counts, and nothing more is wanted (RFC 9113, 8.1).
      if (this.#hasSentAll) this.#closeSoon();
      return;
    }
    const deframer = this.#deframer;
    deframer.push(chunk);
    for (;;) {
      const bytes = deframer.next();
      if (bytes === undefined) break;
      let message: Request;
      try {
        message = this.#method.decode(bytes);
      } catch (error) {
        this.#break(grpcStatus.INTERNAL, `request that cannot be decoded: ${error instanceof Error ? error.message : String(error)}`);
        return;
      }
      this.#listener?.onMessage(message);
      if (this.#hasEnded()) return;
    }
    if (deframer.error !== undefined) {
      const { code, text } = toCallFault(deframer.error, this.#encoding);
      this.#break(code, text);
    }
  }

  takeEnd(): void {
    if (this.#isOver) return;
    if (this.#deframer.isMidMessage) this.#break(grpcStatus.INTERNAL, 'request that ends within a message');
    else this.#listener?.onEnd();
  }

  /** The client reset the stream, or its connection broke. */
  takeReset(): void {
    const stream = this.#stream;
    if (!this.#isAnswered) this.#onUnansweredReset?.(stream);
    this.takeGone();
    // After a reset without an error Node waits until all was read and written, which never happens where either had stopped.
    if (stream.rstCode === constants.NGHTTP2_NO_ERROR) process.nextTick(destroyStream, stream);
  }

  /** The stream is gone, whoever ended it. */
  takeGone(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#listener?.onCancelled();
  }

  takeWantTrailers(): void {
    this.#stream.sendTrailers(this.#trailers);
    this.#hasSentAll = true;
  }

  resume(): void {
    if (!this.#stream.destroyed) this.#stream.resume();
  }

  /** A method, since the compiler would not expect a call in between to have changed it. */
  #hasEnded(): boolean {
    return this.#isOver;
  }

  /** Once only, and when the trailers are on their way: Node sends them in the next turn. */
  #closeSoon(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    setImmediate(closeQuietly, this.#stream);
  }

  /** Ends the call for a fault of the client's, which the listener sees as its end. */
  #break(code: grpcStatus, message: string): void {
    this.endWith(code, message);
    this.#listener?.onCancelled();
  }
}

/** Answers with nothing but the end. */
export function respondTrailersOnly(stream: ServerHttp2Stream, trailers: OutgoingHttpHeaders): void {
  stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...trailers }, trailersOnlyOptions);
}

/** Status and message. */
export function toTrailers(code: grpcStatus, message: string): OutgoingHttpHeaders {
  return message === '' ? { 'grpc-status': String(code) } : { 'grpc-status': String(code), 'grpc-message': toMessageText(message) };
}

function onData(this: ServerHttp2Stream, chunk: Buffer): void {
  (this as CarryingStream)[callOf].take(chunk);
}

function onEnd(this: ServerHttp2Stream): void {
  (this as CarryingStream)[callOf].takeEnd();
}

function onAborted(this: ServerHttp2Stream): void {
  (this as CarryingStream)[callOf].takeReset();
}

function onClose(this: ServerHttp2Stream): void {
  (this as CarryingStream)[callOf].takeGone();
}

function onWantTrailers(this: ServerHttp2Stream): void {
  (this as CarryingStream)[callOf].takeWantTrailers();
}

function onDrain(this: ServerHttp2Stream): void {
  (this as CarryingStream)[callOf].resume();
}

function destroyStream(stream: ServerHttp2Stream): void {
  stream.destroy();
}

/** Closes what was answered, in the next turn: Node sends the answer first. */
export function closeQuietly(stream: ServerHttp2Stream): void {
  setImmediate(() => {
    if (!stream.destroyed && !stream.closed) stream.close(constants.NGHTTP2_NO_ERROR);
  });
}
