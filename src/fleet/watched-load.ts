import type { Added, Load } from './load.ts';

/** Load that tells when it changes, so that whoever keeps sums of it knows that they are old. */
export class WatchedLoad implements Load {
  readonly #changed: () => void;
  #requests = 0;
  #promptTokens = 0;
  #requestsWaiting = 0;
  #uncachedTokensWaiting = 0;

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

  get requestsWaiting(): number {
    return this.#requestsWaiting;
  }

  set requestsWaiting(requestsWaiting: number) {
    this.#requestsWaiting = requestsWaiting;
    this.#changed();
  }

  get uncachedTokensWaiting(): number {
    return this.#uncachedTokensWaiting;
  }

  set uncachedTokensWaiting(uncachedTokensWaiting: number) {
    this.#uncachedTokensWaiting = uncachedTokensWaiting;
    this.#changed();
  }

  /** As it is now. */
  toLoad(): Record<keyof Load, number> {
    return {
      requests: this.#requests,
      promptTokens: this.#promptTokens,
      requestsWaiting: this.#requestsWaiting,
      uncachedTokensWaiting: this.#uncachedTokensWaiting,
    };
  }
}

/** The same for what was ever sent somewhere. */
export class WatchedAdded implements Added {
  readonly #changed: () => void;
  #requests = 0;
  #promptTokens = 0;
  #uncachedTokens = 0;

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

  get uncachedTokens(): number {
    return this.#uncachedTokens;
  }

  set uncachedTokens(uncachedTokens: number) {
    this.#uncachedTokens = uncachedTokens;
    this.#changed();
  }

  /** As it is now. */
  toAdded(): Readonly<Added> {
    return { requests: this.#requests, promptTokens: this.#promptTokens, uncachedTokens: this.#uncachedTokens };
  }
}
