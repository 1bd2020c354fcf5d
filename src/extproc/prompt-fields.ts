/** Request path suffix → top-level body keys that hold prompt text. `/chat/completions` comes before `/completions`, which it ends in. */
const PROMPT_FIELDS: readonly (readonly [suffix: string, fields: readonly string[]])[] = [
  ['/chat/completions', Object.freeze(['messages', 'tools', 'functions'])],
  ['/completions', Object.freeze(['prompt'])],
  ['/responses', Object.freeze(['instructions', 'input', 'tools'])],
  ['/embeddings', Object.freeze(['input'])],
  ['/messages', Object.freeze(['system', 'messages', 'tools'])],
];

/**
 * The top-level body keys that hold the prompt of a request to `path` (the `:path` header, query included), in no
 * particular order. Sources: the OpenAI API (chat completions, completions, responses, embeddings; `functions` is the
 * older name of `tools`) and the Anthropic API (messages). Tool definitions count, because servers render them into the prompt.
 *
 * Matches by suffix, so that a prefix such as `/openai/v1` does not matter. `undefined`: not an LLM body; route on headers.
 * Equal paths give the identical array, so callers can key plans on it.
 */
export function toPromptFields(path: string): readonly string[] | undefined {
  const query = path.indexOf('?');
  const bare = query === -1 ? path : path.slice(0, query);
  for (const [suffix, fields] of PROMPT_FIELDS) {
    if (bare.endsWith(suffix)) return fields;
  }
  return undefined;
}
