import type { EndpointListOutcome } from '../router/fleet-members.ts';
import type { Discovery, DiscoveryListener } from '../router/ports.ts';
import { FileWatch } from './file-watch.ts';

export interface FileDiscoveryOptions {
  /** Absolute path. */
  readonly file: string;
  /** Reads and checks the file. Never throws. */
  readonly read: (file: string) => EndpointListOutcome;
  readonly listener: DiscoveryListener;
  readonly settleMs?: number;
  readonly pollMs?: number;
}

/** Endpoints that a file names. A file that is gone or cannot be used changes nothing: what it said last holds. */
export class FileDiscovery implements Discovery {
  readonly #options: FileDiscoveryOptions;
  readonly #watch: FileWatch;
  #stopped = false;

  constructor(options: FileDiscoveryOptions) {
    const { file, settleMs, pollMs } = options;
    this.#options = options;
    this.#watch = new FileWatch({
      files: [file],
      onChange: () => this.refresh(),
      ...(settleMs !== undefined && { settleMs }),
      ...(pollMs !== undefined && { pollMs }),
    });
  }

  async start(): Promise<void> {
    // The watch first: what is written while the file is read is noticed.
    await this.#watch.start();
    this.refresh();
  }

  stop(): void {
    this.#stopped = true;
    this.#watch.stop();
  }

  refresh(): void {
    if (this.#stopped) return;
    const { file, read, listener } = this.#options;
    const outcome = read(file);
    if (outcome.ok) listener.found(outcome.endpoints);
    else listener.failed({ source: file, causes: outcome.problems });
  }
}
