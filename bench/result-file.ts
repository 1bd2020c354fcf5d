import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import path from 'node:path';
import { projectRoot } from '../lab/child-process.ts';

/** Where results are kept. */
export const resultsFolder = path.join(projectRoot, 'bench/results');

/** What results have to name of where they were measured. */
export function describeMachine(): { readonly cpus: number; readonly model: string; readonly node: string } {
  return { cpus: cpus().length, model: cpus()[0]?.model ?? '?', node: process.version };
}

/** Writes what was measured, as JSON, into a folder that need not be there. */
export async function writeResults(file: string, results: unknown): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(results, null, 2)}\n`);
}
