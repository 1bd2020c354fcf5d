import { isDeepStrictEqual } from 'node:util';
import type { CompiledConfig, LoadOutcome } from '../config/load-outcome.ts';
import type { Problem } from '../config/problem.ts';
import { FileWatch } from '../discovery/file-watch.ts';
import type { ConfigReload, ReloadCause, ReloadEvents } from '../router/reload-events.ts';
import { versionOf } from './config-version.ts';
import { findFrozen } from './frozen-settings.ts';

/** The configuration in force, and what came of the last attempt to replace it. */
export interface ConfigStatus {
  readonly file: string;
  /** Tells versions apart, also between routers. */
  readonly version: string;
  /** Milliseconds since the Unix epoch. */
  readonly loadedAtMs: number;
  readonly warnings: readonly Problem[];
  /** Undefined: it was never read again. */
  readonly lastReload: (ConfigReload & { readonly atMs: number }) | undefined;
}

export interface ReloaderOptions {
  /** Absolute path of the configuration. */
  readonly file: string;
  readonly running: CompiledConfig;
  readonly warnings: readonly Problem[];
  /** Reads, checks and compiles the file. Never throws. */
  readonly load: (file: string) => LoadOutcome;
  /** Puts a configuration into force, whole, before it returns. */
  readonly apply: (config: CompiledConfig) => void;
  readonly events: Pick<ReloadEvents, 'configReloaded'>;
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: () => number;
  /** Of `FileWatch`. */
  readonly settleMs?: number;
  readonly pollMs?: number;
}

/**
 * Reads the configuration again when told to, or when one of its files changes, and puts it into force where it can be used whole; else
 * the one before it stays, whole.
 */
export class ConfigReloader {
  readonly #options: ReloaderOptions;
  #running: CompiledConfig;
  /** As it was read last, in force or not. */
  #read: LoadOutcome;
  #status: ConfigStatus;
  #watch: { readonly files: readonly string[]; readonly watch: FileWatch } | undefined;
  #stopped = false;

  constructor(options: ReloaderOptions) {
    const { file, running, warnings, wallMs } = options;
    this.#options = options;
    this.#running = running;
    this.#read = { ok: true, config: running, warnings };
    this.#status = { file, version: versionOf(running), loadedAtMs: wallMs(), warnings, lastReload: undefined };
  }

  get status(): ConfigStatus {
    return this.#status;
  }

  /** Watches the files from now on, where the configuration says so. */
  start(): void {
    this.#follow();
  }

  /** Ends at once. Idempotent. */
  stop(): void {
    this.#stopped = true;
    this.#watch?.watch.stop();
  }

  /** Reads the configuration now. Never throws: what cannot be put into force is refused. */
  reload(cause: ReloadCause): ConfigReload {
    const { file, events, wallMs } = this.#options;
    const { warnings, ...came } = this.#try();
    const reload: ConfigReload = { ...came, cause, file };
    const atMs = wallMs();
    this.#status = {
      ...this.#status,
      ...(came.outcome !== 'refused' && { warnings }),
      ...(came.outcome === 'applied' && { version: came.version, loadedAtMs: atMs }),
      lastReload: { ...reload, atMs },
    };
    events.configReloaded(reload);
    this.#follow();
    return reload;
  }

  #try(): Pick<ConfigReload, 'problems'> & { readonly warnings: readonly Problem[] } & (
      | { readonly outcome: 'applied' | 'unchanged'; readonly version: string }
      | { readonly outcome: 'refused'; readonly version: string | undefined }
    ) {
    const { file, load, apply } = this.#options;
    const loaded = load(file);
    this.#read = loaded;
    if (!loaded.ok) return { outcome: 'refused', version: undefined, problems: loaded.problems, warnings: [] };
    const { warnings } = loaded;
    const version = versionOf(loaded.config);
    const problems = findFrozen(this.#running, loaded.config);
    if (problems.length > 0) return { outcome: 'refused', version, problems, warnings };
    if (isSame(loaded, { ok: true, config: this.#running, warnings })) return { outcome: 'unchanged', version, problems: [], warnings };
    // One that was made up stays: sessions go by it.
    const config: CompiledConfig = { ...loaded.config, affinitySecret: this.#running.affinitySecret };
    try {
      apply(config);
    } catch (error) {
      return { outcome: 'refused', version, problems: [{ path: '', message: `cannot be put into force, which is a bug: ${String(error)}` }], warnings };
    }
    this.#running = config;
    return { outcome: 'applied', version, problems: [], warnings };
  }

  /** Watches the files that count now, and no others. */
  #follow(): void {
    const { file, settleMs, pollMs } = this.#options;
    const { settings, files } = this.#running;
    // Also those of one that was refused: what is wrong with it may be put right there, as where a file that it names comes after it.
    const read = this.#read.ok ? this.#read.config.files.read : (this.#read.read ?? []);
    const wanted = settings.reload.watch && !this.#stopped ? [...new Set([file, ...files.read, ...read])] : [];
    if (isDeepStrictEqual(wanted, this.#watch?.files ?? [])) return;
    this.#watch?.watch.stop();
    this.#watch = undefined;
    if (wanted.length === 0) return;
    const watch = new FileWatch({
      files: wanted,
      onChange: () => void this.reload('file'),
      ...(settleMs !== undefined && { settleMs }),
      ...(pollMs !== undefined && { pollMs }),
    });
    this.#watch = { files: wanted, watch };
    void watch.start().then(() => {
      // What changed between being read and being watched.
      if (this.#watch?.watch === watch && !this.#stopped && !isSame(this.#options.load(file), this.#read)) this.reload('file');
    });
  }
}

/** Whether two readings came to the same, but for a secret that was made up. */
function isSame(a: LoadOutcome, b: LoadOutcome): boolean {
  return isDeepStrictEqual(toComparable(a), toComparable(b));
}

function toComparable(read: LoadOutcome): unknown {
  return read.ok ? [read.config.settings, read.config.files] : read;
}
