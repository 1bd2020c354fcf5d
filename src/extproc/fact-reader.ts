import { type FactNeed, type RequestFacts } from '../core/request-facts.ts';
import type { BodyScanner, ScanPlan } from './body-scanner.ts';
import type { HeaderMap } from './messages.ts';
import { toPromptFields } from './prompt-fields.ts';

/** Where a fact is found. */
export type FactSource = { readonly header: string } | { readonly cookie: string } | { readonly body: string };

/** For each fact, its sources in order of preference. */
export interface FactSources {
  readonly model: readonly FactSource[];
  readonly session: readonly FactSource[];
  readonly tenant: readonly FactSource[];
}

type NamedFact = keyof FactSources;
const namedFacts: readonly NamedFact[] = ['model', 'session', 'tenant'];

/** Longest value taken as a fact, in characters; longer ones count as absent. */
const valueCharsMax: Readonly<Record<NamedFact, number>> = { model: 256, session: 1024, tenant: 256 };

/** Bytes of JSON request body per prompt token, roughly: English text, four characters a token. */
const bytesPerToken = 4;

/** Prompt blocks of 512 tokens, as the public traces and common servers cut them. */
const prefixBlockBytes = 512 * bytesPerToken;
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
}

/** Reads the configured facts from headers and, where they are not there, from a scanned body. */
export class FactReader {
  readonly #sources: FactSources;
  readonly #wanted: ReadonlySet<string>;
  /** Bytes of a body looked at, at most. */
  readonly scanBytesMax: number;
  /** By what they look for: a scanner compiles each plan once, by identity. As many as there are paths and needs. */
  readonly #plans = new Map<string, ScanPlan>();

  constructor(sources: FactSources, scanBytesMax: number) {
    this.#sources = sources;
    this.scanBytesMax = scanBytesMax;
    const wanted = new Set([':path', 'content-length', 'content-type', 'content-encoding']);
    for (const source of [...sources.model, ...sources.session, ...sources.tenant]) {
      if ('header' in source) wanted.add(source.header);
      if ('cookie' in source) wanted.add('cookie');
    }
    this.#wanted = wanted;
  }

