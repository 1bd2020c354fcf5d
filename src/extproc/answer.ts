import type { Routed } from '../router/routed.ts';
import type { Refusal } from '../router/refusal.ts';
import { rankHeader, toHostPort, toRank } from '../core/data-parallel-rank.ts';
import {
  AppendAction,
  type CommonResponse,
  type HeaderMutation,
  type HeaderValueOption,
  type ProcessingMode,
  type ProcessingResponse,
  type Struct,
  type Value,
} from './messages.ts';
import { LeaseMetadata, PreparedMetadata, PreparedResponse } from './wire/prepared-answer.ts';

/** Names of the headers that carry a decision. */
export interface Outputs {
  /** Holds the pool's cluster, for `cluster_header` routes. */
  readonly clusterHeader: string;
  /** Holds the endpoints, best first, for `override_host`; also the key in metadata namespace `envoy.lb`. */
  readonly endpointHeader: string;
  /** Clients' headers that are meant for us alone and do not go on to the endpoint. */
  readonly ownRequestHeaders?: readonly string[] | undefined;
}

/** Largest piece of body that FULL_DUPLEX_STREAMED takes back in one message. */
const streamedBytesMax = 62_000;

const empty: CommonResponse = {};

/** Writes Envoy's answers. Header values go out in `raw_value` alone: with `value` beside it Envoy answers 500. */
export class AnswerWriter {
  readonly #outputs: Outputs;
  /** Removed with a decision, whose other headers are overwritten. */
  readonly #removed: string[];
  readonly #removedWithoutRank: string[];
  readonly #undecided: CommonResponse;
  /** What decisions for the same endpoints, in the same order, are told by. */
  readonly #prepared = new Map<string, PreparedDecision[]>();

  constructor(outputs: Outputs) {
    this.#outputs = outputs;
    this.#removed = [...(outputs.ownRequestHeaders ?? [])];
    this.#removedWithoutRank = [rankHeader, ...this.#removed];
    const ownHeaders = [outputs.clusterHeader, outputs.endpointHeader, rankHeader, ...(outputs.ownRequestHeaders ?? [])];
    this.#undecided = new PreparedResponse({ header_mutation: { remove_headers: ownHeaders }, clear_route_cache: true });
  }

  /** The decision as an answer to the request headers. */
  routedHeaders(routed: Routed, override: ProcessingMode | undefined): ProcessingResponse {
    const { response, metadata } = this.#prepare(routed);
    const answer: ProcessingResponse = { request_headers: { response }, dynamic_metadata: new LeaseMetadata(metadata, routed.lease) };
    if (override !== undefined) answer.mode_override = override;
    return answer;
  }

  /** The decision as an answer to a buffered request body. */
  routedBody(routed: Routed): ProcessingResponse {
    const { response, metadata } = this.#prepare(routed);
    return { request_body: { response }, dynamic_metadata: new LeaseMetadata(metadata, routed.lease) };
  }

  /**
   * The same, with another body in place of the one that came. `declaresLength`: the request has a content-length still. Envoy answers 503
   * where that is not the new body's; it takes it off itself in all modes but BUFFERED (`shouldRemoveContentLength` in its
   * processor_state.h).
   */
  routedWithBody(routed: Routed, body: Buffer, declaresLength: boolean): ProcessingResponse {
    const { response: routing, metadata } = this.#prepare(routed);
    const { set_headers = [], ...rest } = routing.header_mutation;
    const headers = declaresLength ? [...set_headers, setHeader('content-length', String(body.length))] : set_headers;
    const response = { clear_route_cache: routing.clear_route_cache, header_mutation: { ...rest, set_headers: headers }, body_mutation: { body } };
    return { request_body: { response }, dynamic_metadata: new LeaseMetadata(metadata, routed.lease) };
  }

  /** Lets a piece of the request body go on as `body`; for modes other than FULL_DUPLEX_STREAMED. */
  replaceBody(body: Buffer): ProcessingResponse {
    return { request_body: { response: { body_mutation: body.length === 0 ? { clear_body: true } : { body } } } };
  }

