import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseDocument } from 'yaml';
import type { z } from 'zod';
import { compile } from './compile.ts';
import type { LoadOutcome } from './load-outcome.ts';
import { readFiles } from './files.ts';
import { type Problem, toPath } from './problem.ts';
import { configSchema } from './schema.ts';

/** Reads, checks and compiles a configuration file. Never throws for what a user can have written. */
export function loadConfigFile(file: string): LoadOutcome {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    return { ok: false, problems: [{ path: '', message: `cannot be read: ${(error as Error).message}` }] };
  }
  return loadConfig(text, path.dirname(path.resolve(file)));
}

/** Checks and compiles a configuration given as YAML text; file names in it are taken from `folder`. */
export function loadConfig(text: string, folder: string = process.cwd()): LoadOutcome {
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true });
  if (document.errors.length > 0) {
    return { ok: false, problems: document.errors.map(({ message }) => ({ path: '', message: `not valid YAML: ${message.split('\n')[0] ?? ''}` })) };
  }
  let written: unknown;
  try {
    // Aliases are resolved only here: one that points nowhere, or too many of them, throws.
    written = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    return { ok: false, problems: [{ path: '', message: `not valid YAML: ${(error as Error).message}` }] };
  }
  const parsed = configSchema.safeParse(written ?? {});
  if (!parsed.success) return { ok: false, problems: parsed.error.issues.flatMap((issue) => toProblems(issue)) };
  const read = readFiles(parsed.data, folder);
  return read.problems.length > 0 ? { ok: false, problems: read.problems } : compile(parsed.data, read.contents);
}

/** One schema issue as problems with full paths: an unknown key is reported where it stands, a union by its nearest branch. */
function toProblems(issue: z.core.$ZodIssue, above: readonly PropertyKey[] = []): Problem[] {
  const segments = [...above, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({ path: toPath([...segments, key]), message: 'unknown field' }));
  }
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    // A branch whose complaints lie deeper than its own keys is the one the user meant.
    const meant = issue.errors.filter((branch) => branch.every((inner) => inner.path.length > 0 || inner.code === 'unrecognized_keys'));
    const first = meant.length === 1 ? meant[0] : undefined;
    if (first !== undefined) return first.flatMap((inner) => toProblems(inner, segments));
  }
  return [{ path: toPath(segments), message: issue.message }];
}
