import { textHash } from '../../sim/model-server/block-hashes.ts';
import { generatedTokens } from '../../sim/model-server/generated-text.ts';
import { chatCompletions } from '../../sim/model-server/openai-completions.ts';

/**
 * Every byte that a simulated server streams for this chat request (with `ignore_eos` and without usage). The answer's text hangs on the
 * prompt alone; its id and time of creation are taken from the stream received.
 */
export function expectedChatStream(request: object, received: string): string {
  const parsed = chatCompletions.parse(request);
  if (!parsed.ok) throw new Error(parsed.message);
  const { prompt, outputTokensMax = 0 } = parsed.request;
  const [, id = '', created = ''] = /"id":"([^"]+)","object":"chat\.completion\.chunk","created":(\d+)/.exec(received) ?? [];
  const generation = {
    id,
    model: parsed.request.model ?? 'simulated-model',
    createdS: Number(created),
    promptTokens: prompt.length / 4,
    cachedTokens: 0,
    tokens: generatedTokens(textHash(prompt), outputTokensMax),
    finishReason: 'length' as const,
    includeUsage: false,
  };
  return generation.tokens.map((_, index) => chatCompletions.toChunk(generation, index)).join('');
}
