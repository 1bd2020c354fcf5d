import { z } from 'zod';
import { type Dialect, type Generation, invalidRequest, isLast, openAiError, serverSentEvent } from './dialect.ts';
import { chatPrompt, contentText, type PromptMessage } from './prompt-text.ts';

// Fields of OpenAI's Responses API that matter here (API reference, "Responses"); all others are allowed and ignored. Nothing is
// stored: `previous_response_id` adds nothing to the prompt.
const schema = z.looseObject({
  model: z.string().optional(),
  input: z.union([z.string(), z.array(z.looseObject({ role: z.string().optional(), content: z.unknown().optional() })).min(1)]),
  instructions: z.string().nullish(),
  stream: z.boolean().nullish(),
  max_output_tokens: z.int().min(1).nullish(),
});

function messageItem(generation: Generation, status: 'in_progress' | 'completed'): object {
  const content = status === 'completed' ? [textPart(generation.tokens.join(''))] : [];
  return { id: `msg-${generation.id}`, type: 'message', status, role: 'assistant', content };
}

function textPart(text: string): object {
  return { type: 'output_text', text, annotations: [] };
}

function response(generation: Generation, finished: boolean): object {
  const { id, createdS, model, promptTokens, cachedTokens, tokens, finishReason } = generation;
  const truncated = finishReason === 'length';
  return {
    id,
    object: 'response',
    created_at: createdS,
    status: !finished ? 'in_progress' : truncated ? 'incomplete' : 'completed',
    error: null,
    incomplete_details: finished && truncated ? { reason: 'max_output_tokens' } : null,
    model,
    output: finished ? [messageItem(generation, 'completed')] : [],
    parallel_tool_calls: false,
    tool_choice: 'none',
    tools: [],
    metadata: { simulated: 'true' },
    usage: !finished
      ? null
      : {
          input_tokens: promptTokens,
          input_tokens_details: { cached_tokens: cachedTokens },
          output_tokens: tokens.length,
          output_tokens_details: { reasoning_tokens: 0 },
          total_tokens: promptTokens + tokens.length,
        },
  };
}

/** `POST /v1/responses`. */
export const responses: Dialect = {
  path: '/v1/responses',
  idPrefix: 'resp_',
  parse(body) {
    const result = schema.safeParse(body);
    if (!result.success) return invalidRequest(result.error);
    const { model, input, instructions, stream, max_output_tokens: outputTokensMax } = result.data;
    const messages: PromptMessage[] = [];
    if (typeof instructions === 'string') messages.push({ role: 'developer', text: instructions });
    if (typeof input === 'string') messages.push({ role: 'user', text: input });
    else {
      for (const item of input) {
        // Items that are no messages (tool calls and their results) count as their JSON.
        messages.push(item.role === undefined ? { role: 'tool', text: JSON.stringify(item) } : { role: item.role, text: contentText(item.content) });
      }
    }
    return {
      ok: true,
      request: {
        model,
        prompt: chatPrompt(messages),
        stream: stream ?? false,
        includeUsage: true,
        outputTokensMax: outputTokensMax ?? undefined,
        ignoreEos: false,
      },
    };
  },
  toAnswer(generation) {
    return response(generation, true);
  },
  toChunk(generation, index) {
    const where = { item_id: `msg-${generation.id}`, output_index: 0, content_index: 0 };
    const openingEvents = 3;
    let events = '';
    const send = (type: string, sequence: number, rest: object): void => {
      events += serverSentEvent({ type, sequence_number: sequence, ...rest }, type);
    };
    if (index === 0) {
      send('response.created', 0, { response: response(generation, false) });
      send('response.output_item.added', 1, { output_index: 0, item: messageItem(generation, 'in_progress') });
      send('response.content_part.added', 2, { ...where, part: textPart('') });
    }
    send('response.output_text.delta', openingEvents + index, { ...where, delta: generation.tokens[index], logprobs: [] });
    if (isLast(generation, index)) {
      const text = generation.tokens.join('');
      const next = openingEvents + index + 1;
      send('response.output_text.done', next, { ...where, text, logprobs: [] });
      send('response.content_part.done', next + 1, { ...where, part: textPart(text) });
      send('response.output_item.done', next + 2, { output_index: 0, item: messageItem(generation, 'completed') });
      const closing = generation.finishReason === 'length' ? 'response.incomplete' : 'response.completed';
      send(closing, next + 3, { response: response(generation, true) });
    }
    return events;
  },
  toError: openAiError,
};
