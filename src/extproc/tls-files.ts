import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';

/** Paths of PEM files. */
export interface TlsPaths {
  /** The server's certificate, and those that lead to its root. */
  readonly certFile: string;
  readonly keyFile: string;
  /** Who signs clients' certificates; absent: clients need none. */
  readonly clientCaFile?: string | undefined;
  /** How often the files are read again, in ms; default 5000. Their contents count: a link that is switched, as in Kubernetes volumes, changes no file. */
  readonly pollMs?: number | undefined;
}

interface PemFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly clientCa: Buffer | undefined;
}

/** PEM contents that fit together. */
export interface TlsContents extends PemFiles {
  /** When the server's certificate ends. */
  readonly validTo: Date;
}

/** What became of changed files. */
export type TlsReload = { readonly ok: true; readonly validTo: Date } | { readonly ok: false; readonly error: Error };

const pollMsDefault = 5_000;

/** Certificate, key and client CA of a server, read again when they change. */
export class TlsFiles {
  readonly #paths: TlsPaths;
  readonly #onReload: (outcome: TlsReload) => void;
  readonly #listeners = new Set<(contents: TlsContents) => void>();
  #current: TlsContents;
  /** What was refused last: said once. */
  #refused: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #reading: Promise<void> | undefined;

  private constructor(paths: TlsPaths, contents: TlsContents, onReload: (outcome: TlsReload) => void) {
    this.#paths = paths;
    this.#current = contents;
    this.#onReload = onReload;
  }

  /** Reads the files. Rejects, naming the cause, where they cannot be read or do not fit together. `onReload`: told of later changes. */
  static async open(paths: TlsPaths, onReload: (outcome: TlsReload) => void = () => undefined): Promise<TlsFiles> {
    return new TlsFiles(paths, toContents(paths, await readFiles(paths)), onReload);
  }

  get contents(): TlsContents {
    return this.#current;
  }

  /** Whether clients have to show a certificate. */
  get asksClients(): boolean {
    return this.#paths.clientCaFile !== undefined;
  }

  /** Looks for changes from now on; `onChange` is called with each new contents. */
  watch(onChange: (contents: TlsContents) => void): void {
    this.#listeners.add(onChange);
    this.#timer ??= setInterval(() => void this.reload(), this.#paths.pollMs ?? pollMsDefault).unref();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#listeners.clear();
  }

  /** Reads the files again. What does not fit together, such as a new certificate whose key is still to come, changes nothing. Never rejects. */
  reload(): Promise<void> {
    this.#reading ??= this.#read().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #read(): Promise<void> {
    let contents = this.#current;
    try {
      const files = await readFiles(this.#paths);
      if (!isSame(files, contents)) contents = toContents(this.#paths, files);
    } catch (error) {
      const problem = error instanceof Error ? error : new Error(String(error));
      if (problem.message !== this.#refused) this.#onReload({ ok: false, error: problem });
      this.#refused = problem.message;
      return;
    }
    this.#refused = undefined;
    if (contents === this.#current) return;
    this.#current = contents;
    for (const listener of [...this.#listeners]) listener(contents);
    this.#onReload({ ok: true, validTo: contents.validTo });
  }
}

/** What a TLS server is given of them. */
export function toContextOptions({ cert, key, clientCa }: TlsContents): { cert: Buffer; key: Buffer; ca?: Buffer; minVersion: 'TLSv1.2' } {
  return { cert, key, ...(clientCa !== undefined && { ca: clientCa }), minVersion: 'TLSv1.2' };
}

async function readFiles({ certFile, keyFile, clientCaFile }: TlsPaths): Promise<PemFiles> {
  const [cert, key, clientCa] = await Promise.all([readPem(certFile), readPem(keyFile), clientCaFile === undefined ? undefined : readPem(clientCaFile)]);
  return { cert, key, clientCa };
}

/** Throws, naming the file, for what no server could use. */
function toContents({ certFile, keyFile, clientCaFile }: TlsPaths, { cert, key, clientCa }: PemFiles): TlsContents {
  const leaf = parsePem(certFile, () => new X509Certificate(cert));
  const privateKey = parsePem(keyFile, () => createPrivateKey(key));
  if (clientCaFile !== undefined && clientCa !== undefined) parsePem(clientCaFile, () => new X509Certificate(clientCa));
  if (!leaf.checkPrivateKey(privateKey)) throw new Error(`${keyFile} is not the key of the certificate in ${certFile}`);
  // Above, only the first certificate of a chain was looked at; and OpenSSL refuses keys that are too short.
  parsePem(certFile, () => createSecureContext({ cert, key }));
  return { cert, key, clientCa, validTo: new Date(leaf.validTo) };
}

async function readPem(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new Error(`${file} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}

function parsePem<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new Error(`${file} holds no usable PEM: ${(error as Error).message}`, { cause: error });
  }
}

function isSame(a: PemFiles, b: PemFiles): boolean {
  const caIsSame = a.clientCa === undefined || b.clientCa === undefined ? a.clientCa === b.clientCa : a.clientCa.equals(b.clientCa);
  return a.cert.equals(b.cert) && a.key.equals(b.key) && caIsSame;
}
