// What Envoy's ext_proc filter does with one request, as far as a processor can tell: modelled after Envoy's ext_proc.cc and
// processor_state.cc; what is surprising in it was seen in real Envoys, 1.36 and 1.40. Unlike those it says at once what was wrong with an answer.
import { BodySendMode, HeaderSendMode, type ProcessingMode, type ProcessingRequest, type ProcessingResponse } from '../src/extproc/messages.ts';
import type { ProcessStream } from '../src/extproc/stream.ts';
import { received, type RecordedCall } from './stream-under-test.ts';

/** The filter's configuration. */
export interface FilterModes {
  readonly request: BodySendMode;
  readonly response?: BodySendMode;
  /** `send_body_without_waiting_for_header_response`. */
  readonly early?: boolean;
  readonly allowOverride?: boolean;
  /** Request trailers are sent; always so in FULL_DUPLEX_STREAMED. */
  readonly trailers?: boolean;
  /** How much of a body BUFFERED_PARTIAL sends, in bytes. */
  readonly partialBytesMax?: number;
}

export interface ModelRequest {
  readonly headers: Readonly<Record<string, string>>;
  /** The body as it comes in; undefined: the headers end the request. */
  readonly pieces?: readonly Buffer[] | undefined;
  readonly trailers?: boolean | undefined;
  readonly metadata?: ProcessingRequest['metadata_context'];
}

/** What became of the request. */
export interface Fate {
  /** Went on to this cluster; `none`: on without a cluster. */
  readonly cluster?: string;
  readonly endpoints?: string;
  /** Was answered by the processor with this status. */
  readonly refusedWith?: number;
  /** Failed by a gRPC status of the processor. */
  readonly failed?: string;
  /** Envoy waits for an answer that has not come, for instance one that a timer brings. */
  readonly waits?: true;
  /** The body that went on. */
  readonly body?: Buffer;
}

const clusterHeader = 'x-fairlead-cluster';
const endpointHeader = 'x-gateway-destination-endpoint';

/** An answer that Envoy would count as spurious, or that leaves the request in a state it must not be in. */
export class ProtocolViolation extends Error {}

/** One HTTP request on its way through the filter. */
export class EnvoyFilterModel {
  readonly #modes: FilterModes;
  readonly #stream: ProcessStream;
  readonly #call: RecordedCall;
  #first = true;
  #seen = 0;
  #requestMode: number;
  #responseMode: number;
  #sendsTrailers: boolean;

  readonly #headers = new Map<string, string>();
  #metadataEndpoints: string | undefined;
  /** The route is matched when the request comes in, and kept until it is cleared; then it is matched when the request goes on. */
  #routeIsCached = true;
  #cachedCluster: string | undefined;
  #sentOn: Buffer[] = [];
  #wentOn: string | undefined;
  #refusedWith: number | undefined;
  #headerAnswered = false;
  /** Body messages whose answers are due. */
  #due: Buffer[] = [];
  #duplexEnded = false;
  #trailersDue = false;
  #isResponding = false;

  constructor(modes: FilterModes, { stream, call }: { stream: ProcessStream; call: RecordedCall }) {
    this.#modes = modes;
    this.#stream = stream;
    this.#call = call;
    this.#requestMode = modes.request;
    this.#responseMode = modes.response ?? BodySendMode.NONE;
    this.#sendsTrailers = modes.trailers === true || modes.request === BodySendMode.FULL_DUPLEX_STREAMED;
  }

  /** The response body mode in force. */
  get responseMode(): number {
    return this.#responseMode;
  }

  /** Sends the request through. Throws {@link ProtocolViolation} on an answer that Envoy would not take. */
  request({ headers, pieces, trailers = false, metadata }: ModelRequest): Fate {
    for (const [key, value] of Object.entries(headers)) this.#headers.set(key, value);
    this.#cachedCluster = this.#headers.get(clusterHeader);
    const endsAtHeaders = pieces === undefined && !trailers;
    const head = { headers: Object.entries(headers).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) };
    this.#send({ request_headers: { headers: head, end_of_stream: endsAtHeaders }, ...(metadata && { metadata_context: metadata }) });

