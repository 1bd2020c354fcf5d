import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { Problem } from './problem.ts';
import type { Config } from './schema.ts';

/** What stood in the files that a configuration names; undefined where it names none. */
export interface FileContents {
  readonly affinitySecret: string | undefined;
  readonly redisPassword: string | undefined;
  /** PEM texts. */
  readonly redisCa: string | undefined;
  readonly redisCert: string | undefined;
  readonly redisKey: string | undefined;
  readonly explainToken: string | undefined;
  /** Not contents but a path, absolute: the file is written. */
  readonly decisionLog: string | undefined;
}

/** Reads the files that a configuration names, relative to its own folder. */
export function readFiles(config: Config, folder: string): { readonly contents: FileContents; readonly problems: readonly Problem[] } {
  const problems: Problem[] = [];
  const read = (at: string, file: string | undefined, beside?: string): string | undefined => {
    if (file === undefined) return undefined;
    if (beside !== undefined) problems.push({ path: at, message: 'expected the value itself or a file with it, not both' });
    try {
      const text = readFileSync(path.resolve(folder, file), 'utf8').trim();
      if (text === '') problems.push({ path: at, message: `${file} is empty` });
      return text;
    } catch (error) {
      problems.push({ path: at, message: `cannot be read: ${(error as Error).message}` });
      return undefined;
    }
  };
  const redis = config.state.kind === 'redis' ? config.state : undefined;
  const contents = {
    affinitySecret: read('affinity.secretFile', config.affinity.secretFile, config.affinity.secret),
    redisPassword: read('state.passwordFile', redis?.passwordFile, redis?.password),
    redisCa: read('state.tls.caFile', redis?.tls?.caFile),
    redisCert: read('state.tls.certFile', redis?.tls?.certFile),
    redisKey: read('state.tls.keyFile', redis?.tls?.keyFile),
    explainToken: read('explain.tokenFile', config.explain.tokenFile, config.explain.token),
    decisionLog: config.decisionLog.file === undefined ? undefined : path.resolve(folder, config.decisionLog.file),
  };
  return { contents, problems };
}
