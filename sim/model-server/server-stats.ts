/** What a simulated server has seen since its start. Times are engine milliseconds. */
export interface ServerStats {
  /** Requests to the model API, whatever became of them. */
  readonly requests: number;
  /** Requests to /echo and /headers. */
  readonly otherRequests: number;
  /** Model API requests not yet ended. */
  readonly inFlight: number;
  readonly succeeded: number;
  /** Answered with an error because a switch said so, or cut by mode `reset`. */
  readonly failed: number;
  /** Refused because the queue was full. */
  readonly rejected: number;
  /** Given up by the client before the answer was complete. */
  readonly cancelled: number;
  /** Of requests that got a first token. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Requests by session key; of very many sessions the last seen. */
  readonly sessions: Readonly<Record<string, number>>;
  /** Websockets open at the moment, and all there ever were. */
  readonly upgradesOpen: number;
  readonly upgrades: number;
  /** When model API requests came, by the clock of the server's process (`performance.now()`), newest last; of very many the newest. */
  readonly arrivalsMs: readonly number[];
  /** Times to first token, newest last; of very many the newest. */
  readonly ttftMs: readonly number[];
}

const sessionsMax = 10_000;
const ttftsMax = 1000;
const arrivalsMax = 1000;

export class StatsRecorder {
  requests = 0;
  otherRequests = 0;
  inFlight = 0;
  succeeded = 0;
  failed = 0;
  rejected = 0;
  cancelled = 0;
  promptTokens = 0;
  cachedTokens = 0;
  outputTokens = 0;
  readonly #sessions = new Map<string, number>();
  readonly #ttftMs: number[] = [];
  readonly #arrivalsMs: number[] = [];
  #upgradesOpen = 0;
  #upgrades = 0;

  /** A request to the model API came. */
  arrived(): void {
    this.requests += 1;
    this.#arrivalsMs.push(performance.now());
    if (this.#arrivalsMs.length > arrivalsMax) this.#arrivalsMs.shift();
  }

  upgraded(): void {
    this.#upgrades += 1;
    this.#upgradesOpen += 1;
  }

  upgradedEnded(): void {
    this.#upgradesOpen -= 1;
  }

  session(key: string): void {
    const requests = this.#sessions.get(key) ?? 0;
    // Taken out and put back, so that the map's order is that of last sight.
    this.#sessions.delete(key);
    this.#sessions.set(key, requests + 1);
    const [oldest] = this.#sessions.keys();
    if (this.#sessions.size > sessionsMax && oldest !== undefined) this.#sessions.delete(oldest);
  }

  firstToken(ttftMs: number, promptTokens: number, cachedTokens: number): void {
    this.promptTokens += promptTokens;
    this.cachedTokens += cachedTokens;
    this.#ttftMs.push(ttftMs);
    if (this.#ttftMs.length > ttftsMax) this.#ttftMs.shift();
  }

  snapshot(): ServerStats {
    const { requests, otherRequests, inFlight, succeeded, failed, rejected, cancelled, promptTokens, cachedTokens, outputTokens } = this;
    return {
      requests, otherRequests, inFlight, succeeded, failed, rejected, cancelled, promptTokens, cachedTokens, outputTokens,
      sessions: Object.fromEntries(this.#sessions),
      upgradesOpen: this.#upgradesOpen,
      upgrades: this.#upgrades,
      arrivalsMs: [...this.#arrivalsMs],
      ttftMs: [...this.#ttftMs],
    };
  }
}