    const body = pieces ?? [];
    const flows =
      this.#modes.request === BodySendMode.FULL_DUPLEX_STREAMED || (this.#modes.request === BodySendMode.STREAMED && this.#modes.early === true);
    if (!flows && !this.#headerAnswered && !this.#isOver) return { waits: true };
    if (!endsAtHeaders) {
      // The mode in force now: the answer to the headers may have changed it.
      switch (this.#requestMode) {
        case BodySendMode.FULL_DUPLEX_STREAMED:
        case BodySendMode.STREAMED:
          this.#sendPieces(body, trailers);
          break;
        case BodySendMode.BUFFERED:
        case BodySendMode.BUFFERED_PARTIAL:
          this.#sendAtOnce(body, trailers);
          break;
        default:
          this.#sentOn.push(...body);
      }
    }
    if (trailers && this.#sendsTrailers && !this.#isOver) {
      this.#trailersDue = true;
      this.#send({ request_trailers: {} });
    }
    return this.fate();
  }

  /** What became of the request so far. To be asked again after a timer. */
  fate(): Fate {
    this.#look();
    if (this.#refusedWith !== undefined) return { refusedWith: this.#refusedWith };
    if (this.#call.ended !== undefined && this.#call.ended !== 'ok') return { failed: this.#call.ended };
    const duplexDue = this.#requestMode === BodySendMode.FULL_DUPLEX_STREAMED && this.#due.length > 0;
    if (
      !this.#headerAnswered ||
      this.#trailersDue ||
      duplexDue ||
      (this.#requestMode !== BodySendMode.FULL_DUPLEX_STREAMED && this.#due.length > 0)
    ) {
      return { waits: true };
    }
    this.#goOn();
    const endpoints = this.#metadataEndpoints;
    return { cluster: this.#wentOn ?? 'none', ...(endpoints !== undefined && { endpoints }), body: Buffer.concat(this.#sentOn) };
  }

  /** A response comes back, in these pieces. */
  respond(pieces: readonly Buffer[], { headers = this.#responseMode !== BodySendMode.NONE } = {}): void {
    this.#isResponding = true;
    if (headers) this.#send({ response_headers: { headers: { headers: [{ key: ':status', raw_value: Buffer.from('200') }] } } });
    pieces.forEach((body, i) => {
      if (this.#responseMode === BodySendMode.NONE || this.#isOver) return;
      this.#send({ response_body: { body, end_of_stream: i === pieces.length - 1 } });
    });
  }

  get #isOver(): boolean {
    return this.#refusedWith !== undefined || this.#call.ended !== undefined;
  }

  #sendPieces(pieces: readonly Buffer[], trailers: boolean): void {
    pieces.forEach((piece, i) => {
      if (this.#isOver) return;
      this.#due.push(piece);
      this.#send({ request_body: { body: piece, end_of_stream: !trailers && i === pieces.length - 1 } });
    });
  }

  #sendAtOnce(pieces: readonly Buffer[], trailers: boolean): void {
    // Trailers right after the headers: there is nothing to send.
    if (pieces.length === 0) return;
    let body = Buffer.concat(pieces);
    let rest = noBytes;
    const max = this.#modes.partialBytesMax ?? Infinity;
    const isCut = this.#requestMode === BodySendMode.BUFFERED_PARTIAL && body.length > max;
    if (isCut) [body, rest] = [body.subarray(0, max), body.subarray(max)];
    this.#due.push(body);
    this.#send({ request_body: { body, end_of_stream: !trailers && !isCut } });
    this.#sentOn.push(rest);
  }

  #send(message: ProcessingRequest): void {
    const config = {
      request_body_mode: this.#modes.request,
      response_body_mode: this.#modes.response ?? BodySendMode.NONE,
      send_body_without_waiting_for_header_response: this.#modes.early === true,
    };
    this.#stream.onMessage(received({ ...message, ...(this.#first && { protocol_config: config }) }));
    this.#first = false;
    this.#look();
  }

  #look(): void {
    while (this.#seen < this.#call.answers.length) {
      const answer = this.#call.answers[this.#seen];
      this.#seen += 1;
      if (answer !== undefined) this.#take(answer);
    }
  }

  #take(answer: ProcessingResponse): void {
    if (this.#refusedWith !== undefined) throw new ProtocolViolation('answer after the immediate response');
    if (answer.immediate_response !== undefined) {
      if (this.#isResponding) throw new ProtocolViolation('immediate response after a response began');
      this.#refusedWith = answer.immediate_response.status?.code ?? 200;
      return;
    }
    const endpoints = answer.dynamic_metadata?.fields?.['envoy.lb']?.structValue?.fields?.[endpointHeader]?.stringValue;
    if (endpoints !== undefined) this.#metadataEndpoints = endpoints;
    if (answer.request_headers !== undefined) this.#takeHeaders(answer);
    else if (answer.request_body !== undefined) this.#takeBody(answer);
    else if (answer.request_trailers !== undefined) {
      if (!this.#trailersDue || !this.#headerAnswered) throw new ProtocolViolation('answer to trailers that were not sent');
      this.#trailersDue = false;
      if (this.#requestMode === BodySendMode.FULL_DUPLEX_STREAMED) this.#due = [];
    }
  }

  #takeHeaders(answer: ProcessingResponse): void {
    if (this.#headerAnswered) throw new ProtocolViolation('second answer to the headers');
    this.#headerAnswered = true;
    const common = answer.request_headers?.response;
    if (answer.mode_override !== undefined) this.#override(answer.mode_override);
    this.#mutate(common);
    if (common?.clear_route_cache === true && common.header_mutation !== undefined) this.#routeIsCached = false;
    // The body is held back in these modes; in the others the request goes on now.
    if (this.#requestMode !== BodySendMode.BUFFERED && this.#requestMode !== BodySendMode.BUFFERED_PARTIAL) this.#goOn();
  }

  #takeBody(answer: ProcessingResponse): void {
    const common = answer.request_body?.response;
    const streamed = common?.body_mutation?.streamed_response;
    if (!this.#headerAnswered) throw new ProtocolViolation('answer to the body before that to the headers');
    if ((streamed !== undefined) !== (this.#requestMode === BodySendMode.FULL_DUPLEX_STREAMED))
      throw new ProtocolViolation('body answered in another mode');
    if (streamed !== undefined) {
      if (this.#duplexEnded) throw new ProtocolViolation('body piece after the end of the body');
      if ((streamed.body?.length ?? 0) > 62_000) throw new ProtocolViolation('body piece too large');
      this.#sentOn.push(streamed.body ?? noBytes);
      this.#duplexEnded = streamed.end_of_stream === true;
      if (this.#duplexEnded) this.#due = [];
      return;
    }
    const piece = this.#due.shift();
    if (piece === undefined) throw new ProtocolViolation('answer to a body that was not sent');
    const mutation = common?.body_mutation;
    const passing = mutation?.clear_body === true ? noBytes : (mutation?.body ?? piece);
    this.#sentOn.push(passing);
    if (this.#requestMode === BodySendMode.STREAMED) return;
    this.#mutate(common);
    // In the other modes Envoy has taken the length off.
    const declared = this.#requestMode === BodySendMode.BUFFERED ? this.#headers.get('content-length') : undefined;
    if (declared !== undefined && mutation !== undefined && Number(declared) !== passing.length) throw new ProtocolViolation('body of another length than declared');
    // BUFFERED_PARTIAL sends the request on before it looks at the route cache.
    if (this.#requestMode === BodySendMode.BUFFERED_PARTIAL) this.#goOn();
    if (common?.clear_route_cache === true && common.header_mutation !== undefined) this.#routeIsCached = false;
    this.#goOn();
  }

  #override(mode: ProcessingMode): void {
    const { request, response, early, allowOverride } = this.#modes;
    const isDuplex = request === BodySendMode.FULL_DUPLEX_STREAMED || response === BodySendMode.FULL_DUPLEX_STREAMED;
    if (allowOverride !== true || early === true || isDuplex) return;
    this.#requestMode = mode.request_body_mode ?? 0;
    this.#responseMode = mode.response_body_mode ?? 0;
    if ((mode.request_trailer_mode ?? HeaderSendMode.DEFAULT) !== HeaderSendMode.DEFAULT)
      this.#sendsTrailers = mode.request_trailer_mode === HeaderSendMode.SEND;
  }

  #mutate(
    common: { header_mutation?: { set_headers?: { header?: { key?: string; raw_value?: Buffer } }[]; remove_headers?: string[] } } | undefined,
  ): void {
    for (const name of common?.header_mutation?.remove_headers ?? []) this.#headers.delete(name);
    for (const { header } of common?.header_mutation?.set_headers ?? []) this.#headers.set(header?.key ?? '', header?.raw_value?.toString() ?? '');
  }

  #goOn(): void {
    this.#wentOn ??= this.#routeIsCached ? (this.#cachedCluster ?? 'none') : (this.#headers.get(clusterHeader) ?? 'none');
  }
}

const noBytes = Buffer.alloc(0);
