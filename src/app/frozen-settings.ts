import { isDeepStrictEqual } from 'node:util';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { type Problem, toPath } from '../config/problem.ts';
import type { Config } from '../config/schema.ts';

/** Settings that a running router takes up; all others, those of the future included, need a restart. */
const reloadable: ReadonlySet<string> = new Set<keyof Config>(['facts', 'outputs', 'pools', 'routes', 'leases', 'drain', 'explain', 'reload', 'log']);
/** Of sections that are frozen otherwise. */
const reloadablePaths: ReadonlySet<string> = new Set(['affinity.cookie', 'limits.scanBytesMax', 'limits.askForBodyBytesMax', 'limits.decideDeadlineMs']);
/** The affinity secret counts by what it is, wherever it is written. */
const comparedByValue: ReadonlySet<string> = new Set(['affinity.secret', 'affinity.secretFile']);

/** Contents of files that are used only when the router starts, with the settings that name them. */
const frozenFiles = {
  redisPassword: 'state.passwordFile',
  redisCa: 'state.tls.caFile',
  redisCert: 'state.tls.certFile',
  redisKey: 'state.tls.keyFile',
} as const satisfies Partial<Record<keyof CompiledConfig['files'], string>>;

const cause = 'cannot change while the router runs: restart it to have this, or change it back';

/** What of another configuration a running router cannot take up; none: it can take it up whole. */
export function findFrozen(running: CompiledConfig, wanted: CompiledConfig): Problem[] {
  const problems = differences(running.settings, wanted.settings, []).map((path) => ({ path, message: cause }));
  if (secretOf(running) !== secretOf(wanted)) problems.push({ path: wanted.settings.affinity.secretFile === undefined ? 'affinity.secret' : 'affinity.secretFile', message: cause });
  for (const [name, path] of Object.entries(frozenFiles) as [keyof typeof frozenFiles, string][]) {
    // A file that is named now and was not before is a difference of the settings already.
    const [before, after] = [running.files[name], wanted.files[name]];
    if (before !== undefined && after !== undefined && before !== after) problems.push({ path, message: `what stands in the file ${cause}` });
  }
  return problems;
}

/** The secret that somebody wrote; undefined: each start makes one up, and a reload keeps it. */
function secretOf({ settings, files }: CompiledConfig): string | undefined {
  return settings.affinity.secret ?? files.affinitySecret;
}

/** Paths of frozen settings that differ, as deep as both sides have the same form. */
function differences(before: unknown, after: unknown, above: readonly string[]): string[] {
  if (above.length === 1 && reloadable.has(above[0] ?? '')) return [];
  const path = toPath(above);
  if (reloadablePaths.has(path) || comparedByValue.has(path) || isDeepStrictEqual(before, after)) return [];
  if (!isObject(before) || !isObject(after)) return [path];
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...names].flatMap((name) => differences(before[name], after[name], [...above, name]));
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
