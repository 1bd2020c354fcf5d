import type { z } from 'zod';

/** What a client asked for, whichever API it spoke. */
export interface GenerationRequest {
  readonly model: string | undefined;
  /** The prompt's text, whole tokens of 4 bytes. */
  readonly prompt: Buffer;
  readonly stream: boolean;
  /** Whether a stream shall end with the token counts (APIs that always send them ignore it). */
  readonly includeUsage: boolean;
  readonly outputTokensMax: number | undefined;
  /** Go on to `outputTokensMax` whatever the "model" would say (a vLLM extension). */
  readonly ignoreEos: boolean;
}

/** An answer in the making. */
export interface Generation {
  readonly id: string;
  readonly model: string;
  readonly createdS: number;
  readonly promptTokens: number;
  /** Known from the first token on. */
  readonly cachedTokens: number;
  /** Text of every token. */
  readonly tokens: readonly string[];
  readonly finishReason: 'stop' | 'length';
  readonly includeUsage: boolean;
}

/** A request that gets no answer: `code` is for programs, `message` for people. */
export interface ApiError {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export type RequestResult = { readonly ok: true; readonly request: GenerationRequest } | { readonly ok: false; readonly message: string };

/** One API a model server speaks. */
export interface Dialect {
  readonly path: string;
  /** What the ids of its answers begin with. */
  readonly idPrefix: string;
  parse(body: unknown): RequestResult;
  /** The JSON of a whole answer. */
  toAnswer(generation: Generation): object;
  /** The server-sent events that token `index` brings: the opening ones with the first, the closing ones with the last. */
  toChunk(generation: Generation, index: number): string;
  toError(error: ApiError): object;
}

/** Turns zod's verdict into this module's. */
export function invalidRequest(error: z.ZodError): RequestResult {
  const issues = error.issues.map((issue) => (issue.path.length === 0 ? issue.message : `${issue.path.join('.')}: ${issue.message}`));
  return { ok: false, message: issues.join('; ') };
}

/** One server-sent event; `event` only where the API names its events. */
export function serverSentEvent(data: object | string, event?: string): string {
  const name = event === undefined ? '' : `event: ${event}\n`;
  return `${name}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`;
}

export function isLast(generation: Generation, index: number): boolean {
  return index === generation.tokens.length - 1;
}

/** Marks every answer as not from a model. */
export const systemFingerprint = 'fairlead-simulated';

const errorTypes: Readonly<Record<number, string>> = {
  400: 'invalid_request_error',
  404: 'not_found_error',
  413: 'invalid_request_error',
  429: 'rate_limit_error',
};

/** An error as OpenAI's APIs write it. */
export function openAiError({ status, code, message }: ApiError): object {
  return { error: { message, type: errorTypes[status] ?? 'server_error', param: null, code } };
}

/** An error as Anthropic's API writes it. */
export function anthropicError({ status, message }: ApiError): object {
  const type = status === 503 ? 'overloaded_error' : (errorTypes[status] ?? 'api_error');
  return { type: 'error', error: { type, message } };
}
