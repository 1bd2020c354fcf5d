/** Requests without a first token: one, or a lump of some that are not told apart. */
interface Waiting {
  readonly router: string;
  readonly requests: number;
  readonly tokens: number;
}

/** What one router has waiting on one endpoint. */
export interface WaitingPart {
  readonly requests: number;
  /** Uncached prompt tokens of all of them. */
  readonly tokens: number;
}

/** Entries kept for one router at most: what it tells beyond that is one lump at the end of them. */
export const entriesPerRouterMax = 1_000;

/**
 * The requests that wait for an endpoint's first token, all routers' in one line, in the order in which they were heard of. Engines
 * take prompts in turn, so the first in line is what the endpoint is believed to work on.
 */
export class WaitingLine {
  readonly #changed: () => void;
  #line: Waiting[] = [];
  #headSinceMs = 0;
  #servedInMs = 0;

  /** `changed`: told when the first in line, or what is known of it, may be another. */
  constructor(changed: () => void = () => undefined) {
    this.#changed = changed;
  }

  /** Uncached tokens of the first in line; 0: nobody waits. */
  get headTokens(): number {
    const head = this.#line[0];
    return head === undefined ? 0 : Math.round(head.tokens / head.requests);
  }

  /** When the endpoint last gave a first token, or the first in line became that, whichever is later; in ms of the router's clock. */
  get headSinceMs(): number {
    return this.#headSinceMs;
  }

  /** How long the endpoint took from its sign of progress before to the last first token: what it needed for that one alone, in ms. */
  get servedInMs(): number {
    return this.#servedInMs;
  }

  /** Entries held: no more than requests wait, and bounded for each router. */
  get length(): number {
    return this.#line.length;
  }

  /** What a router has in the line. */
  part(router: string): WaitingPart {
    let requests = 0;
    let tokens = 0;
    for (const waiting of this.#line) {
      if (waiting.router !== router) continue;
      requests += waiting.requests;
      tokens += waiting.tokens;
    }
    return { requests, tokens };
  }

  join(router: string, tokens: number, nowMs: number): void {
    if (this.#line.length === 0) this.#headSinceMs = nowMs;
    this.#append(router, 1, tokens);
    this.#changed();
  }

  /** One of a router's requests of that size waits no longer. `served`: its first token came. */
  leave(router: string, tokens: number, nowMs: number, served: boolean): void {
    if (served) this.#servedInMs = Math.max(0, nowMs - this.#headSinceMs);
    const head = this.#line[0];
    const at = this.#line.findIndex((waiting) => waiting.router === router && waiting.requests === 1 && waiting.tokens === tokens);
    if (at !== -1) this.#line.splice(at, 1);
    else this.#leaveFirst(router, tokens);
    if (served || this.#line[0] !== head) this.#headSinceMs = nowMs;
    this.#changed();
  }

  /** Makes a router's part of the line what its snapshot says; where the two agree, nothing moves. */
  settle(router: string, told: WaitingPart, nowMs: number): void {
    const part = this.part(router);
    if (part.requests === told.requests && part.tokens === told.tokens) return;
    const head = this.#line[0];
    if (part.requests > told.requests) this.#removeFirst(router, part.requests - told.requests);
    else if (part.requests < told.requests) this.#fill(router, told.requests - part.requests, Math.max(0, told.tokens - part.tokens));
    if (this.part(router).tokens !== told.tokens) this.#share(router, told);
    if (this.#line[0] !== head) this.#headSinceMs = nowMs;
    this.#changed();
  }

  /** A size that nobody in line has was made up from a snapshot: the router's first leaves for it, and the next ones make up the difference. */
  #leaveFirst(router: string, tokens: number): void {
    const first = this.#line.find((waiting) => waiting.router === router);
    if (first === undefined) return;
    let owed = tokens - (first.requests === 1 ? first.tokens : 0);
    this.#line = this.#line.flatMap((waiting) => {
      if (waiting === first && waiting.requests === 1) return [];
      if (waiting.router !== router) return waiting;
      const left = Math.max(0, waiting.tokens - owed);
      owed -= waiting.tokens - left;
      const requests = waiting === first ? waiting.requests - 1 : waiting.requests;
      return left === waiting.tokens && requests === waiting.requests ? waiting : { router, requests, tokens: left };
    });
  }

  /** Engines serve in turn: what is no longer told of is what was sent first. */
  #removeFirst(router: string, requests: number): void {
    let left = requests;
    this.#line = this.#line.flatMap((waiting) => {
      if (waiting.router !== router || left === 0) return waiting;
      const gone = Math.min(waiting.requests, left);
      left -= gone;
      if (gone === waiting.requests) return [];
      return { router, requests: waiting.requests - gone, tokens: Math.floor(waiting.tokens * (1 - gone / waiting.requests)) };
    });
  }

  /** Requests that were not heard of one by one: each gets an equal part of the tokens. */
  #fill(router: string, requests: number, tokens: number): void {
    let left = tokens;
    let parts = requests;
    for (let free = entriesPerRouterMax - this.#entriesOf(router); free > 1 && parts > 1; free -= 1) {
      const share = Math.floor(left / parts);
      left -= share;
      parts -= 1;
      this.#line.push({ router, requests: 1, tokens: share });
    }
    this.#append(router, parts, left);
  }

  /** The sizes of a router's requests are unknown: each gets an equal part. */
  #share(router: string, { requests, tokens }: WaitingPart): void {
    let left = tokens;
    let parts = requests;
    this.#line = this.#line.map((waiting) => {
      if (waiting.router !== router) return waiting;
      const share = Math.floor(left * (waiting.requests / parts));
      left -= share;
      parts -= waiting.requests;
      return share === waiting.tokens ? waiting : { router, requests: waiting.requests, tokens: share };
    });
  }

  #append(router: string, requests: number, tokens: number): void {
    const isFull = this.#line.length >= entriesPerRouterMax && this.#entriesOf(router) >= entriesPerRouterMax;
    const last = isFull ? this.#line.findLastIndex((waiting) => waiting.router === router) : -1;
    const lump = this.#line[last];
    if (lump === undefined) this.#line.push({ router, requests, tokens });
    else this.#line[last] = { router, requests: lump.requests + requests, tokens: lump.tokens + tokens };
  }

  #entriesOf(router: string): number {
    let entries = 0;
    for (const waiting of this.#line) if (waiting.router === router) entries += 1;
    return entries;
  }
}
