import type { EndpointSnapshot, EndpointState } from '../core/fleet-snapshot.ts';
import { type Hash64, hashName } from '../core/hash.ts';

/** An endpoint as configuration or discovery names it. */
export interface EndpointDefinition {
  /** `ip:port`. */
  readonly address: string;
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly requestsMax: number | undefined;
}

/** A router's part in limits that cannot be counted together for now. */
export interface CapShare {
  readonly routers: number;
  readonly rank: number;
}

/** A router's places of a limit that is divided; over all routers they add up to the limit. */
export function shareOfLimit(requestsMax: number, { routers, rank }: CapShare): number {
  return Math.floor(requestsMax / routers) + (rank < requestsMax % routers ? 1 : 0);
}

/** What one party knows to be in flight on one endpoint. */
export interface Load {
  readonly requests: number;
  readonly promptTokens: number;
  readonly promptTokensWaiting: number;
}

/**
 * One endpoint: its definition, its state, and its load. `own` is counted here, exactly; `foreign` is what other routers
 * told (see `ForeignLoad`); and for those that tell only now and then, what we sent since they last did stands for what they
 * sent. A decision reads the sums.
 */
export class FleetEndpoint implements EndpointSnapshot {
  readonly address: string;
  readonly hash: Hash64;
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly requestsMax: number | undefined;
  state: EndpointState = 'ready';
  /** Counted here: exact. */
  readonly own = { requests: 0, promptTokens: 0, promptTokensWaiting: 0 };
  readonly foreign = { requests: 0, promptTokens: 0, promptTokensWaiting: 0 };
  /** What this router ever sent here; only differences mean anything. */
  readonly added = { requests: 0, promptTokens: 0 };
  #share: CapShare | undefined;
  /** Routers that are guessed for, and the sums of `added` at the times they last told. */
  readonly #guessed = { routers: 0, requests: 0, promptTokens: 0 };

  constructor(definition: EndpointDefinition) {
    this.address = definition.address;
    this.hash = hashName(definition.address);
    this.weight = definition.weight;
    this.labels = definition.labels;
    this.requestsMax = definition.requestsMax;
  }

  /** While the other routers cannot be asked, this router keeps to its share of the limit; see `shareCap`. */
  get full(): boolean {
    if (this.requestsMax === undefined) return false;
    if (this.requests >= this.requestsMax) return true;
    return this.#share !== undefined && this.own.requests >= shareOfLimit(this.requestsMax, this.#share);
  }

  /** Divides the limit among routers last seen; this one is the `rank`-th of them (from 0). Undefined: the limit is shared whole. */
  shareCap(share: CapShare | undefined): void {
    this.#share = share;
  }

  get requests(): number {
    const { routers, requests } = this.#guessed;
    return this.own.requests + this.foreign.requests + routers * this.added.requests - requests;
  }

  get promptTokens(): number {
    return this.own.promptTokens + this.foreign.promptTokens + this.#guessedPromptTokens();
  }

  get promptTokensWaiting(): number {
    return this.own.promptTokensWaiting + this.foreign.promptTokensWaiting + this.#guessedPromptTokens();
  }

  /** Begins (1) or ends (−1) the guess for one router that last told when our additions stood at `addedThen`. */
  guessFor(sign: 1 | -1, addedThen: { readonly requests: number; readonly promptTokens: number }): void {
    this.#guessed.routers += sign;
    this.#guessed.requests += sign * addedThen.requests;
    this.#guessed.promptTokens += sign * addedThen.promptTokens;
  }

  #guessedPromptTokens(): number {
    const { routers, promptTokens } = this.#guessed;
    return routers * this.added.promptTokens - promptTokens;
  }
}
