import { type ModelServer, type ModelServerOptions, startModelServer } from '../../sim/model-server/model-server.ts';

/** Something that a test started and has to end. */
interface Part {
  stop(): Promise<unknown>;
}

/** What one test file started. Everything ends with it, also when a later part could not start. */
export class RunningParts {
  readonly #parts: Part[] = [];

  /** Takes a part into care, as soon as it runs. */
  async add<P extends Part>(part: P | Promise<P>): Promise<P> {
    const running = await part;
    this.#parts.push(running);
    return running;
  }

  /** Simulated model servers in this process, fast enough not to matter unless `options` says otherwise. */
  async addModelServers(count: number, options: ModelServerOptions = {}): Promise<ModelServer[]> {
    const servers: ModelServer[] = [];
    for (let i = 0; i < count; i += 1) {
      const server = await startModelServer({ timeScale: 100, ...options });
      servers.push(server);
      this.#parts.push({ stop: () => server.close() });
    }
    return servers;
  }

  /** Ends everything, at the same time; the first failure is thrown when all have ended. */
  async stop(): Promise<void> {
    const results = await Promise.allSettled(this.#parts.splice(0).map((part) => part.stop()));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }
}
