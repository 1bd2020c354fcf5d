import { stat } from 'node:fs/promises';
import path from 'node:path';
import { type FSWatcher, watch } from 'chokidar';

export interface FileWatchOptions {
  /** Absolute paths. */
  readonly files: readonly string[];
  /** Some of the files are not what they were: they have changed, come, gone, or lead elsewhere. Told once they stay as they are. */
  readonly onChange: () => void;
  /** How long files have to stay the same before they count as written, in ms. */
  readonly settleMs?: number;
  /** Time between looks at files whose changes nobody notified of, in ms: network and overlay file systems do not. */
  readonly pollMs?: number;
}

/** Looks at files that never settle; then what there is has to do. */
const settleLooksMax = 50;
/** Longest wait for the folders to be watched, in ms. */
const readyMsMax = 1_000;
/** Kubernetes mounts a configMap's files as links through this link, and replaces it alone. */
const kubernetesLink = '..data';

/**
 * Watches files by what they lead to. Their folders are watched for notice, since a file that is replaced by renaming another, or by
 * swapping a link above it, is lost to whoever watches the file itself; and what notice misses, looks at the files find.
 */
export class FileWatch {
  readonly #options: FileWatchOptions;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #known: string | undefined;
  #looking = false;
  #lookAgain = false;
  #stopped = false;

  constructor(options: FileWatchOptions) {
    this.#options = options;
  }

  /** Begins. What the files are now is no change. */
  async start(): Promise<void> {
    this.#known = await fingerprint(this.#options.files);
    if (this.#stopped) return;
    const { files, pollMs = 1_000 } = this.#options;
    const folders = new Set(files.map((file) => path.dirname(file)));
    const names = new Set(files.map((file) => path.basename(file)).concat(kubernetesLink));
    this.#watcher = watch([...folders], {
      depth: 0,
      followSymlinks: false,
      ignoreInitial: true,
      // Folders may be large, and nothing else in them matters.
      ignored: (entry) => !folders.has(entry) && !names.has(path.basename(entry)),
    });
    this.#watcher.on('all', () => this.#look());
    // Such as too many watches: looking goes on.
    this.#watcher.on('error', () => undefined);
    this.#timer = setInterval(() => this.#look(), pollMs).unref();
    await isReady(this.#watcher);
    // What came before the folders were watched.
    this.#look();
  }

  /** Ends at once. Idempotent. */
  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
    void this.#watcher?.close();
  }

  #look(): void {
    if (this.#stopped) return;
    if (this.#looking) {
      this.#lookAgain = true;
      return;
    }
    this.#looking = true;
    void this.#lookAtFiles().finally(() => {
      this.#looking = false;
      if (!this.#lookAgain) return;
      this.#lookAgain = false;
      this.#look();
    });
  }

  /** Never rejects. */
  async #lookAtFiles(): Promise<void> {
    const { files, settleMs = 100, onChange } = this.#options;
    let seen = await fingerprint(files);
    if (seen === this.#known) return;
    for (let looks = 1; looks < settleLooksMax; looks += 1) {
      await new Promise((resolve) => setTimeout(resolve, settleMs));
      const now = await fingerprint(files);
      if (now === seen) break;
      seen = now;
    }
    if (this.#stopped || seen === this.#known) return;
    this.#known = seen;
    onChange();
  }
}

/** Resolves when folders are watched, or when that takes too long: then looking has to do. */
function isReady(watcher: FSWatcher): Promise<void> {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, readyMsMax);
    watcher.once('ready', () => {
      clearTimeout(late);
      resolve();
    });
  });
}

/** What tells the files from what they were, without reading them. Never rejects. */
async function fingerprint(files: readonly string[]): Promise<string> {
  const prints = files.map((file) =>
    stat(file, { bigint: true }).then(
      ({ dev, ino, size, mtimeNs }) => `${dev}:${ino}:${size}:${mtimeNs}`,
      (error: unknown) => (error as NodeJS.ErrnoException).code ?? 'unknown',
    ),
  );
  return (await Promise.all(prints)).join(' ');
}
