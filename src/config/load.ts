import { readFileSync } from 'node:fs';
import path from 'node:path';
import { compile } from './compile.ts';
import type { LoadOutcome } from './load-outcome.ts';
import { readFiles } from './files.ts';
import { configSchema } from './schema.ts';
import { toProblems } from './schema-problems.ts';
import { readYaml } from './yaml-text.ts';

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
  const written = readYaml(text);
  if (!written.ok) return written;
  const parsed = configSchema.safeParse(written.value ?? {});
  if (!parsed.success) return { ok: false, problems: parsed.error.issues.flatMap((issue) => toProblems(issue)) };
  const { contents, problems } = readFiles(parsed.data, folder);
  const outcome: LoadOutcome = problems.length > 0 ? { ok: false, problems } : compile(parsed.data, contents);
  return outcome.ok ? outcome : { ...outcome, read: contents.read };
}
