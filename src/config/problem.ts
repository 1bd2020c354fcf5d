/** One thing wrong with a configuration: where, and what was expected there. */
export interface Problem {
  /** Dotted path, such as `pools[0].endpoints[1].address`; empty for the file as a whole. */
  readonly path: string;
  readonly message: string;
}

/** Joins path segments the way people write them. */
export function toPath(segments: readonly PropertyKey[]): string {
  return segments.reduce<string>(
    (path, segment) => (typeof segment === 'number' ? `${path}[${segment}]` : path === '' ? String(segment) : `${path}.${String(segment)}`),
    '',
  );
}

/** Problems as lines of text. */
export function describeProblems(problems: readonly Problem[]): string {
  return problems.map(({ path, message }) => `  ${path === '' ? '(file)' : path}: ${message}`).join('\n');
}