  /** Takes from the headers what may be needed. Of a header sent twice the first counts; cookies may come in pieces. */
  readHeaders(headers: HeaderMap | undefined): HeaderFacts {
    const values = new Map<string, string>();
    for (const { key, value, raw_value } of headers?.headers ?? []) {
      if (key === undefined) continue;
      if (!this.#wanted.has(key)) continue;
      const text = raw_value !== undefined && raw_value.length > 0 ? raw_value.toString('utf8') : (value ?? '');
      const earlier = values.get(key);
      if (earlier === undefined) values.set(key, text);
      else if (key === 'cookie') values.set(key, `${earlier}; ${text}`);
    }
    const target = values.get(':path') ?? '';
    const query = target.search(/[?#]/);
    const path = query === -1 ? target : target.slice(0, query);
    const promptFields = toPromptFields(path);
    const length = values.get('content-length');
    return {
      path,
      values,
      contentLengthBytes: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined,
      bodyUnusable: promptFields === undefined ? 'unknown-path' : unusableBecause(values),
      promptFields: promptFields ?? [],
    };
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
  toSettled(headers: HeaderFacts): { path: string; model: string | undefined; session: string | undefined } {
    const settled = (fact: NamedFact): string | undefined => (this.needsBody(fact, headers) ? undefined : this.#find(fact, headers, undefined));
    return { path: headers.path, model: settled('model'), session: settled('session') };
  }

  /** The scan that finds what headers left open. Equal needs give the identical plan. */
  planScan(headers: HeaderFacts, missing: ReadonlySet<FactNeed>, measurePrompt: boolean): ScanPlan {
    const inBody = namedFacts.filter((fact) => (fact === 'tenant' || missing.has(fact)) && this.needsBody(fact, headers));
    const name = [...inBody, missing.has('stream'), missing.has('maxTokens'), missing.has('prefix'), measurePrompt, ...headers.promptFields].join();
    let plan = this.#plans.get(name);
    if (plan === undefined) {
      plan = this.#makePlan(inBody, headers.promptFields, missing, measurePrompt);
      this.#plans.set(name, plan);
    }
    return plan;
  }

  #makePlan(inBody: readonly NamedFact[], prompt: readonly string[], missing: ReadonlySet<FactNeed>, measurePrompt: boolean): ScanPlan {
    const fields = new Set<string>();
    for (const fact of inBody) {
      for (const source of this.#sources[fact]) if ('body' in source) fields.add(source.body);
    }
    if (missing.has('stream')) fields.add('stream');
    if (missing.has('maxTokens')) for (const field of maxTokensFields) fields.add(field);
    const prefix = missing.has('prefix');
    return {
      fields: [...fields],
      promptFields: measurePrompt || prefix ? prompt : [],
      wantPromptBytes: measurePrompt,
      prefixBlockBytes: prefix ? prefixBlockBytes : 0,
      prefixBlocksMax: prefix ? prefixBlocksMax : 0,
      scanBytesMax: this.scanBytesMax,
    };
  }

  /**
   * All facts. `body` is a finished scan, or undefined where there is no body to trust. `bodyBytes`: the body's whole length
   * where that is known by now.
   */
  toFacts(headers: HeaderFacts, subset: ReadonlySet<string> | undefined, body: BodyScanner | undefined, bodyBytes: number | undefined): RequestFacts {
    const measured = body !== undefined && body.status === 'done' ? body.promptBytes : 0;
    const bytes = measured > 0 ? measured : (bodyBytes ?? headers.contentLengthBytes);
    return {
      path: headers.path,
      model: this.#find('model', headers, body),
      session: this.#find('session', headers, body),
      tenant: this.#find('tenant', headers, body),
      promptTokens: bytes === undefined ? undefined : Math.ceil(bytes / bytesPerToken),
      maxTokens: maxTokensFields.map((field) => body?.field(field)).find((value) => typeof value === 'number'),
      stream: toFlag(body?.field('stream')),
      prefixHashes: body?.prefixHashes ?? [],
      subset,
    };
  }

  #find(fact: NamedFact, headers: HeaderFacts, body: BodyScanner | undefined): string | undefined {
    const max = valueCharsMax[fact];
    for (const source of this.#sources[fact]) {
      const found = 'body' in source ? toFact(body?.field(source.body), max) : this.#fromHeaders(source, headers, max);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #fromHeaders(source: FactSource, { values }: HeaderFacts, charsMax: number): string | undefined {
    if ('header' in source) return toFact(values.get(source.header), charsMax);
    if ('cookie' in source) return toFact(findCookie(values.get('cookie'), source.cookie), charsMax);
    return undefined;
  }
}

/** Names that servers take for the limit of generated tokens. */
const maxTokensFields = ['max_tokens', 'max_completion_tokens', 'max_output_tokens'];

function toFact(value: string | number | boolean | undefined, charsMax: number): string | undefined {
  if (value === undefined || typeof value === 'boolean') return undefined;
  const text = String(value);
  return text === '' || text.length > charsMax ? undefined : text;
}

function toFlag(value: string | number | boolean | undefined): boolean | undefined {
  return typeof value === 'boolean' ? value : undefined;
}

function unusableBecause(values: ReadonlyMap<string, string>): HeaderFacts['bodyUnusable'] {
  const encoding = values.get('content-encoding');
  if (encoding !== undefined && encoding !== '' && encoding.toLowerCase() !== 'identity') return 'compressed';
  const type = values.get('content-type');
  return type === undefined || /^\s*application\/([\w.+-]*\+)?json\s*(;|$)/i.test(type) ? undefined : 'not-json';
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
