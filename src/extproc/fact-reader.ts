import { hash } from 'node:crypto';
import { type FactNeed, prefixBlockTokens, type RequestFacts } from '../core/request-facts.ts';
import type { Hash64 } from '../core/hash.ts';
import type { BodyScanner } from './body-scanner.ts';
import { readForwardedAddress, toClientNetwork } from './client-address.ts';
import type { HeaderMap, HeaderValue } from './messages.ts';
import { toPromptFields } from './prompt-fields.ts';
import type { ScanPlan } from './scan-plan.ts';
import type { CookieReading, SessionCookies } from './session-cookie.ts';
import { HeaderView } from './wire/processing-request.ts';

/** Where a fact is found as the client wrote it. */
export type NamedSource = { readonly header: string } | { readonly cookie: string } | { readonly body: string };

/** How the client's IP address is found and cut. */
export interface ClientIpSource {
  /** Proxies in front of Envoy whose entries in `x-forwarded-for` are trusted; undefined: Envoy's own `source.address` is taken. */
  readonly trustedHops?: number | undefined;
  /** Bits of an IPv6 address that stand for a client. */
  readonly ipv6Prefix: number;
}

/** Where a fact that tells clients apart is found: as the client wrote it, or made of what its requests have in common. */
export type FactSource =
  | NamedSource
  /** The client's network. */
  | { readonly clientIp: true | ClientIpSource }
  /** A digest of one header that is itself a secret, such as `authorization`: the value goes no further. */
  | { readonly tokenHash: string }
  /** A digest of several headers; each of them has to be there. */
  | { readonly headerHash: readonly string[] };

/** For each fact, its sources in order of preference. */
export interface FactSources {
  readonly model: readonly NamedSource[];
  readonly session: readonly FactSource[];
  readonly tenant: readonly FactSource[];
  /** Headers that a trusted party sets; none: every request is of normal priority. */
  readonly priority?: readonly { readonly header: string }[] | undefined;
  /** Headers that hold the time until the first token that the client accepts, in ms. */
  readonly deadline?: readonly { readonly header: string }[] | undefined;
}

type NamedFact = 'model' | 'session' | 'tenant';
const namedFacts: readonly NamedFact[] = ['model', 'session', 'tenant'];
/** Stands for the first of them among what is looked for in a body; those of the others follow. */
const firstFactBit = 16;

/** Longest value taken as a fact, in characters; longer ones count as absent. */
const valueCharsMax: Readonly<Record<NamedFact, number>> = { model: 256, session: 1024, tenant: 256 };

/** Bytes of JSON request body per prompt token, roughly: English text, four characters a token. */
const bytesPerToken = 4;

const prefixBlockBytes = prefixBlockTokens * bytesPerToken;
const prefixBlocksMax = 512;

/** What the request headers say, before any body. */
export interface HeaderFacts {
  readonly path: string;
  /** The headers that facts can come from, and nothing else. */
  readonly values: ReadonlyMap<string, string>;
  /** Body length as declared; undefined: unknown. */
  readonly contentLengthBytes: number | undefined;
  /** Why the body cannot be used for facts; undefined: it can. */
  readonly bodyUnusable: 'compressed' | 'not-json' | 'unknown-path' | undefined;
  /** Top-level fields of the body that hold the prompt. */
  readonly promptFields: readonly string[];
  /** The client's IP address as Envoy told it; undefined: it did not. */
  readonly clientAddress: string | undefined;
  /** The session cookie of our own; undefined: none came, or none are issued. */
  readonly cookie: CookieReading | undefined;
}

/** What stands once the headers were read, whatever the body says. An undefined fact may still turn up. */
export interface SettledFacts extends Pick<RequestFacts, 'path' | 'headers' | 'model' | 'session' | 'tenant'> {
  /** As the declared length has it. */
  readonly promptTokens: number | undefined;
}

