import { summarize } from '../core/explain.ts';
import type { FactNeed, RequestFacts } from '../core/request-facts.ts';
import type { Clock, Completion, RefusalCode } from '../router/ports.ts';
import type { Routed } from '../router/routed.ts';
import type { Router } from '../router/router.ts';
import type { DecidedPhase, StreamEnding, StreamEvents } from '../router/stream-events.ts';
import { type Refusal, toRefusal } from '../router/refusal.ts';
import { poolsOf, type RoutingTable } from '../router/routing-table.ts';
import { addHeader, type AnswerWriter, setHeader } from './answer.ts';
import { BodyScanner } from './body-scanner.ts';
import { FieldRewriter } from './field-rewriter.ts';
import { readSourceAddress } from './client-address.ts';
import { explainHeader, type ExplainGate } from './explain-gate.ts';
import type { FactReader, HeaderFacts } from './fact-reader.ts';
import {
  BodySendMode,
  HeaderSendMode,
  type HeaderValueOption,
  type HttpBody,
  type HttpHeaders,
  type ProcessingMode,
  type ProcessingRequest,
  type ProcessingResponse,
} from './messages.ts';
import type { IssuedSession, SessionCookies } from './session-cookie.ts';
import { sharedMode } from './shared-modes.ts';
import { readServedEndpoint, readSubsetHint } from './subset-hint.ts';

/** The gRPC call as a stream sees it, whatever server carries it. */
export interface ProcessCall {
  send(response: ProcessingResponse): void;
  /** Ends the call with status OK. */
  end(): void;
  /** Ends the call with a gRPC status other than OK. */
  fail(code: 'invalid-argument' | 'internal', message: string): void;
  /** Whether an answer has not left this process yet, or never will: Envoy cannot have acted on it. Absent: not known. */
  readonly isUnheard?: boolean;
  /** Shared by the streams of one connection; absent: each stands for itself. */
  readonly peer?: StreamPeer | undefined;
  /** Tells, once, when all that came together with the current message was read; answers have not left by then. Absent: nobody knows. */
  onceRead?(reader: BatchReader): void;
}

/** Waits for the end of what came at once. */
export interface BatchReader {
  /** All of it was read. Never throws. */
  onRead(): void;
}

/** What the streams of one connection found out about its Envoy. */
export interface StreamPeer {
  /**
   * It sent what only a `mode_override` can have brought: its filter allows them. Filters that differ in that cannot be told apart, and should
   * not share a connection.
   */
  honoursOverrides: boolean;
}

/** What all streams share. */
export interface StreamContext {
  readonly router: Router;
  readonly reader: FactReader;
  /** The routes that `reader` reads for: a reload may replace the router's while a request is under way. Absent: they never change. */
  readonly table?: RoutingTable | undefined;
  readonly writer: AnswerWriter;
  readonly events: StreamEvents;
  readonly clock: Clock;
  /** Longest that a request is held back for its facts, in ms: FULL_DUPLEX_STREAMED knows no timeout of its own. */
  readonly decideDeadlineMs: number;
  /** Declared length up to which a body is asked for that Envoy would not have sent, in bytes: what Envoy can buffer. */
  readonly askForBodyBytesMax: number;
  /** Which requests have their decision explained in the response; undefined: none. */
  readonly explains?: ExplainGate | undefined;
  /** Gives requests without a session one of their own; undefined: they have none. */
  readonly cookies?: SessionCookies | undefined;
}

/** Whether streams look at attributes, which tell the client's address. */
export function wantsAttributes({ reader, explains }: StreamContext): boolean {
  return reader.wantsClientAddress || explains !== undefined;
}

/** How far the request side has come. */
type RequestState =
  /** Nothing decided, nothing answered. */
  | 'new'
  /** The header answer is held back until the body gave the facts (FULL_DUPLEX_STREAMED, STREAMED without waiting). */
  | 'holding'
  /** The headers were answered, with a provisional decision or none; the final one goes out with the body. */
  | 'awaiting-body'
  /** The request is routed, for good. */
  | 'decided'
  /** The request was answered here. Nothing more is said on this stream. */
  | 'refused'
  /** Envoy only shows what passes (`observability_mode`) and wants no answers. */
  | 'observing';

/** In STREAMED mode Envoy's message timeout runs while headers are held back: stay well below its 200 ms. */
const streamedHoldMs = 100;

/**
 * How long the access log has to tell of a request whose stream ended before what was asked for came, in ms; Envoy's default interval is one
 * second. After that there is no such request: Envoy answered it by itself, without having read the decision.
 */
const unprovenMsMax = 5_000;

/** A message that breaks the protocol: the stream ends with INVALID_ARGUMENT. */
class ProtocolError extends Error {}

/**
 * One ext_proc stream: the phases of one HTTP request come in, answers go out. Decides in the earliest phase that knows
 * enough. Every message gets exactly one answer (in FULL_DUPLEX_STREAMED body pieces are handed back instead; in
 * observability mode there are none), and the call is never ended with OK before the final answer, since Envoy reads that
 * as "go on without me".
 */
export class ProcessStream implements BatchReader {
  readonly #context: StreamContext;
  readonly #call: ProcessCall;
  readonly #onClosed: (() => void) | undefined;
  readonly #peer: StreamPeer;
  readonly #openedMs: number;
  #closed = false;
  #ending: StreamEnding = 'completed';

  #requestMode: number = BodySendMode.NONE;
  #responseMode: number = BodySendMode.NONE;
  #sendsBodyEarly = false;
  /** Whether Envoy can honour a `mode_override` at all. Whether its configuration allows one is not told. */
  #mayOverride = true;
  #first = true;

