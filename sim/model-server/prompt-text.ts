import { tokenBytes } from './block-hashes.ts';

/** One message as it goes into the prompt. */
export interface PromptMessage {
  readonly role: string;
  readonly text: string;
}

/** Fills a text up to whole tokens, as a tokenizer begins a new token at a message's boundary. */
function padded(text: string): string {
  const over = Buffer.byteLength(text) % tokenBytes;
  return over === 0 ? text : text + '\n'.repeat(tokenBytes - over);
}

function header(role: string): string {
  return padded(`<${role}>\n`);
}

/**
 * Puts a conversation into one text, as a chat template does: each message after its role, then the assistant's turn opened. The next
 * turn's prompt, which repeats this answer, then begins with this prompt and this answer byte for byte, and finds both cached.
 */
export function chatPrompt(messages: readonly PromptMessage[]): Buffer {
  return Buffer.from(messages.map(({ role, text }) => header(role) + padded(text)).join('') + header('assistant'));
}

/** A bare prompt, at least one token long. */
export function plainPrompt(text: string): Buffer {
  return Buffer.from(text === '' ? '\n'.repeat(tokenBytes) : padded(text));
}

/** The text of a message's content: a string, or parts of which those with a `text` count as that, others (images) as their JSON. */
export function contentText(content: unknown): string {
  if (content === undefined || content === null) return '';
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return JSON.stringify(content);
  return content
    .map((part: unknown) => {
      if (typeof part === 'string') return part;
      if (typeof part === 'object' && part !== null && 'text' in part && typeof part.text === 'string') return part.text;
      return JSON.stringify(part);
    })
    .join('');
}
