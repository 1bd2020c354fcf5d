import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { projectRoot } from '../../lab/child-process.ts';

/** The Go baseline's binary, or why there is none. */
export type GoBaseline = { readonly file: string } | { readonly missing: string };

/** Builds bench/baseline-go/ into .cache/, which takes no time when nothing changed. Needs Go and, the first time, its module proxy. */
export function buildGoBaseline(): GoBaseline {
  const file = path.join(projectRoot, '.cache/bench/baseline-go');
  mkdirSync(path.dirname(file), { recursive: true });
  const folder = path.join(projectRoot, 'bench/baseline-go');
  const { status, stderr, error } = spawnSync('go', ['build', '-trimpath', '-o', file, '.'], { cwd: folder, encoding: 'utf8' });
  if (error !== undefined) return { missing: 'Go is not installed (Debian: package golang)' };
  if (status !== 0) return { missing: `go build failed: ${stderr.trim().split('\n').at(-1) ?? ''}` };
  return { file };
}
