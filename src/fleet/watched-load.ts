import type { Added, Load } from './load.ts';

/** Counts that tell when they change, so that whoever keeps sums of them knows that they are old. */
abstract class Watched {
  readonly #changed: () => void;
  #requests = 0;
  #promptTokens = 0;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get requests(): number {
    return this.#requests;
  }

  set requests(requests: number) {
    this.#requests = requests;
    this.#changed();
  }

  get promptTokens(): number {
    return this.#promptTokens;
  }

  set promptTokens(promptTokens: number) {
    this.#promptTokens = promptTokens;
    this.#changed();
  }

  protected changed(): void {
    this.#changed();
  }
}

/** What is in flight. */
export class WatchedLoad extends Watched implements Load {
  #requestsWaiting = 0;
  #uncachedTokensWaiting = 0;

  get requestsWaiting(): number {
    return this.#requestsWaiting;
  }

  set requestsWaiting(requestsWaiting: number) {
    this.#requestsWaiting = requestsWaiting;
    this.changed();
  }

  get uncachedTokensWaiting(): number {
    return this.#uncachedTokensWaiting;
  }

  set uncachedTokensWaiting(uncachedTokensWaiting: number) {
    this.#uncachedTokensWaiting = uncachedTokensWaiting;
    this.changed();
  }

  /** As it is now. */
  toLoad(): Record<keyof Load, number> {
    const { requests, promptTokens, requestsWaiting, uncachedTokensWaiting } = this;
    return { requests, promptTokens, requestsWaiting, uncachedTokensWaiting };
  }
}

/** What was ever sent somewhere. */
export class WatchedAdded extends Watched implements Added {
  #uncachedTokens = 0;

  get uncachedTokens(): number {
    return this.#uncachedTokens;
  }

  set uncachedTokens(uncachedTokens: number) {
    this.#uncachedTokens = uncachedTokens;
    this.changed();
  }

  /** As it is now. */
  toAdded(): Readonly<Added> {
    const { requests, promptTokens, uncachedTokens } = this;
    return { requests, promptTokens, uncachedTokens };
  }
}
