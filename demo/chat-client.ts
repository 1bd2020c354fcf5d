import OpenAI from 'openai';

/** One request as the client saw it. */
export interface RequestRecord {
  /** What kind of request the scenario calls it. */
  readonly kind: string;
  readonly session: number;
  /** Which server answered, from its own header; undefined when none did. */
  readonly servedBy: string | undefined;
  /** First content token, in ms; undefined for requests that did not stream. */
  readonly ttftMs: number | undefined;
  /** How much later than meant it was sent, in ms: the client's own fault, or its machine's. */
  readonly lateMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** Why the request failed; undefined: it did not. */
  readonly failure: string | undefined;
}

/** A conversation so far, the question last. */
export type Messages = readonly OpenAI.ChatCompletionMessageParam[];

export interface Question {
  readonly kind: string;
  readonly session: number;
  readonly messages: Messages;
  readonly answerTokensMax: number;
  readonly stream: boolean;
  /** When the client wanted to send it (`performance.now()`): first tokens count from then. Default: now. */
  readonly wantedMs?: number;
}

/** The official client on an Envoy at `baseUrl`. */
export function createChatClient(baseUrl: string): OpenAI {
  // Retries would hide failures, and failures are what the demo must show.
  return new OpenAI({ baseURL: `${baseUrl}/v1`, apiKey: 'demo', maxRetries: 0, timeout: 60_000 });
}

/** Sends one question; never rejects: a failure is part of the record. */
export async function ask(client: OpenAI, question: Question): Promise<{ record: RequestRecord; answer: string }> {
  const sentMs = performance.now();
  const { kind, session, messages, answerTokensMax, stream, wantedMs = sentMs } = question;
  const asked = { kind, session, lateMs: sentMs - wantedMs };
  const request = { model: 'demo-model', messages: [...messages], max_tokens: answerTokensMax, prompt_cache_key: `session-${session}` };
  const unanswered = { ...asked, servedBy: undefined, ttftMs: undefined, promptTokens: 0, cachedTokens: 0 };
  try {
    if (!stream) {
      const { data, response } = await client.chat.completions.create(request).withResponse();
      const servedBy = response.headers.get('x-served-by') ?? undefined;
      return {
        answer: data.choices[0]?.message.content ?? '',
        record: { ...asked, servedBy, ttftMs: undefined, ...usageOf(data.usage), failure: undefined },
      };
    }
    const { data, response } = await client.chat.completions
      .create({ ...request, stream: true, stream_options: { include_usage: true } })
      .withResponse();
    let ttftMs: number | undefined;
    let answer = '';
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of data) {
      const content = chunk.choices[0]?.delta.content ?? '';
      if (content !== '') ttftMs ??= performance.now() - wantedMs;
      answer += content;
      usage = chunk.usage ?? usage;
    }
    // A stream that ends early looks complete to the client; the usage comes last.
    if (usage === undefined || usage === null) return { answer: '', record: { ...unanswered, failure: 'the stream ended before its usage' } };
    const servedBy = response.headers.get('x-served-by') ?? undefined;
    return { answer, record: { ...asked, servedBy, ttftMs, ...usageOf(usage), failure: undefined } };
  } catch (error) {
    return { answer: '', record: { ...unanswered, failure: error instanceof Error ? error.message : String(error) } };
  }
}

function usageOf(usage: OpenAI.CompletionUsage | undefined): { promptTokens: number; cachedTokens: number } {
  return { promptTokens: usage?.prompt_tokens ?? 0, cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0 };
}
