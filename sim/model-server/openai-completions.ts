import { z } from 'zod';
import { type Dialect, type Generation, invalidRequest, isLast, openAiError, serverSentEvent, systemFingerprint } from './dialect.ts';
import { chatPrompt, contentText, plainPrompt } from './prompt-text.ts';

// Fields of OpenAI's completions APIs that matter here (API reference, "Chat" and "Completions"); all others are allowed and ignored.
const tokensMax = z.int().min(1).nullish();
const common = {
  model: z.string().optional(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: tokensMax,
  ignore_eos: z.boolean().nullish(),
};
const chatSchema = z.looseObject({
  ...common,
  max_completion_tokens: tokensMax,
  messages: z
    .array(
      z.looseObject({
        role: z.string(),
        content: z.union([z.string(), z.array(z.unknown())]).nullish(),
        tool_calls: z.array(z.unknown()).nullish(),
      }),
    )
    .min(1),
  tools: z.array(z.unknown()).nullish(),
});
const completionSchema = z.looseObject({
  ...common,
  // Text, or token numbers; a list of several prompts is taken as one.
  prompt: z.union([z.string(), z.array(z.union([z.string(), z.number(), z.array(z.number())]))]),
});

function usage({ promptTokens, cachedTokens, tokens }: Generation): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: tokens.length,
    total_tokens: promptTokens + tokens.length,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

function head(generation: Generation, object: string): object {
  return { id: generation.id, object, created: generation.createdS, model: generation.model, system_fingerprint: systemFingerprint };
}

/** The events of one token, around its choice: with `include_usage` every chunk has a usage, null in all but a last one of its own. */
function chunk(generation: Generation, index: number, object: string, choice: object): string {
  const usageField = generation.includeUsage ? { usage: null } : {};
  let events = serverSentEvent({ ...head(generation, object), choices: [choice], ...usageField });
  if (isLast(generation, index)) {
    if (generation.includeUsage) events += serverSentEvent({ ...head(generation, object), choices: [], usage: usage(generation) });
    events += serverSentEvent('[DONE]');
  }
  return events;
}

function finishReason(generation: Generation, index: number): string | null {
  return isLast(generation, index) ? generation.finishReason : null;
}

/** `POST /v1/chat/completions`. */
export const chatCompletions: Dialect = {
  path: '/v1/chat/completions',
  idPrefix: 'chatcmpl-',
  parse(body) {
    const result = chatSchema.safeParse(body);
    if (!result.success) return invalidRequest(result.error);
    const { model, messages, tools, stream, stream_options: streamOptions, max_tokens: maxTokens } = result.data;
    const prompt = messages.map(({ role, content, tool_calls: calls }) => ({
      role,
      text: contentText(content) + (calls === undefined || calls === null ? '' : JSON.stringify(calls)),
    }));
    if (tools !== undefined && tools !== null && tools.length > 0) prompt.unshift({ role: 'tools', text: JSON.stringify(tools) });
    return {
      ok: true,
      request: {
        model,
        prompt: chatPrompt(prompt),
        stream: stream ?? false,
        includeUsage: streamOptions?.include_usage ?? false,
        outputTokensMax: result.data.max_completion_tokens ?? maxTokens ?? undefined,
        ignoreEos: result.data.ignore_eos ?? false,
      },
    };
  },
  toAnswer(generation) {
    const message = { role: 'assistant', content: generation.tokens.join(''), refusal: null };
    return {
      ...head(generation, 'chat.completion'),
      choices: [{ index: 0, message, logprobs: null, finish_reason: generation.finishReason }],
      usage: usage(generation),
    };
  },
  toChunk(generation, index) {
    // The role comes with the first token, not before it: the first chunk is the first token.
    const delta = { ...(index === 0 ? { role: 'assistant' } : {}), content: generation.tokens[index] };
    return chunk(generation, index, 'chat.completion.chunk', { index: 0, delta, logprobs: null, finish_reason: finishReason(generation, index) });
  },
  toError: openAiError,
};

/** `POST /v1/completions`. */
export const completions: Dialect = {
  path: '/v1/completions',
  idPrefix: 'cmpl-',
  parse(body) {
    const result = completionSchema.safeParse(body);
    if (!result.success) return invalidRequest(result.error);
    const { model, prompt, stream, stream_options: streamOptions, max_tokens: maxTokens } = result.data;
    return {
      ok: true,
      request: {
        model,
        prompt: typeof prompt === 'string' ? plainPrompt(prompt) : promptOfParts(prompt),
        stream: stream ?? false,
        includeUsage: streamOptions?.include_usage ?? false,
        // The API's own default.
        outputTokensMax: maxTokens ?? 16,
        ignoreEos: result.data.ignore_eos ?? false,
      },
    };
  },
  toAnswer(generation) {
    return {
      ...head(generation, 'text_completion'),
      choices: [{ index: 0, text: generation.tokens.join(''), logprobs: null, finish_reason: generation.finishReason }],
      usage: usage(generation),
    };
  },
  toChunk(generation, index) {
    const choice = { index: 0, text: generation.tokens[index], logprobs: null, finish_reason: finishReason(generation, index) };
    return chunk(generation, index, 'text_completion', choice);
  },
  toError: openAiError,
};

/** Prompts in a list, one after the other; a token number becomes the four bytes of one token. */
function promptOfParts(parts: readonly (string | number | readonly number[])[]): Buffer {
  const bytes = Buffer.concat(
    parts.map((part) => (typeof part === 'string' ? plainPrompt(part) : tokenNumbers(typeof part === 'number' ? [part] : part))),
  );
  return bytes.length === 0 ? plainPrompt('') : bytes;
}

function tokenNumbers(numbers: readonly number[]): Buffer {
  return Buffer.from(Int32Array.from(numbers).buffer);
}