  #state: RequestState = 'new';
  #headers: HeaderFacts | undefined;
  /** Request headers are not sent to us. */
  #isHeaderless = false;
  #subset: ReadonlySet<string> | undefined;
  /** Where Envoy tells the client's IP address; read when it is asked for. */
  #attributes: ProcessingRequest['attributes'];
  #missing: ReadonlySet<FactNeed> = new Set();
  #scanner: BodyScanner | undefined;
  #bodyBytes = 0;
  /** Body pieces that came while the header answer is held back: copies, but for the last one's, since a message's bytes are soon another's. */
  #held: Buffer[] = [];
  /** No more of the request comes. */
  #requestEnded = false;
  /** The end came with a body piece, not with headers or trailers. */
  #bodySaidEnd = false;
  /** All of the body was seen: where trailers follow, that is before the end of the request. */
  #bodyIsWhole = false;
  #deadline: NodeJS.Timeout | undefined;
  #routed: Routed | undefined;
  /** The headers passed without the decision that stands: it sends the request to another model, and the body comes only if Envoy allows. */
  #isUntold = false;
  /** Changes the body's model as it passes; undefined: the body passes as it is. */
  #rewriter: FieldRewriter | undefined;
  /** A body is still to come, or may be. */
  #bodyComes = false;
  /** Answers kept back; undefined: nothing is waited for. */
  #kept: (() => ProcessingResponse)[] | undefined;

  #awaitsFirstToken = false;
  /** Envoy has not given up before the answer to the body left. */
  #isHeard = false;
  /** Something of the response came. */
  #responseSeen = false;
  #firstTokenSeen = false;
  /** The response's headers were asked for, since some are to be added. */
  #awaitsResponseHeaders = false;
  /** Headers to add to the response; found anew at each decision. */
  #responseHeaders: readonly HeaderValueOption[] = [];
  /** The client asks how the request was decided, and may know. */
  #explains = false;
  /** Session made up for a request that names none; the same for all its decisions. */
  #made: IssuedSession | undefined;
  /** Value of `Set-Cookie` to send with the response. */
  #setCookie: string | undefined;
  #status: number | undefined;
  #servedBy: string | undefined;
  #responseEnded = false;

  /** `onClosed`: called once, when the stream is over, whatever ended it. */
  constructor(context: StreamContext, call: ProcessCall, onClosed?: () => void) {
    this.#context = context;
    this.#call = call;
    this.#onClosed = onClosed;
    this.#peer = call.peer ?? { honoursOverrides: false };
    this.#openedMs = context.clock.nowMs();
    context.events.streamOpened();
  }

