// The requests that a load generator sends: OpenAI chat completions of an exact size, made of prose in several messages.

/** Where a request tells its session. */
export type SessionSource = 'header' | 'body' | 'none';

/** A request whose body is `before`, eight digits that differ in each request, and `after`: so many bytes of it are a prompt seen before. */
export interface RequestTemplate {
  readonly headers: Readonly<Record<string, string>>;
  readonly before: string;
  readonly after: string;
}

export interface RequestShape {
  /** Size of the body, exactly. */
  readonly bodyBytes: number;
  readonly session: SessionSource;
  /** Whether a stream is asked for. */
  readonly stream?: boolean;
  /** Different prompts, or sessions. */
  readonly variants: number;
}

export const nonceDigits = 8;
const nonceMark = '0'.repeat(nonceDigits);
/** Share of a prompt that comes before the first byte that no request had before: turns of agents reuse nine tenths. */
const knownShare = 0.9;
const messageBytesMax = 4_000;
const wordList =
  'the harbour pilot notes that vessels of this class require assistance when wind exceeds twenty knots and current sets across the entrance because moorings were designed for shorter hulls'.split(
    ' ',
  );

/** The templates of a shape. The same shape gives the same ones. */
export function makeRequests(shape: RequestShape): RequestTemplate[] {
  return Array.from({ length: shape.variants }, (_, variant) => {
    const body = makeBody(shape, variant);
    const at = body.indexOf(nonceMark);
    return {
      headers: { 'content-type': 'application/json', ...(shape.session === 'header' && { 'x-session-id': sessionName(variant) }) },
      before: body.slice(0, at),
      after: body.slice(at + nonceDigits),
    };
  });
}

const sessionName = (variant: number): string => `session-${variant}`;

function makeBody({ bodyBytes, session, stream = false }: RequestShape, variant: number): string {
  const prose = new Prose(variant + 1);
  const messages: { role: string; content: string }[] = [{ role: 'system', content: 'You answer pilots in short sentences.' }];
  const request = {
    model: 'bench-model',
    messages,
    stream,
    max_tokens: 256,
    ...(session === 'body' && { prompt_cache_key: sessionName(variant) }),
  };
  const frame = JSON.stringify({ role: 'assistant', content: '' }).length + 1;
  let left = bodyBytes - JSON.stringify(request).length;
  let hasNonce = false;
  while (left > frame) {
    const message = { role: messages.length % 2 === 1 ? 'user' : 'assistant', content: '' };
    messages.push(message);
    const size = Math.min(messageBytesMax, left - frame);
    const wantsNonce: boolean = !hasNonce && (bodyBytes - left + size >= bodyBytes * knownShare || left <= messageBytesMax + frame);
    const nonce = wantsNonce ? `${nonceMark} ` : '';
    hasNonce ||= wantsNonce;
    message.content = nonce + prose.take(size - nonce.length);
    left -= JSON.stringify(message).length + 1;
  }
  // What no further message has room for; JSON needs no escapes for it.
  const last = messages.at(-1);
  if (last !== undefined) last.content += 'x'.repeat(Math.max(0, left));
  const body = JSON.stringify(request);
  if (Buffer.byteLength(body) !== bodyBytes || !body.includes(nonceMark)) throw new Error(`no request of ${bodyBytes} bytes can be made`);
  return body;
}

/** Text that differs from seed to seed, with the quotes and line breaks that prompts have and JSON escapes. */
class Prose {
  #state: number;

  constructor(seed: number) {
    this.#state = (seed * 2_654_435_761) >>> 0;
  }

  /** Text that takes `bytes` in JSON, exactly. */
  take(bytes: number): string {
    let text = '';
    let size = 0;
    for (let word = 0; size < bytes; word += 1) {
      const draw = this.#draw();
      const plain = wordList[draw % wordList.length] ?? '';
      const isQuoted = word % 60 === 59;
      let piece = isQuoted ? `"${plain}"\n` : word % 12 === 11 ? `${plain}. ` : `${plain} `;
      // Quotes and line breaks are two bytes each in JSON.
      const escaped = piece.length + (isQuoted ? 3 : 0);
      if (size + escaped > bytes) piece = 'x'.repeat(bytes - size);
      size += Math.min(escaped, bytes - size);
      text += piece;
    }
    return text;
  }

  #draw(): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return this.#state >>> 8;
  }
}
