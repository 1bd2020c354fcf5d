import { createPrivateKey, X509Certificate } from 'node:crypto';
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
  /** Not contents but paths, absolute: the files are read again when they change. */
  readonly listenTls: { readonly certFile: string; readonly keyFile: string; readonly clientCaFile?: string | undefined } | undefined;
  /** Not contents but a path, absolute: the file is written. */
  readonly decisionLog: string | undefined;
  /** By pool, the file that its endpoints are read from; paths, absolute: the files are watched. */
  readonly endpointLists: ReadonlyMap<string, string>;
  /** All files that were read here, absolute. */
  readonly read: readonly string[];
}

/** Reads the files that a configuration names, relative to its own folder. */
export function readFiles(config: Config, folder: string): { readonly contents: FileContents; readonly problems: readonly Problem[] } {
  const problems: Problem[] = [];
  const paths: string[] = [];
  const read = (at: string, file: string | undefined, beside?: string): string | undefined => {
    if (file === undefined) return undefined;
    if (beside !== undefined) problems.push({ path: at, message: 'expected the value itself or a file with it, not both' });
    paths.push(path.resolve(folder, file));
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
  const { tls } = config.listen;
  const cert = read('listen.tls.certFile', tls?.certFile);
  const key = read('listen.tls.keyFile', tls?.keyFile);
  const clientCa = read('listen.tls.clientCaFile', tls?.clientCaFile);
  if (cert !== undefined && key !== undefined && problems.length === 0) problems.push(...checkPair(cert, key));
  if (clientCa !== undefined && clientCa !== '' && parsePem(() => new X509Certificate(clientCa)) === undefined) {
    problems.push({ path: 'listen.tls.clientCaFile', message: 'expected a certificate in PEM' });
  }
  const contents = {
    affinitySecret: read('affinity.secretFile', config.affinity.secretFile, config.affinity.secret),
    redisPassword: read('state.passwordFile', redis?.passwordFile, redis?.password),
    redisCa: read('state.tls.caFile', redis?.tls?.caFile),
    redisCert: read('state.tls.certFile', redis?.tls?.certFile),
    redisKey: read('state.tls.keyFile', redis?.tls?.keyFile),
    explainToken: read('explain.tokenFile', config.explain.tokenFile, config.explain.token),
    listenTls: tls && {
      certFile: path.resolve(folder, tls.certFile),
      keyFile: path.resolve(folder, tls.keyFile),
      clientCaFile: tls.clientCaFile === undefined ? undefined : path.resolve(folder, tls.clientCaFile),
    },
    decisionLog: config.decisionLog.file === undefined ? undefined : path.resolve(folder, config.decisionLog.file),
    endpointLists: new Map(config.pools.flatMap(({ name, discovery }) => (discovery?.file === undefined ? [] : [[name, path.resolve(folder, discovery.file)] as const]))),
    read: paths,
  };
  return { contents, problems };
}

/** A certificate and its key, as PEM texts. */
function checkPair(cert: string, key: string): Problem[] {
  const leaf = parsePem(() => new X509Certificate(cert));
  if (leaf === undefined) return [{ path: 'listen.tls.certFile', message: 'expected a certificate in PEM' }];
  const privateKey = parsePem(() => createPrivateKey(key));
  if (privateKey === undefined) return [{ path: 'listen.tls.keyFile', message: 'expected a private key in PEM, without a passphrase' }];
  return leaf.checkPrivateKey(privateKey) ? [] : [{ path: 'listen.tls.keyFile', message: 'expected the key of the certificate in certFile' }];
}

function parsePem<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch {
    return undefined;
  }
}