  /**
   * Lets the request headers pass while the decision waits for the body, less the client's copies of our headers. The route is
   * forgotten already now: it may have followed such a copy, and in BUFFERED_PARTIAL Envoy sends the request on before it looks
   * at `clear_route_cache` in the answer to the body. Without a header mutation Envoy would ignore it here too.
   */
  passHeaders(override: ProcessingMode | undefined): ProcessingResponse {
    const answer: ProcessingResponse = { request_headers: { response: this.#undecided } };
    if (override !== undefined) answer.mode_override = override;
    return answer;
  }

  /** Lets the response's headers pass, with these added. */
  responseHeaders(added: readonly HeaderValueOption[]): ProcessingResponse {
    return { response_headers: { response: { header_mutation: { set_headers: [...added] } } } };
  }

  /** Lets a phase pass unchanged. */
  pass(phase: 'request_body' | 'request_trailers' | 'response_headers' | 'response_body' | 'response_trailers'): ProcessingResponse {
    return phase === 'request_trailers' || phase === 'response_trailers' ? { [phase]: {} } : { [phase]: { response: empty } };
  }

  /** Adds the decision, as metadata alone, to an answer that cannot carry headers. */
  withChoice(answer: ProcessingResponse, routed: Routed): ProcessingResponse {
    return { ...answer, dynamic_metadata: new LeaseMetadata(this.#prepare(routed).metadata, routed.lease) };
  }

  /**
   * Hands a body piece back in FULL_DUPLEX_STREAMED, in as many messages as its size takes. The end of the stream is told
   * iff it came, on the last of them.
   */
  echo(phase: 'request_body' | 'response_body', body: Buffer, endOfStream: boolean): ProcessingResponse[] {
    const answers: ProcessingResponse[] = [];
    for (let at = 0; at < body.length || (at === 0 && endOfStream); at += streamedBytesMax) {
      const piece = body.subarray(at, at + streamedBytesMax);
      const last = at + streamedBytesMax >= body.length;
      const streamed = { body: piece, ...(last && endOfStream && { end_of_stream: true }) };
      answers.push({ [phase]: { response: { body_mutation: { streamed_response: streamed } } } });
    }
    return answers;
  }

  /** Answers the client in the upstream's place, in OpenAI's error shape. */
  refuse({ status, code, message, retryAfterS }: Refusal, added: readonly HeaderValueOption[] = []): ProcessingResponse {
    const type = status === 429 ? 'rate_limit_error' : status >= 500 ? 'service_unavailable' : 'invalid_request_error';
    const body = JSON.stringify({ error: { message, type, param: code.startsWith('model_') ? 'model' : null, code } });
    const headers = [setHeader('content-type', 'application/json'), setHeader('x-fairlead-refusal', code), ...added];
    if (retryAfterS !== undefined) headers.push(setHeader('retry-after', String(retryAfterS)));
    return {
      immediate_response: { status: { code: status }, headers: { set_headers: headers }, body: Buffer.from(body), details: `fairlead_${code}` },
    };
  }

  /** Of the few lists of endpoints that a small pool has, each is prepared once. */
  #prepare(routed: Routed): PreparedDecision {
    const endpoints = toHostPorts(routed.addresses);
    let known = this.#prepared.get(endpoints);
    if (known === undefined) {
      if (this.#prepared.size >= preparedListsMax) this.#prepared.clear();
      this.#prepared.set(endpoints, (known = []));
    }
    for (const prepared of known) if (prepared.fits(routed)) return prepared;
    const prepared = new PreparedDecision(routed, this.#toRouting(routed, endpoints), this.#toMetadata(routed, endpoints));
    // Routes, reasons and ranks are few; should they be many, the oldest go.
    if (known.length >= preparedPerListMax) known.shift();
    known.push(prepared);
    return prepared;
  }

  #toRouting({ pool, addresses }: Routed, endpoints: string): PreparedResponse {
    const rank = toRank(addresses[0] ?? '');
    const set = [setHeader(this.#outputs.clusterHeader, pool.cluster), setHeader(this.#outputs.endpointHeader, endpoints)];
    if (rank !== undefined) set.push(setHeader(rankHeader, String(rank)));
    // Of the rank, the client's copy, or that of a decision made again.
    const mutation: HeaderMutation = { set_headers: set, remove_headers: rank === undefined ? this.#removedWithoutRank : this.#removed };
    // `cluster_header` routes were matched before the header was there.
    return new PreparedResponse({ header_mutation: mutation, clear_route_cache: true });
  }

  #toMetadata({ route, pool, model, isFallback, decision }: Routed, endpoints: string): PreparedMetadata {
    const told: Record<string, Value> = { route: { stringValue: route }, pool: { stringValue: pool.name }, reason: { stringValue: decision.reason } };
    if (isFallback) told['fallback'] = { stringValue: pool.name };
    if (model !== undefined) told['model'] = { stringValue: model };
    const chosen: Struct = { fields: { [this.#outputs.endpointHeader]: { stringValue: endpoints } } };
    return new PreparedMetadata(told, { 'envoy.lb': { structValue: chosen } });
  }
}

/** Lists of endpoints whose answers are kept, */
const preparedListsMax = 512;
/** and for each of them so many. */
const preparedPerListMax = 16;

/** The answer of all decisions that tell the same, but for the lease. */
class PreparedDecision {
  readonly response: PreparedResponse;
  readonly metadata: PreparedMetadata;
  readonly #route: string;
  readonly #pool: string;
  readonly #cluster: string;
  readonly #reason: string;
  readonly #model: string | undefined;
  readonly #isFallback: boolean;
  /** With its rank. */
  readonly #first: string | undefined;

  constructor({ route, pool, decision, model, isFallback, addresses }: Routed, response: PreparedResponse, metadata: PreparedMetadata) {
    this.response = response;
    this.metadata = metadata;
    this.#route = route;
    this.#pool = pool.name;
    this.#cluster = pool.cluster;
    this.#reason = decision.reason;
    this.#model = model;
    this.#isFallback = isFallback;
    this.#first = addresses[0];
  }

  fits({ route, pool, decision, model, isFallback, addresses }: Routed): boolean {
    return (
      this.#reason === decision.reason &&
      this.#route === route &&
      this.#pool === pool.name &&
      this.#cluster === pool.cluster &&
      this.#first === addresses[0] &&
      this.#model === model &&
      this.#isFallback === isFallback
    );
  }
}

/** One more header of that name, beside those that are there. In ext_proc the default of `append` is false, whatever `append_action` says. */
export function addHeader(key: string, value: string): HeaderValueOption {
  return { header: { key, raw_value: Buffer.from(value) }, append: { value: true } };
}

function toHostPorts(addresses: readonly string[]): string {
  return addresses.map(toHostPort).join(',');
}

/** A header in place of whatever is there under that name. */
export function setHeader(key: string, value: string): HeaderValueOption {
  return { header: { key, raw_value: Buffer.from(value) }, append_action: AppendAction.OVERWRITE_IF_EXISTS_OR_ADD };
}