/** A request target, and what it says. */
interface ReadTarget {
  readonly target: string;
  /** Without its query. */
  readonly path: string;
  /** As {@link toPromptFields} has it. */
  readonly promptFields: readonly string[] | undefined;
}

/** Reads the configured facts from headers and, where they are not there, from a scanned body. */
export class FactReader {
  readonly #sources: FactSources;
  readonly #cookies: SessionCookies | undefined;
  readonly #prefixSeed: Hash64;
  /** Headers that routes and filters look at. */
  readonly #asked: ReadonlySet<string>;
  /** Field of the body that holds the model, as a dotted path. */
  readonly modelField: string;
  readonly #wanted: ReadonlySet<string>;
  /** Whether a fact is made of the client's IP address as Envoy tells it. */
  readonly wantsClientAddress: boolean;
  /** Bytes of a body looked at, at most. */
  readonly scanBytesMax: number;
  /** By the fields of the prompt (one list for each kind of path) and what else is looked for: a scanner compiles each plan once, by identity. */
  readonly #plans = new Map<readonly string[], Map<number, ScanPlan>>();
  #lastTarget: ReadTarget = { target: '', path: '', promptFields: toPromptFields('') };

  /**
   * `prefixSeed`: what prefix hashes start from; the same in all routers of a fleet. `asked`: headers that routes and filters look at.
   * `cookies`: checks the session cookie of our own; undefined: none are issued.
   */
  constructor(
    sources: FactSources,
    scanBytesMax: number,
    prefixSeed: Hash64 = { high: 0, low: 0 },
    asked: ReadonlySet<string> = new Set(),
    cookies?: SessionCookies,
  ) {
    this.#sources = sources;
    this.#cookies = cookies;
    this.#prefixSeed = prefixSeed;
    this.#asked = asked;
    this.modelField = sources.model.flatMap((source) => ('body' in source ? [source.body] : []))[0] ?? 'model';
    this.scanBytesMax = scanBytesMax;
    const wanted = new Set([':path', 'content-length', 'content-type', 'content-encoding', ...asked]);
    for (const { header } of [...(sources.priority ?? []), ...(sources.deadline ?? [])]) wanted.add(header);
    for (const source of [...sources.model, ...sources.session, ...sources.tenant]) {
      if ('header' in source) wanted.add(source.header);
      if ('cookie' in source) wanted.add('cookie');
      if ('clientIp' in source) wanted.add('x-forwarded-for');
      if ('tokenHash' in source) wanted.add(source.tokenHash);
      if ('headerHash' in source) for (const header of source.headerHash) wanted.add(header);
    }
    this.#wanted = wanted;
    this.wantsClientAddress = [...sources.session, ...sources.tenant].some(
      (source) => 'clientIp' in source && (source.clientIp === true || source.clientIp.trustedHops === undefined),
    );
  }