  /** Takes one message. Never throws. */
  onMessage(request: ProcessingRequest): void {
    if (this.#closed) return;
    try {
      this.#take(request);
    } catch (error) {
      if (error instanceof ProtocolError) this.#fail('protocol-error', error.message);
      else this.#failInternally(error);
    }
  }

  /** Envoy sends no more: the half-close of a finished exchange. */
  onEnd(): void {
    if (this.#closed) return;
    this.#ending = this.#unfinished() ? 'cancelled' : 'completed';
    this.#catching(() => this.#close());
    this.#call.end();
  }

  /** The call is gone: Envoy reset it (it ends finished exchanges that way too) or the connection broke. */
  onCancelled(): void {
    if (this.#closed) return;
    // A reset that came before Envoy could read what was said last: it gave up waiting (`message_timeout`), or its client did.
    const isUnheard = this.#state !== 'refused' && this.#call.isUnheard === true;
    this.#ending = isUnheard || this.#unfinished() ? 'cancelled' : 'completed';
    this.#catching(() => this.#close());
  }

  /** Whether the exchange stops short: the request side has no final answer, or a response that is sent to us is not through. */
  #unfinished(): boolean {
    if (this.#state === 'refused' || this.#state === 'observing') return false;
    if (this.#kept !== undefined) return true;
    // In NONE mode the body was only asked for: an Envoy that allows no override goes on with the provisional answer.
    if (this.#state === 'awaiting-body') return this.#requestMode !== BodySendMode.NONE || this.#routed === undefined || this.#isUntold;
    if (this.#state !== 'decided') return true;
    return this.#responseMode !== BodySendMode.NONE && !this.#responseEnded;
  }

  #take(request: ProcessingRequest): void {
    if (this.#state === 'refused') return;
    if (this.#first) {
      this.#first = false;
      this.#readConfiguration(request);
    }
    const { events } = this.#context;
    if (this.#state === 'observing') {
      events.message(request.request ?? 'unknown');
    } else if (request.request_headers) {
      events.message('request_headers');
      this.#onRequestHeaders(request.request_headers);
    } else if (request.request_body) {
      events.message('request_body');
      if (this.#requestMode === BodySendMode.NONE) this.#peer.honoursOverrides = true;
      this.#onRequestBody(request.request_body);
    } else if (request.request_trailers) {
      events.message('request_trailers');
      this.#onRequestTrailers();
    } else if (request.response_headers) {
      events.message('response_headers');
      this.#responseSeen = true;
      this.#onResponseHeaders(request.response_headers, request);
    } else if (request.response_body) {
      events.message('response_body');
      this.#responseSeen = true;
      if (this.#awaitsFirstToken) this.#peer.honoursOverrides = true;
      this.#onResponseBody(request.response_body);
    } else if (request.response_trailers) {
      events.message('response_trailers');
      this.#send(() => this.#context.writer.pass('response_trailers'));
      this.#onResponseEnd();
    } else {
      // Newer Envoys send messages of other kinds, such as flow control, that want no answer.
      events.message('unknown');
    }
  }

  /** What holds for the whole stream stands on its first message. */
  #readConfiguration({ protocol_config: configured, metadata_context: metadata, attributes, observability_mode: observes }: ProcessingRequest): void {
    if (observes === true) this.#state = 'observing';
    this.#requestMode = configured?.request_body_mode ?? BodySendMode.NONE;
    this.#responseMode = configured?.response_body_mode ?? BodySendMode.NONE;
    this.#sendsBodyEarly = configured?.send_body_without_waiting_for_header_response === true;
    // Envoy ignores an override where it sends bodies without waiting for answers.
    const duplex = this.#requestMode >= BodySendMode.FULL_DUPLEX_STREAMED || this.#responseMode >= BodySendMode.FULL_DUPLEX_STREAMED;
    this.#mayOverride = !duplex && !this.#sendsBodyEarly;
    this.#subset = readSubsetHint(metadata);
    this.#attributes = attributes;
  }

  // ---- request ----

  /** The client's IP address, where it is a fact of requests; undefined: it is none, or Envoy does not tell it. */
  #readClientAddress(): string | undefined {
    return this.#context.reader.wantsClientAddress ? readSourceAddress(this.#attributes) : undefined;
  }

  #onRequestHeaders(message: HttpHeaders): void {
    if (this.#headers !== undefined || this.#requestEnded) throw new ProtocolError('request headers out of order');
    const { router, reader, table, events, decideDeadlineMs } = this.#context;
    const headers = reader.readHeaders(message.headers, this.#readClientAddress());
    this.#headers = headers;
    const { explains } = this.#context;
    this.#explains = explains?.isAsked(message.headers) === true && explains.opens(message.headers, readSourceAddress(this.#attributes));
    const bodyComes = message.end_of_stream !== true;
    if (!bodyComes) this.#requestEnded = true;
    this.#bodyComes = bodyComes && headers.contentLengthBytes !== 0;

    if (headers.cookie?.kind === 'invalid') events.sessionCookie('invalid');

    this.#missing = router.missingFacts(reader.toSettled(headers), table);
    const inBody = bodyComes && this.#bodyIsWorthIt(headers);
    if (bodyComes && headers.bodyUnusable !== undefined && headers.bodyUnusable !== 'unknown-path') events.bodyUnusable(headers.bodyUnusable);

    if (!inBody) {
      this.#decideOnHeaders('headers');
      return;
    }
    switch (this.#requestMode) {
      case BodySendMode.FULL_DUPLEX_STREAMED:
        this.#hold(decideDeadlineMs);
        return;
      case BodySendMode.STREAMED:
        // Header mutations are possible only now. Where Envoy sends the body without waiting, now can be a little later.
        if (!this.#sendsBodyEarly) break;
        this.#hold(Math.min(streamedHoldMs, decideDeadlineMs));
        return;
      case BodySendMode.BUFFERED:
      case BodySendMode.BUFFERED_PARTIAL:
        this.#startScan(this.#requestMode === BodySendMode.BUFFERED);
        this.#state = 'awaiting-body';
        // Without a declared length there may be no body after all, only trailers, and then no other chance to say it.
        if (headers.contentLengthBytes === undefined) this.#answerProvisionally(this.#requestMode);
        else this.#pass(this.#overrideFor(this.#requestMode));
        return;
      case BodySendMode.NONE:
        if (!this.#mayOverride) break;
        // Whether Envoy allows to ask for the body is not told, so the headers' own decision goes out as well.
        this.#startScan(true);
        this.#state = 'awaiting-body';
        this.#answerProvisionally(BodySendMode.BUFFERED);
        return;
    }
    this.#decideOnHeaders('headers');
  }

  /** Whether the body can give a fact that is missing, at a price that is right. */
  #bodyIsWorthIt(headers: HeaderFacts): boolean {
    // A declared length of 0 can be followed by trailers at once: then no body phase comes that an answer could wait for.
    if (headers.bodyUnusable !== undefined || headers.contentLengthBytes === 0) return false;
    const { reader, askForBodyBytesMax } = this.#context;
    const missing = this.#missing;
    const model = missing.has('model') && reader.needsBody('model', headers);
    const others =
      (missing.has('session') && reader.needsBody('session', headers)) ||
      (missing.has('tenant') && reader.needsBody('tenant', headers)) ||
      missing.has('prefix') ||
      missing.has('stream') ||
      missing.has('maxTokens') ||
      missing.has('measuredPrompt');
    if (!model && !others) return false;
    if (this.#requestMode !== BodySendMode.NONE) return true;
    // A body above what Envoy buffers is a 413, or hangs: it is never asked for. Below that, a large one is worth its way here for
    // the model, without which a request may go wrong, but not for facts that only make the choice better.
    const lengthBytes = headers.contentLengthBytes ?? 0;
    return lengthBytes <= askForBodyBytesMax && (model || lengthBytes <= reader.scanBytesMax);
  }

  #startScan(wholeBodyComes: boolean): void {
    const headers = this.#headers;
    if (headers === undefined || headers.bodyUnusable !== undefined) return;
    // Measuring the prompt takes a scan to the end: only where the end is at hand, since an early answer is worth more.
    const measure = (this.#missing.has('promptTokens') && wholeBodyComes) || this.#missing.has('measuredPrompt');
    // Whether the response's first chunk is worth its way here: see #leaveUnlessStreamed.
    const looksForStream = this.#missing.has('stream') || (wholeBodyComes && this.#mayOverride && this.#observesFirstToken());
    this.#scanner = new BodyScanner(this.#context.reader.planScan(headers, this.#missing, measure, looksForStream));
  }

  #hold(deadlineMs: number): void {
    this.#startScan(false);
    this.#state = 'holding';
    this.#deadline = setTimeout(() => {
      try {
        if (this.#state === 'holding' && !this.#closed) this.#decideOnHeaders('deadline');
      } catch (error) {
        this.#failInternally(error);
      }
    }, deadlineMs);
    this.#deadline.unref();
  }

  #onRequestBody({ body = noBytes, end_of_stream: endOfStream = false }: HttpBody): void {
    if (this.#requestEnded) {
      // Some Envoys send the final piece of a large body twice (envoy#46237): handing it back twice would be an error to them.
      if (this.#requestMode === BodySendMode.FULL_DUPLEX_STREAMED && this.#bodySaidEnd) return;
      throw new ProtocolError('request body after the end of the request');
    }
    this.#bodyBytes += body.length;
    if (endOfStream) {
      this.#requestEnded = true;
      this.#bodySaidEnd = true;
      this.#bodyIsWhole = true;
    }
    if (this.#headers === undefined) this.#withoutHeaders();

    if (this.#requestMode === BodySendMode.FULL_DUPLEX_STREAMED) this.#onDuplexBody(body, endOfStream);
    else if (this.#state === 'awaiting-body') this.#onAwaitedBody(body);
    else this.#onStreamedBody(body, endOfStream);
  }

  /** Request headers are not sent to us: only the body and metadata can speak. */
  #withoutHeaders(): void {
    this.#isHeaderless = true;
    this.#headers = { ...this.#context.reader.readHeaders(undefined, this.#readClientAddress()), bodyUnusable: undefined };
    this.#missing = this.#context.router.missingFacts({ path: '', model: undefined, session: undefined, tenant: undefined }, this.#context.table);
    this.#startScan(this.#requestMode === BodySendMode.BUFFERED);
    this.#state = 'awaiting-body';
  }

  #onDuplexBody(body: Buffer, endOfStream: boolean): void {
    const { writer } = this.#context;
    if (this.#state === 'holding') {
      this.#holdPiece(body, endOfStream);
      return;
    }
    const passing = this.#rewrite(body, endOfStream);
    if (passing === undefined) return;
    // The decision below may keep the answer back.
    const own = this.#state === 'awaiting-body' ? Buffer.from(passing) : this.#toOwn(passing);
    const answers = writer.echo('request_body', own, endOfStream);
    const [first] = answers;
    if (this.#state === 'awaiting-body' && first !== undefined && this.#feed(body, endOfStream)) {
      // No header phase to carry headers: metadata alone tells the choice.
      const routed = this.#decide('body');
      if (routed === undefined) return;
      if (routed.model !== undefined) {
        // What came before has passed already.
        this.#reject(routed, 'rewrite_unsupported', 'body');
        return;
      }
      this.#send(() => writer.withChoice(first, this.#routed ?? routed));
      answers.shift();
    }
    for (const answer of answers) this.#send(() => answer);
  }

  #onAwaitedBody(body: Buffer): void {
    const { writer } = this.#context;
    const mode = this.#requestMode === BodySendMode.NONE ? BodySendMode.BUFFERED : this.#requestMode;
    // BUFFERED sends all of it in one message, which does not say that it is the end where trailers follow. BUFFERED_PARTIAL
    // sends one message too, but does not tell a body cut at Envoy's limit from one with trailers.
    if (mode === BodySendMode.BUFFERED) this.#bodyIsWhole = true;
    const known = this.#feed(body, this.#bodyIsWhole);
    if (mode === BodySendMode.STREAMED && !known) {
      this.#send(() => writer.pass('request_body'));
      return;
    }
    const routed = this.#decide('body');
    if (routed === undefined) return;
    this.#isUntold = false;
    if (routed.model === undefined || body.length === 0) {
      this.#send(() => writer.routedBody(this.#routed ?? routed));
      this.#leaveUnlessStreamed();
      return;
    }
    if (mode === BodySendMode.STREAMED) {
      this.#reject(routed, 'rewrite_unsupported', 'body');
      return;
    }
    const rewritten = new FieldRewriter(this.#context.reader.modelField, routed.model).push(body, true);
    if (rewritten === undefined) {
      const isCut = mode === BodySendMode.BUFFERED_PARTIAL && !this.#bodyIsWhole;
      this.#reject(routed, isCut ? 'rewrite_unsupported' : 'body_not_rewritable', 'body');
      return;
    }
    const declaresLength = mode === BodySendMode.BUFFERED && this.#headers?.contentLengthBytes !== undefined;
    // What was changed is a copy.
    this.#send(() =>
      rewritten === body ? writer.routedBody(this.#routed ?? routed) : writer.routedWithBody(this.#routed ?? routed, rewritten, declaresLength),
    );
    this.#leaveUnlessStreamed();
  }

  /**
   * The response's first chunk was asked for before the body could tell that it will be all of the answer: then it tells no more than the access
   * log does, and need not wait for a word of ours. Once the answer to the body has left, Envoy goes on alone.
   */
  #leaveUnlessStreamed(): void {
    if (!this.#mayLeave()) return;
    if (this.#call.onceRead === undefined) setImmediate(() => this.onRead());
    else this.#call.onceRead(this);
  }

  #mayLeave(): boolean {
    return this.#routed?.streams === false && this.#awaitsFirstToken && this.#responseHeaders.length === 0 && this.#kept === undefined;
  }

  /** Had Envoy given up meanwhile, it would have been read by now. */
  onRead(): void {
    if (this.#closed || this.#responseSeen || !this.#mayLeave()) return;
    this.#isHeard = true;
    this.#catching(() => this.#letGo());
  }

  #onStreamedBody(body: Buffer, endOfStream: boolean): void {
    if (this.#state === 'holding') {
      // Its answer may go out only after that to the headers.
      this.#holdPiece(body, endOfStream);
      return;
    }
    const passing = this.#rewrite(body, endOfStream);
    if (passing !== undefined) this.#passPiece(body, passing);
  }

  #holdPiece(body: Buffer, endOfStream: boolean): void {
    const isEnough = this.#feed(body, endOfStream);
    this.#held.push(isEnough ? body : Buffer.from(body));
    if (isEnough) this.#decideOnHeaders(endOfStream ? 'body' : 'body-early');
  }

  /** Lets a piece go on, as it came or changed; in modes other than FULL_DUPLEX_STREAMED. */
  #passPiece(piece: Buffer, passing: Buffer): void {
    const { writer } = this.#context;
    if (passing === piece) {
      this.#send(() => writer.pass('request_body'));
      return;
    }
    const own = this.#toOwn(passing);
    this.#send(() => writer.replaceBody(own));
  }

  /** Hands a piece back. */
  #echo(phase: 'request_body' | 'response_body', piece: Buffer, endOfStream: boolean): void {
    for (const answer of this.#context.writer.echo(phase, this.#toOwn(piece), endOfStream)) this.#send(() => answer);
  }

  /** Bytes that outlast their message, where what is sent now is kept back. */
  #toOwn(bytes: Buffer): Buffer {
    return this.#kept === undefined ? bytes : Buffer.from(bytes);
  }

  /** A piece of the body as it is to go on. Undefined: the model in it cannot be rewritten, and the request was refused. */
  #rewrite(piece: Buffer, isLast: boolean): Buffer | undefined {
    if (this.#rewriter === undefined || this.#bodyBytes === 0) return piece;
    const passing = this.#rewriter.push(piece, isLast);
    if (passing === undefined && this.#routed !== undefined) this.#reject(this.#routed, 'body_not_rewritable', 'body');
    return passing;
  }

  /** The decision cannot be carried out after all. */
  #reject(routed: Routed, code: RefusalCode, phase: DecidedPhase): void {
    this.#routed = undefined;
    this.#rewriter = undefined;
    this.#refuse(this.#context.router.reject(routed, code), phase);
  }

  #onRequestTrailers(): void {
    const { writer } = this.#context;
    if (this.#requestEnded) throw new ProtocolError('request trailers after the end of the request');
    if (this.#headers === undefined) this.#withoutHeaders();
    this.#requestEnded = true;
    this.#bodyIsWhole = true;
    const answer = writer.pass('request_trailers');
    if (this.#state === 'holding') {
      this.#endScan();
      this.#decideOnHeaders('body');
      if (this.#isRefused()) return;
    } else if (this.#state === 'awaiting-body' && !this.#settleOnHeaders()) {
      this.#endScan();
      const routed = this.#decide('body');
      if (routed === undefined) return;
      // Trailers in place of the body that was declared: the headers have their answer, and the one to trailers cannot carry routing.
      if (!this.#isHeaderless) throw new ProtocolError('request trailers without the declared body');
      this.#send(() => writer.withChoice(answer, this.#routed ?? routed));
      return;
    }
    // They end the body: one that stops short shows only now.
    if (this.#rewrite(noBytes, true) !== undefined) this.#send(() => answer);
  }

  /** No body comes after all: the decision on the headers stands. False: there is none. */
  #settleOnHeaders(): boolean {
    if (this.#routed === undefined || this.#isUntold) return false;
    this.#context.router.confirm(this.#routed.lease);
    this.#answered('headers');
    return true;
  }

  /** Feeds the scanner; true when it has nothing more to tell. */
  #feed(body: Buffer, endOfStream: boolean): boolean {
    if (this.#scanner === undefined) return true;
    let status = this.#scanner.push(body);
    if (endOfStream && status === 'scanning') status = this.#scanner.end();
    return status !== 'scanning';
  }

  /** Trailers ended the body, if one came at all. */
  #endScan(): void {
    if (this.#bodyBytes > 0) this.#scanner?.end();
  }

  /** Decides on what is known and answers the headers, then hands back the body that was held. */
  #decideOnHeaders(phase: DecidedPhase): void {
    const { writer, router, reader } = this.#context;
    const comesInPieces = this.#requestMode === BodySendMode.STREAMED || this.#isDuplex();
    // A decision that has the body changed can be told only with the body, where that comes as a whole and later.
    const mayWait = router.table.rewrites === true && this.#state === 'new' && this.#bodyComes && !comesInPieces;
    const routed = this.#decide(phase, mayWait);
    if (routed === undefined) return;
    const { model } = routed;
    const rewrites = model !== undefined && this.#bodyComes;
    if (rewrites && this.#headers?.bodyUnusable !== undefined) {
      this.#reject(routed, 'body_not_rewritable', phase);
      return;
    }
    if (mayWait) {
      if (rewrites) {
        this.#awaitBodyOf(routed, phase);
        return;
      }
      router.settle(routed);
      this.#awaitPlace(routed);
    }
    if (rewrites) this.#rewriter = new FieldRewriter(reader.modelField, model);

    // A body that would come for nothing is declined.
    const wanted = this.#requestEnded || this.#state === 'holding' || rewrites ? this.#requestMode : BodySendMode.NONE;
    const override = this.#overrideFor(wanted);
    this.#answered(phase);
    this.#send(() => writer.routedHeaders(this.#routed ?? routed, override));
    const held = this.#held;
    this.#held = [];
    for (const [i, piece] of held.entries()) {
      const isLast = this.#bodySaidEnd && i === held.length - 1;
      const passing = this.#rewrite(piece, isLast);
      if (passing === undefined) return;
      if (this.#isDuplex()) this.#echo('request_body', passing, isLast);
      else this.#passPiece(piece, passing);
    }
  }

  /** Lets the headers pass while the body comes in which the decision has the model rewritten. */
  #awaitBodyOf(routed: Routed, phase: DecidedPhase): void {
    const { writer, askForBodyBytesMax } = this.#context;
    const lengthBytes = this.#headers?.contentLengthBytes;
    const mode = this.#requestMode === BodySendMode.NONE ? BodySendMode.BUFFERED : this.#requestMode;
    const mustAsk = this.#requestMode === BodySendMode.NONE;
    if (mode > BodySendMode.BUFFERED_PARTIAL || (mustAsk && (!this.#mayOverride || (lengthBytes ?? 0) > askForBodyBytesMax))) {
      this.#reject(routed, 'rewrite_unsupported', phase);
      return;
    }
    this.#state = 'awaiting-body';
    const override = this.#overrideFor(mode);
    // Where there may be no body after all, the headers are the only chance to say it; but where Envoy may ignore that we ask, it would
    // send the request on with the model that it names.
    this.#isUntold = mustAsk || lengthBytes !== undefined;
    if (this.#isUntold) {
      this.#pass(override);
      return;
    }
    this.#awaitPlace(routed);
    this.#send(() => writer.routedHeaders(this.#routed ?? routed, override));
  }

  /** Answers the headers with the decision that they allow, and asks for the body. */
  #answerProvisionally(askFor: number): void {
    const { router, writer } = this.#context;
    const headers = this.#headers;
    if (headers === undefined) return;
    const override = this.#overrideFor(askFor);
    const outcome = router.route(this.#toFacts(headers, undefined, undefined), { provisional: true, readFor: this.#context.table });
    if (outcome.kind === 'refuse') {
      this.#pass(override);
      return;
    }
    this.#routed = outcome;
    this.#responseHeaders = this.#toResponseHeaders(outcome);
    if (outcome.model !== undefined && this.#requestMode === BodySendMode.NONE) {
      // Envoy may ignore that we ask for the body, and would send the request on with the model that it names.
      this.#isUntold = true;
      this.#pass(override);
      return;
    }
    this.#awaitPlace(outcome);
    this.#send(() => (this.#routed === undefined ? writer.passHeaders(override) : writer.routedHeaders(this.#routed, override)));
  }

  #isDuplex(): boolean {
    return this.#requestMode === BodySendMode.FULL_DUPLEX_STREAMED;
  }

  #pass(override: ProcessingMode | undefined): void {
    this.#send(() => this.#context.writer.passHeaders(override));
  }

  /** Sends an answer, or keeps it back while a place on the chosen endpoint is asked for: the answer may name another then. */
  #send(answer: () => ProcessingResponse): void {
    if (this.#kept === undefined) this.#call.send(answer());
    else this.#kept.push(answer);
  }

  /** An endpoint with an exact limit over all routers was chosen: from here on answers are kept until a place on one was taken. */
  #awaitPlace(routed: Routed): void {
    if (!routed.needsPlace) return;
    this.#kept ??= [];
    this.#context.router.secure(routed).then(
      (outcome) => {
        try {
          this.#placed(routed, outcome);
        } catch (error) {
          this.#failInternally(error);
        }
      },
      (error: unknown) => this.#failInternally(error),
    );
  }

  #placed(asked: Routed, outcome: Routed | Refusal): void {
    // Of a stream that is over, and of a decision that another one replaced, the router gave the place back.
    if (this.#closed) return;
    if (this.#routed === asked) {
      this.#routed = outcome.kind === 'refuse' ? undefined : outcome;
      // Provisionally there is no refusal: the headers pass undecided, and the body has the last word.
      if (outcome.kind === 'refuse' && this.#state !== 'awaiting-body') {
        this.#refuse(outcome, 'headers');
        return;
      }
      if (outcome.kind === 'route') this.#responseHeaders = this.#toResponseHeaders(outcome);
    }
    if (this.#routed?.needsPlace === true) return;
    const kept = this.#kept ?? [];
    this.#kept = undefined;
    for (const answer of kept) this.#call.send(answer());
  }

  /** The final decision. Undefined: the request was refused, and that was said. */
  #decide(phase: DecidedPhase, provisional = false): Routed | undefined {
    const { router, events, table: readFor } = this.#context;
    const headers = this.#headers;
    if (headers === undefined) throw new Error('decided before any headers');
    clearTimeout(this.#deadline);
    const status = this.#scanner?.status;
    if (status === 'malformed' || status === 'truncated' || status === 'over-limit') events.bodyUnusable(status);
    // A body cut at the limit or still coming is whole as far as it was read; a broken one tells nothing.
    const body = status === 'malformed' || status === 'truncated' ? undefined : this.#scanner;
    const bodyBytes = this.#bodyIsWhole && this.#bodyBytes > 0 ? this.#bodyBytes : undefined;
    let outcome = router.route(this.#toFacts(headers, body, bodyBytes), { earlier: this.#routed, provisional, readFor });
    if (provisional && outcome.kind === 'refuse') outcome = router.route(this.#toFacts(headers, body, bodyBytes), { readFor });
    this.#scanner = undefined;
    if (outcome.kind === 'refuse') {
      this.#routed = undefined;
      this.#refuse(outcome, phase);
      return undefined;
    }
    this.#routed = outcome;
    this.#responseHeaders = this.#toResponseHeaders(outcome);
    if (provisional) return outcome;
    this.#awaitPlace(outcome);
    if (this.#state !== 'holding') this.#answered(phase);
    return outcome;
  }

  /** What is known of the request. Where it names no session and cookies are issued, it gets one, which its response will carry. */
  #toFacts(headers: HeaderFacts, body: BodyScanner | undefined, bodyBytes: number | undefined): RequestFacts {
    const { reader, cookies } = this.#context;
    const facts = reader.toFacts(headers, this.#subset, body, bodyBytes, this.#context.clock.nowMs() - this.#openedMs);
    this.#setCookie = undefined;
    if (cookies === undefined) return facts;
    if (facts.session === undefined) {
      this.#made ??= cookies.issue();
      this.#setCookie = this.#made.setCookie;
      return { ...facts, session: this.#made.session };
    }
    const { cookie } = headers;
    if (cookie?.kind === 'valid' && cookie.session === facts.session) this.#setCookie = cookie.renewal;
    return facts;
  }

  #refuse(refusal: Refusal, phase: DecidedPhase): void {
    this.#answered(phase);
    this.#setCookie = undefined;
    this.#state = 'refused';
    this.#held = [];
    this.#kept = undefined;
    const { account, code } = refusal;
    const why = this.#explains && account !== undefined ? [setHeader(explainHeader, summarize(account, { refused: code }))] : [];
    this.#call.send(this.#context.writer.refuse(refusal, why));
  }

  /** A method, since the compiler would not expect a call in between to have changed the state. */
  #isRefused(): boolean {
    return this.#state === 'refused';
  }

  #answered(phase: DecidedPhase): void {
    if (this.#state === 'decided') return;
    this.#state = 'decided';
    this.#context.events.answered(phase, this.#context.clock.nowMs() - this.#openedMs);
  }

  /**
   * The processing mode to ask for, or undefined where the configured one will do. An override replaces both body modes
   * whatever it holds, so the response's is repeated; of the header and trailer modes, DEFAULT leaves what is configured
   * (`effectiveModeOverride` in Envoy's ext_proc.cc). Response headers alone would tell nothing, so they are declined unless some are
   * to be added.
   */
  #overrideFor(requestMode: number): ProcessingMode | undefined {
    if (!this.#mayOverride) return undefined;
    const wantsFirstToken = this.#responseMode === BodySendMode.NONE && this.#observesFirstToken();
    const wantsHeaders = this.#responseHeaders.length > 0 || (this.#state === 'awaiting-body' && this.#mayAddResponseHeaders());
    this.#awaitsFirstToken = wantsFirstToken;
    this.#awaitsResponseHeaders = wantsHeaders;
    if (requestMode === this.#requestMode && !wantsFirstToken && !wantsHeaders) return undefined;
    const responseRest = this.#responseMode === BodySendMode.NONE ? HeaderSendMode.SKIP : HeaderSendMode.DEFAULT;
    return sharedMode({
      request_header_mode: HeaderSendMode.DEFAULT,
      request_body_mode: requestMode,
      // Once decided, trailers tell nothing. Before that, they may be all that comes: as configured.
      request_trailer_mode: requestMode === BodySendMode.NONE ? HeaderSendMode.SKIP : HeaderSendMode.DEFAULT,
      response_header_mode: wantsHeaders ? HeaderSendMode.SEND : responseRest,
      response_body_mode: wantsFirstToken ? BodySendMode.STREAMED : this.#responseMode,
      response_trailer_mode: responseRest,
    });
  }

  /** Whether the first token is wanted: by the pool chosen, or, while none is, by any. */
  #observesFirstToken(): boolean {
    if (this.#routed !== undefined) return this.#routed.pool.observeFirstToken;
    return this.#context.router.table.routes.some((route) => poolsOf(route).some(({ observeFirstToken }) => observeFirstToken));
  }

  /** What the response's headers are to carry, given a decision. The one place where that is put together. */
  #toResponseHeaders({ isFallback, pool, account, addresses }: Routed): HeaderValueOption[] {
    const added: HeaderValueOption[] = [];
    if (this.#explains) added.push(setHeader(explainHeader, summarize(account, { told: addresses[0] })));
    if (isFallback) added.push(setHeader('x-fairlead-fallback', pool.name));
    if (this.#setCookie !== undefined) added.push(addHeader('set-cookie', this.#setCookie));
    return added;
  }

  /** Whether the decision that is still to come, with the body, could add headers to the response. */
  #mayAddResponseHeaders(): boolean {
    const { cookies, reader, router } = this.#context;
    const headers = this.#headers;
    if (this.#explains || router.table.fallsBack === true) return true;
    if (cookies === undefined || headers === undefined) return false;
    return (headers.cookie?.kind === 'valid' && headers.cookie.renewal !== undefined) || reader.toSettled(headers).session === undefined;
  }

  // ---- response ----

  #onResponseHeaders(message: HttpHeaders, request: ProcessingRequest): void {
    const status = message.headers?.headers?.find(({ key }) => key === ':status');
    this.#status = Number(status?.raw_value?.toString('latin1') ?? status?.value) || undefined;
    this.#servedBy = readServedEndpoint(request.metadata_context);
    // The body that was asked for did not come: Envoy allows no override.
    if (this.#state === 'awaiting-body' && !this.#settleOnHeaders()) this.#complete({ ending: 'not-proxied', signal: 'ext-proc' });
    this.#addResponseHeaders();
    const ended = message.end_of_stream === true;
    if (this.#responseMode === BodySendMode.NONE && this.#awaitsResponseHeaders) {
      // They came because we asked for them. With this answer, or that to the first chunk, nothing is left to say: the end comes by
      // access log.
      if (ended || !this.#awaitsFirstToken) this.#letGo();
      return;
    }
    if (ended) this.#onResponseEnd();
  }

  #addResponseHeaders(): void {
    const { writer, events } = this.#context;
    const added = this.#responseHeaders;
    this.#responseHeaders = [];
    this.#send(() => (added.length === 0 ? writer.pass('response_headers') : writer.responseHeaders(added)));
    if (this.#setCookie === undefined) return;
    this.#setCookie = undefined;
    events.sessionCookie('set');
  }

  #onResponseBody({ body = noBytes, end_of_stream: endOfStream = false }: HttpBody): void {
    const { router, writer } = this.#context;
    if (body.length > 0 && !this.#firstTokenSeen && this.#routed?.pool.observeFirstToken === true) {
      this.#firstTokenSeen = true;
      router.firstToken(this.#routed.lease, isStreamed(body, endOfStream));
    }
    if (this.#responseMode === BodySendMode.FULL_DUPLEX_STREAMED) {
      if (this.#responseEnded) return;
      this.#echo('response_body', body, endOfStream);
    } else {
      this.#send(() => writer.pass('response_body'));
    }
    if (this.#awaitsFirstToken) {
      // The chunk came because we asked for it. One is enough: ending with OK is safe here, and Envoy forwards the rest.
      if (body.length > 0 || endOfStream) this.#letGo();
      return;
    }
    if (endOfStream) this.#onResponseEnd();
  }

  #letGo(): void {
    this.#ending = 'let-go';
    this.#close();
    this.#call.end();
  }

  /** The response is complete: where response phases come, they are the sign of the end. */
  #onResponseEnd(): void {
    if (this.#responseEnded) return;
    this.#responseEnded = true;
    this.#complete({ ending: 'finished', signal: 'response-phases', status: this.#status, servedBy: this.#servedBy });
  }

  #complete(completion: Completion): void {
    const routed = this.#routed;
    this.#routed = undefined;
    if (routed !== undefined) this.#context.router.observe(routed.lease, completion);
  }

  // ---- endings ----

  #fail(ending: 'protocol-error' | 'internal-error', message: string): void {
    this.#ending = ending;
    this.#catching(() => this.#complete({ ending: 'stream-error', signal: 'ext-proc' }));
    this.#catching(() => this.#close());
    this.#call.fail(ending === 'protocol-error' ? 'invalid-argument' : 'internal', message);
  }

  /** A bug of ours: the request is refused if it still can be, and only this stream ends. */
  #failInternally(error: unknown): void {
    const { events, writer } = this.#context;
    events.failed(error);
    if (this.#state !== 'decided' && this.#state !== 'refused') this.#catching(() => this.#call.send(writer.refuse(toRefusal('internal_error'))));
    this.#fail('internal-error', 'internal error');
  }

  /** For the last steps of a stream: a second bug must not keep them from being taken. */
  #catching(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#context.events.failed(error);
    }
  }

  /**
   * Whether something asked for should have come before the end of this stream, and did not. The request may be over, as its access log will
   * say; or Envoy's message timeout passed before it read the answer, and then its access log names no lease.
   */
  #isUnproven(): boolean {
    if (this.#responseSeen || this.#isHeard) return false;
    // Other clients than Envoy end their side with what they ask, and read the answer all the same: so no more than a doubt.
    if (this.#call.isUnheard === true) return true;
    if (!this.#peer.honoursOverrides) return false;
    if (this.#awaitsFirstToken || this.#awaitsResponseHeaders) return true;
    return this.#state === 'awaiting-body' && this.#requestMode === BodySendMode.NONE;
  }

  /** Ends a lease whose end nothing told by then; whoever reports first counts. */
  #releaseLater(lease: string): void {
    const { router } = this.#context;
    setTimeout(() => {
      this.#catching(() => router.observe(lease, { ending: 'not-proxied', signal: 'timer' }));
    }, unprovenMsMax).unref();
  }

  #close(): void {
    this.#closed = true;
    this.#onClosed?.();
    clearTimeout(this.#deadline);
    this.#held = [];
    this.#kept = undefined;
    this.#scanner = undefined;
    if (this.#ending === 'cancelled') {
      // A body or response that was sure to come did not: the client went away.
      this.#complete({ ending: 'client-abort', signal: 'ext-proc', status: this.#status, servedBy: this.#servedBy });
    } else if (this.#isUntold) {
      this.#complete({ ending: 'not-proxied', signal: 'ext-proc' });
    } else if (this.#routed !== undefined) {
      // The exchange is over, the request is not: its end comes by access log. A provisional decision stands.
      if (this.#isUnproven()) this.#releaseLater(this.#routed.lease);
      if (this.#state === 'awaiting-body') this.#answered('headers');
      this.#context.router.confirm(this.#routed.lease);
    }
    if (this.#setCookie !== undefined) this.#context.events.sessionCookie('unsent');
    this.#context.events.streamClosed(this.#ending);
  }
}

const noBytes = Buffer.alloc(0);

/** Fields of an event stream, and a comment: one of them begins it. */
const eventStart = /^(?:data|event|id|retry)?:/;

/** Whether an answer is streamed, by its first piece: an event stream of which more is to come. Undefined: it is of a kind that does not tell. */
function isStreamed(first: Buffer, endOfStream: boolean): boolean | undefined {
  if (endOfStream) return false;
  const text = first.toString('latin1', 0, 16).trimStart();
  if (eventStart.test(text)) return true;
  return text.startsWith('{') || text.startsWith('[') ? false : undefined;
}
