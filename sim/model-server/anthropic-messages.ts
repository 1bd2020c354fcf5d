import { z } from 'zod';
import { anthropicError, type Dialect, type Generation, invalidRequest, isLast, serverSentEvent } from './dialect.ts';
import { chatPrompt, contentText, type PromptMessage } from './prompt-text.ts';

// Fields of Anthropic's Messages API that matter here (API reference, "Messages"); all others are allowed and ignored.
const content = z.union([z.string(), z.array(z.unknown())]);
const schema = z.looseObject({
  model: z.string().optional(),
  system: content.nullish(),
  messages: z.array(z.looseObject({ role: z.string(), content })).min(1),
  max_tokens: z.int().min(1),
  stream: z.boolean().nullish(),
});

function inputUsage({ promptTokens, cachedTokens }: Generation): object {
  return { input_tokens: promptTokens - cachedTokens, cache_read_input_tokens: cachedTokens, cache_creation_input_tokens: 0 };
}

function stopReason({ finishReason }: Generation): string {
  return finishReason === 'length' ? 'max_tokens' : 'end_turn';
}

/** `POST /v1/messages`. */
export const messages: Dialect = {
  path: '/v1/messages',
  idPrefix: 'msg_',
  parse(body) {
    const result = schema.safeParse(body);
    if (!result.success) return invalidRequest(result.error);
    const { model, system, messages: turns, max_tokens: outputTokensMax, stream } = result.data;
    const prompt: PromptMessage[] = turns.map((turn) => ({ role: turn.role, text: contentText(turn.content) }));
    if (system !== undefined && system !== null) prompt.unshift({ role: 'system', text: contentText(system) });
    return {
      ok: true,
      request: { model, prompt: chatPrompt(prompt), stream: stream ?? false, includeUsage: true, outputTokensMax, ignoreEos: false },
    };
  },
  toAnswer(generation) {
    return {
      id: generation.id,
      type: 'message',
      role: 'assistant',
      model: generation.model,
      content: [{ type: 'text', text: generation.tokens.join('') }],
      stop_reason: stopReason(generation),
      stop_sequence: null,
      usage: { ...inputUsage(generation), output_tokens: generation.tokens.length },
    };
  },
  toChunk(generation, index) {
    let events = '';
    const send = (type: string, rest: object): void => {
      events += serverSentEvent({ type, ...rest }, type);
    };
    if (index === 0) {
      const { id, model } = generation;
      const usage = { ...inputUsage(generation), output_tokens: 1 };
      send('message_start', {
        message: { id, type: 'message', role: 'assistant', model, content: [], stop_reason: null, stop_sequence: null, usage },
      });
      send('content_block_start', { index: 0, content_block: { type: 'text', text: '' } });
    }
    send('content_block_delta', { index: 0, delta: { type: 'text_delta', text: generation.tokens[index] } });
    if (isLast(generation, index)) {
      send('content_block_stop', { index: 0 });
      send('message_delta', {
        delta: { stop_reason: stopReason(generation), stop_sequence: null },
        usage: { output_tokens: generation.tokens.length },
      });
      send('message_stop', {});
    }
    return events;
  },
  toError: anthropicError,
};
