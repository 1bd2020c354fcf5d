import { parseDocument } from 'yaml';
import type { Problem } from './problem.ts';

/** What stands in a YAML text (JSON is YAML too), or why it cannot be read. */
export type YamlOutcome = { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly problems: readonly Problem[] };

/** Reads one YAML document. Keys that stand twice and aliases without end are problems. Never throws. */
export function readYaml(text: string): YamlOutcome {
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true });
  if (document.errors.length > 0) {
    return { ok: false, problems: document.errors.map(({ message }) => ({ path: '', message: `not valid YAML: ${message.split('\n')[0] ?? ''}` })) };
  }
  try {
    // Aliases are resolved only here: one that points nowhere, or too many of them, throws.
    return { ok: true, value: document.toJS({ maxAliasCount: 100 }) };
  } catch (error) {
    return { ok: false, problems: [{ path: '', message: `not valid YAML: ${(error as Error).message}` }] };
  }
}
