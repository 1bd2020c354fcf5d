/** Responses without any notice of a first token before that is called missing. */
const silentResponsesMax = 50;

interface Watched {
  silent: number;
  over: boolean;
}

/**
 * Finds out where first tokens are wanted and none is ever noticed: Envoy allows no `mode_override`, or does not send response bodies.
 * Then prompts count as waiting until their requests end, and policies that reckon with what waits choose worse.
 */
export class FirstTokenWatch {
  readonly #pools = new Map<string, Watched>();

  /** First tokens of this pool are wanted. */
  expect(pool: string): void {
    if (!this.#pools.has(pool)) this.#pools.set(pool, { silent: 0, over: false });
  }

  /** One was noticed: the notice works. */
  noticed(pool: string): void {
    const watched = this.#pools.get(pool);
    if (watched !== undefined) watched.over = true;
  }

  /** A response is complete without any notice of its first token. Returns how many are, the one time that it is to be told. */
  missed(pool: string): number | undefined {
    const watched = this.#pools.get(pool);
    if (watched === undefined || watched.over) return undefined;
    watched.silent += 1;
    if (watched.silent < silentResponsesMax) return undefined;
    watched.over = true;
    return watched.silent;
  }
}
