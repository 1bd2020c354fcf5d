const redacted = '[redacted]';
const charsMax = 2_000;
const entriesMax = 50;
const depthMax = 4;
const causesMax = 3;

/** Parts of names whose text never goes into a log, compared in lower case without separators. Numbers under them may: `promptTokens`. */
const secretParts = ['prompt', 'session', 'tenant', 'authorization', 'cookie', 'apikey', 'password', 'secret', 'credential'];
/** Whole names that carry what a client sent, or objects that hold it. */
const clientNames = new Set([
  ...['body', 'call', 'content', 'facts', 'headers', 'input', 'instructions', 'messages', 'metadata', 'rawheaders'],
  ...['req', 'request', 'res', 'response', 'system', 'token', 'tools', 'trailers', 'user'],
]);

/**
 * What may be logged of an object's fields: plain data, bounded in depth, width and length. Whatever is named like a prompt,
 * session, tenant or credential loses its text, and objects that are not plain data (requests, sockets, buffers) are named
 * instead of shown. Total: an unreadable value is said to be so.
 */
export function toSafeFields(fields: object): Record<string, unknown> {
  if (fields instanceof Error) return { err: toSafeError(fields) };
  return isPlain(fields) ? toSafeObject(fields, 0) : { dropped: nameOf(fields) };
}

/** Type, message, code, stack frames and causes of an error. A parser's message is left out, because it quotes its input. */
export function toSafeError(error: Error, causes = 0): Record<string, unknown> {
  const { name, message, stack, cause } = error;
  const code: unknown = 'code' in error ? error.code : undefined;
  return {
    type: name,
    message: error instanceof SyntaxError ? '[left out: may quote input]' : toSafeText(message),
    ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}),
    stack: toSafeText(framesOf(stack ?? '', message)),
    ...(cause instanceof Error && causes < causesMax ? { cause: toSafeError(cause, causes + 1) } : {}),
  };
}

/** The frames of a stack, without the message that stands before them. */
function framesOf(stack: string, message: string): string {
  const at = stack.indexOf(message);
  const below = at === -1 ? stack : stack.slice(at + message.length);
  return below
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .join('\n');
}

/** Text cut to a length that a log line can bear. */
export function toSafeText(text: string): string {
  return text.length > charsMax ? `${text.slice(0, charsMax)}…` : text;
}

function toSafeObject(fields: object, depth: number): Record<string, unknown> {
  const safe: Record<string, unknown> = {};
  for (const key of Object.keys(fields).slice(0, entriesMax)) {
    let value: unknown;
    try {
      value = (fields as Record<string, unknown>)[key];
      if (isSecret(key, value)) value = redacted;
      // What is thrown and is no Error may be anything, a client's text included.
      else if (key === 'err' && !(value instanceof Error)) value = { type: typeof value };
      else value = toSafeValue(value, depth + 1);
    } catch {
      value = '[unreadable]';
    }
    // Not by assignment: `__proto__` is a name like any other here.
    Object.defineProperty(safe, key, { value, enumerable: true, configurable: true, writable: true });
  }
  return safe;
}

function toSafeValue(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return toSafeText(value);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'function' || typeof value === 'symbol') return `[${typeof value}]`;
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Error) return toSafeError(value);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (depth > depthMax) return '[deeper]';
  if (Array.isArray(value)) return value.slice(0, entriesMax).map((item) => toSafeValue(item, depth + 1));
  return isPlain(value) ? toSafeObject(value, depth) : nameOf(value);
}

function isSecret(key: string, value: unknown): boolean {
  if (value === undefined || value === null || typeof value === 'number' || typeof value === 'boolean') return false;
  const name = key.toLowerCase().replace(/[^a-z0-9]/g, '');
  return clientNames.has(name) || secretParts.some((part) => name.includes(part));
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function nameOf(value: object): string {
  const made: unknown = value.constructor;
  return `[${typeof made === 'function' ? made.name : 'object'}]`;
}