  /**
   * Takes from the headers what may be needed. Of a header sent twice the first counts; cookies and `x-forwarded-for` may come in pieces.
   * `clientAddress`: the client's IP address, where Envoy told it.
   */
  readHeaders(headers: HeaderMap | undefined, clientAddress?: string): HeaderFacts {
    const values = new Map<string, string>();
    for (const header of headers?.headers ?? []) {
      const { key } = header;
      if (key === undefined || !this.#wanted.has(key)) continue;
      const text = header instanceof HeaderView ? header.text() : toText(header);
      const earlier = values.get(key);
      if (earlier === undefined) values.set(key, text);
      else if (key === 'cookie') values.set(key, `${earlier}; ${text}`);
      else if (key === 'x-forwarded-for') values.set(key, `${earlier},${text}`);
    }
    const { path, promptFields } = this.#readTarget(values.get(':path') ?? '');
    const length = values.get('content-length');
    return {
      path,
      values,
      contentLengthBytes: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined,
      bodyUnusable: promptFields === undefined ? 'unknown-path' : unusableBecause(values),
      promptFields: promptFields ?? noFields,
      clientAddress,
      cookie: this.#readCookie(values),
    };
  }

  /** Few targets make up nearly all requests, so the last one read is kept. */
  #readTarget(target: string): ReadTarget {
    if (target === this.#lastTarget.target) return this.#lastTarget;
    const query = target.search(/[?#]/);
    const path = query === -1 ? target : target.slice(0, query);
    return (this.#lastTarget = { target, path, promptFields: toPromptFields(path) });
  }

  /** Whether a fact hangs on the body: no header that comes before its body fields gave it. */
  needsBody(fact: NamedFact, headers: HeaderFacts): boolean {
    if (headers.bodyUnusable !== undefined) return false;
    for (const source of this.#sources[fact]) {
      if ('body' in source) return true;
      if (this.#fromHeaders(source, headers, valueCharsMax[fact]) !== undefined) return false;
    }
    return false;
  }

  /** What the headers settle: nothing that a body field could still overrule. */
  toSettled(headers: HeaderFacts): SettledFacts {
    const settled = (fact: NamedFact): string | undefined => (this.needsBody(fact, headers) ? undefined : this.#find(fact, headers, undefined));
    const { path, contentLengthBytes } = headers;
    return {
      path,
      headers: this.#toAsked(headers),
      model: settled('model'),
      session: settled('session'),
      tenant: settled('tenant'),
      promptTokens: contentLengthBytes === undefined ? undefined : Math.ceil(contentLengthBytes / bytesPerToken),
    };
  }

  /** The scan that finds what headers left open; `looksForStream`: and whether a stream is asked for. Equal needs give the identical plan. */
  planScan(headers: HeaderFacts, missing: ReadonlySet<FactNeed>, measurePrompt: boolean, looksForStream = missing.has('stream')): ScanPlan {
    // A bit for each need.
    let needs = measurePrompt ? 1 : 0;
    if (looksForStream) needs |= 2;
    if (missing.has('maxTokens')) needs |= 4;
    if (missing.has('prefix')) needs |= 8;
    let bit = firstFactBit;
    for (const fact of namedFacts) {
      if ((fact === 'tenant' || missing.has(fact)) && this.needsBody(fact, headers)) needs |= bit;
      bit <<= 1;
    }
    let plans = this.#plans.get(headers.promptFields);
    if (plans === undefined) this.#plans.set(headers.promptFields, (plans = new Map<number, ScanPlan>()));
    let plan = plans.get(needs);
    if (plan === undefined) {
      const inBody = namedFacts.filter((_, i) => (needs & (firstFactBit << i)) !== 0);
      plans.set(needs, (plan = this.#makePlan(inBody, headers.promptFields, missing, measurePrompt, looksForStream)));
    }
    return plan;
  }

  #makePlan(inBody: readonly NamedFact[], prompt: readonly string[], missing: ReadonlySet<FactNeed>, measurePrompt: boolean, looksForStream: boolean): ScanPlan {
    const lists = inBody.map((fact) => [...new Set(this.#sources[fact].flatMap((source) => ('body' in source ? [source.body] : [])))]);
    const fields = lists.flat();
    if (looksForStream) fields.push('stream');
    if (missing.has('maxTokens')) fields.push(...maxTokensFields);
    const prefix = missing.has('prefix');
    return {
      fields: [...new Set(fields)],
      // What is asked for something else as well has to be read in any case.
      alternatives: lists.map((list) => list.filter((field) => fields.indexOf(field) === fields.lastIndexOf(field))),
      promptFields: measurePrompt || prefix ? prompt : [],
      wantPromptBytes: measurePrompt,
      prefixBlockBytes: prefix ? prefixBlockBytes : 0,
      prefixBlocksMax: prefix ? prefixBlocksMax : 0,
      prefixSeed: this.#prefixSeed,
      scanBytesMax: this.scanBytesMax,
    };
  }

  /**
   * All facts. `body` is a finished scan, or undefined where there is no body to trust. `bodyBytes`: the body's whole length
   * where that is known by now. `elapsedMs`: since the request came.
   */
  toFacts(
    headers: HeaderFacts,
    subset: ReadonlySet<string> | undefined,
    body: BodyScanner | undefined,
    bodyBytes: number | undefined,
    elapsedMs = 0,
  ): RequestFacts {
    const measured = body !== undefined && body.status === 'done' ? body.promptBytes : 0;
    // Of a body that is longer than was looked at, that much at least is known.
    const leastBytes = body?.status === 'over-limit' ? this.scanBytesMax : undefined;
    const bytes = measured > 0 ? measured : (bodyBytes ?? headers.contentLengthBytes ?? leastBytes);
    const deadlineMs = toDeadlineMs(this.#firstValue(this.#sources.deadline, headers));
    return {
      path: headers.path,
      model: this.#find('model', headers, body),
      session: this.#find('session', headers, body),
      tenant: this.#find('tenant', headers, body),
      promptTokens: bytes === undefined ? undefined : Math.ceil(bytes / bytesPerToken),
      maxTokens: findMaxTokens(body),
      stream: body === undefined ? undefined : readStream(body),
      prefixHashes: body?.prefixHashes ?? [],
      subset,
      headers: this.#toAsked(headers),
      priority: toPriority(this.#firstValue(this.#sources.priority, headers)),
      deadlineMs: deadlineMs === undefined ? undefined : deadlineMs - elapsedMs,
    };
  }

  #toAsked({ values }: HeaderFacts): ReadonlyMap<string, string> {
    if (this.#asked.size === 0) return noHeaders;
    const asked = new Map<string, string>();
    for (const name of this.#asked) {
      const value = values.get(name);
      if (value !== undefined) asked.set(name, value);
    }
    return asked;
  }

  #firstValue(sources: readonly { readonly header: string }[] = [], { values }: HeaderFacts): string | undefined {
    for (const { header } of sources) {
      const value = values.get(header);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  #find(fact: NamedFact, headers: HeaderFacts, body: BodyScanner | undefined): string | undefined {
    const max = valueCharsMax[fact];
    for (const source of this.#sources[fact]) {
      const found = 'body' in source ? toFact(body?.field(source.body), max) : this.#fromHeaders(source, headers, max);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #fromHeaders(source: FactSource, { values, clientAddress, cookie }: HeaderFacts, charsMax: number): string | undefined {
    if ('header' in source) return toFact(values.get(source.header), charsMax);
    if ('cookie' in source) {
      // What bears the name of our own cookie counts only if it is one.
      if (source.cookie === this.#cookies?.name) return cookie?.kind === 'valid' ? cookie.session : undefined;
      return toFact(findCookie(values.get('cookie'), source.cookie), charsMax);
    }
    if ('clientIp' in source) {
      const { trustedHops, ipv6Prefix } = source.clientIp === true ? { trustedHops: undefined, ipv6Prefix: ipv6PrefixDefault } : source.clientIp;
      const address = trustedHops === undefined ? clientAddress : readForwardedAddress(values.get('x-forwarded-for'), trustedHops);
      return address === undefined ? undefined : `ip:${toClientNetwork(address, ipv6Prefix)}`;
    }
    if ('tokenHash' in source) return hashHeaders([source.tokenHash], values);
    if ('headerHash' in source) return hashHeaders(source.headerHash, values);
    return undefined;
  }

  #readCookie(values: ReadonlyMap<string, string>): CookieReading | undefined {
    const cookies = this.#cookies;
    const value = cookies && findCookie(values.get('cookie'), cookies.name);
    return value === undefined ? undefined : cookies?.read(value);
  }
}

function toText({ value = '', raw_value: raw }: HeaderValue): string {
  return raw !== undefined && raw.length > 0 ? raw.toString('utf8') : value;
}

const noHeaders: ReadonlyMap<string, string> = new Map();
const noFields: readonly string[] = [];

/** Priorities by name; the numbers between and beyond them may be sent as well. */
const priorityNames: Readonly<Record<string, number>> = { low: -1, normal: 0, high: 1, critical: 2 };
/** Furthest that a priority counts, up or down. */
const priorityMax = 8;

/** A name, or a whole number; anything else is normal. */
function toPriority(text: string | undefined): number {
  if (text === undefined) return 0;
  const word = text.trim().toLowerCase();
  if (Object.hasOwn(priorityNames, word)) return priorityNames[word] ?? 0;
  return /^[+-]?\d{1,6}$/.test(word) ? Math.max(-priorityMax, Math.min(priorityMax, Number(word))) : 0;
}

/** Milliseconds above 0; anything else is no deadline. */
function toDeadlineMs(text: string | undefined): number | undefined {
  if (text === undefined || !/^\s*\d{1,9}(\.\d{1,6})?\s*$/.test(text)) return undefined;
  const ms = Number(text);
  return ms > 0 ? ms : undefined;
}

/** Names that servers take for the limit of generated tokens. */
const maxTokensFields = ['max_tokens', 'max_completion_tokens', 'max_output_tokens'];

function findMaxTokens(body: BodyScanner | undefined): number | undefined {
  if (body === undefined) return undefined;
  for (const field of maxTokensFields) {
    const value = body.field(field);
    if (typeof value === 'number') return value;
  }
  return undefined;
}

function toFact(value: string | number | boolean | undefined, charsMax: number): string | undefined {
  if (value === undefined || typeof value === 'boolean') return undefined;
  const text = String(value);
  return text === '' || text.length > charsMax ? undefined : text;
}

/** Bits of an IPv6 address that stand for a client: what a host or a household gets. */
const ipv6PrefixDefault = 64;
/** Longest headers that are hashed, in characters all together: several times what tokens take. */
const hashedCharsMax = 16_384;

/**
 * SHA-256 over names and values of headers, each value with its length, so that no two lists run together. The key of the affinity hash
 * comes on top before anything leaves the process. Undefined where one is missing or empty.
 */
function hashHeaders(names: readonly string[], values: ReadonlyMap<string, string>): string | undefined {
  let text = '';
  for (const name of names) {
    const value = values.get(name);
    if (value === undefined || value === '') return undefined;
    text += `${name}:${value.length}:${value};`;
  }
  return text.length > hashedCharsMax ? undefined : `hash:${hash('sha256', text, 'base64url')}`;
}

/** Whether a stream is asked for. In the APIs whose bodies are read none is unless they say so. Undefined: not looked for, or not found yet. */
function readStream(body: BodyScanner): boolean | undefined {
  const value = body.field('stream');
  if (value !== undefined) return typeof value === 'boolean' ? value : undefined;
  return body.status === 'done' && body.looksFor('stream') ? false : undefined;
}

function unusableBecause(values: ReadonlyMap<string, string>): HeaderFacts['bodyUnusable'] {
  const encoding = values.get('content-encoding');
  if (encoding !== undefined && encoding !== '' && encoding.toLowerCase() !== 'identity') return 'compressed';
  const type = values.get('content-type');
  return type === undefined || type === 'application/json' || /^\s*application\/([\w.+-]*\+)?json\s*(;|$)/i.test(type) ? undefined : 'not-json';
}

/** The value of a cookie in a Cookie header, quotes removed (RFC 6265, 4.2.1). */
function findCookie(header: string | undefined, name: string): string | undefined {
  if (header === undefined || header.length > 16_384) return undefined;
  for (const pair of header.split(';')) {
    const at = pair.indexOf('=');
    if (at === -1 || pair.slice(0, at).trim() !== name) continue;
    const value = pair.slice(at + 1).trim();
    return value.startsWith('"') && value.endsWith('"') && value.length > 1 ? value.slice(1, -1) : value;
  }
  return undefined;
}
