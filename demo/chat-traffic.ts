import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

/** One request as the client saw it. */
export interface RequestRecord {
  readonly session: number;
  /** Which server answered, from its own header; undefined when none did. */
  readonly servedBy: string | undefined;
  /** First content token, in ms; undefined for requests that did not stream. */
  readonly ttftMs: number | undefined;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** Why the request failed; undefined: it did not. */
  readonly failure: string | undefined;
}

export interface ChatTrafficOptions {
  /** Where Envoy listens. */
  readonly baseUrl: string;
  readonly requests: number;
  /** Conversations going on at the same time; each has one request in flight at most. */
  readonly concurrency: number;
  readonly turnsPerSession: number;
  onRecord(record: RequestRecord): void;
}

const startGapMs = 150;

const words = 'harbour mooring cleat bollard hawser capstan windlass anchor tide pilot berth quay winch fender rudder keel'.split(' ');

/** Text of about `tokens` tokens that is the same for the same seed and different for another. */
function proseOf(seed: number, tokens: number): string {
  let state = (seed * 2_654_435_761) >>> 0;
  let text = '';
  while (text.length < tokens * 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    text += `${words[(state >>> 24) % words.length] ?? ''} `;
  }
  return text.slice(0, tokens * 4);
}

const systemPrompt = `You are the harbour master's assistant. ${proseOf(0, 150)}`;

/**
 * Multi-turn chats through Envoy with the official client: every session brings a document of its own, asks about it turn by
 * turn, and sends the whole history each time, as chat clients do. Every other session streams.
 */
export async function sendChatTraffic(options: ChatTrafficOptions): Promise<void> {
  // Retries would hide failures, and failures are what the demo must show.
  const client = new OpenAI({ baseURL: `${options.baseUrl}/v1`, apiKey: 'demo', maxRetries: 0, timeout: 60_000 });
  let sent = 0;
  let sessions = 0;
  const converse = async (starter: number): Promise<void> => {
    // Conversations do not all begin at the same moment.
    await sleep(starter * startGapMs);
    while (sent < options.requests) {
      const session = sessions;
      sessions += 1;
      const history: OpenAI.ChatCompletionMessageParam[] = [{ role: 'system', content: systemPrompt }];
      for (let turn = 0; turn < options.turnsPerSession && sent < options.requests; turn += 1) {
        sent += 1;
        const question = turn === 0 ? `Read this log, then answer. ${proseOf(session + 1, 2_200 + ((session * 37) % 1_400))}` : proseOf(session * 100 + turn, 40);
        history.push({ role: 'user', content: question });
        const { record, answer } = await ask(client, session, history);
        options.onRecord(record);
        history.push({ role: 'assistant', content: answer });
      }
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, (_, starter) => converse(starter)));
}

async function ask(
  client: OpenAI,
  session: number,
  messages: readonly OpenAI.ChatCompletionMessageParam[],
): Promise<{ record: RequestRecord; answer: string }> {
  const started = performance.now();
  const request = { model: 'demo-model', messages: [...messages], max_tokens: 24, prompt_cache_key: `session-${session}` };
  const unanswered = { session, servedBy: undefined, ttftMs: undefined, promptTokens: 0, cachedTokens: 0 };
  try {
    if (session % 2 === 0) {
      const { data, response } = await client.chat.completions.create(request).withResponse();
      return {
        answer: data.choices[0]?.message.content ?? '',
        record: { session, servedBy: response.headers.get('x-served-by') ?? undefined, ttftMs: undefined, ...usageOf(data.usage), failure: undefined },
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
      if (content !== '') ttftMs ??= performance.now() - started;
      answer += content;
      usage = chunk.usage ?? usage;
    }
    return { answer, record: { session, servedBy: response.headers.get('x-served-by') ?? undefined, ttftMs, ...usageOf(usage), failure: undefined } };
  } catch (error) {
    return { answer: '', record: { ...unanswered, failure: error instanceof Error ? error.message : String(error) } };
  }
}

function usageOf(usage: OpenAI.CompletionUsage | null | undefined): { promptTokens: number; cachedTokens: number } {
  return { promptTokens: usage?.prompt_tokens ?? 0, cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0 };
}
