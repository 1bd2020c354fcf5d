/** Fields of one line of a log or trace. */
export type Fields = Readonly<Record<string, unknown>>;

/** The JSON object that a line holds; undefined: it holds something else. Never throws. */
export function parseObject(row: string): Fields | undefined {
  try {
    const parsed: unknown = JSON.parse(row);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? (parsed as Fields) : undefined;
  } catch {
    return undefined;
  }
}
