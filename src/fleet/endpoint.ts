import type { EndpointSnapshot, EndpointState, EngineMetrics, LatencySnapshot } from '../core/fleet-snapshot.ts';
import { type Hash64, hashName } from '../core/hash.ts';
import { EndpointHealth } from './endpoint-health.ts';
import { LatencyWindow } from './latency-window.ts';
import type { Added } from './load.ts';
import { WaitingLine } from './waiting-line.ts';
import { WatchedAdded, WatchedLoad } from './watched-load.ts';

/** An endpoint as configuration or discovery names it. */
export interface EndpointDefinition {
  /** `ip:port`, or `ip:port#rank`. */
  readonly address: string;
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly requestsMax: number | undefined;
  /** Most tokens of prompt and answer together; undefined: not configured. */
  readonly contextTokensMax?: number | undefined;
  /** Size of its KV cache in tokens; undefined: not configured. */
  readonly kvTokensMax?: number | undefined;
  /** Kept in reserve: it serves only when its pool is under pressure. Absent: no. */
  readonly standby?: boolean | undefined;
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

/** Hears what changes of an endpoint, so that what was made of it is not used any longer. */
export interface EndpointWatcher {
  /** Its standing, of which `PoolSnapshot.version` tells. */
  standingChanged(): void;
  /** Its load; told once, until `loadRead`. */
  loadChanged(endpoint: FleetEndpoint): void;
}

/**
 * One endpoint: its definition, its state, and its load. `own` is counted here, exactly; `foreign` is what other routers
 * told (see `ForeignLoad`); and for those that tell only now and then, what we sent since they last did stands for what they
 * sent. A decision reads the sums.
 *
 * Whatever a decision may go by tells the watcher when it is set, wherever that is done: a pool keeps what it made of its endpoints for
 * thousands of decisions.
 */
export class FleetEndpoint implements EndpointSnapshot {
  readonly address: string;
  readonly hash: Hash64;
  readonly #watcher: EndpointWatcher | undefined;
  #weight: number;
  #labels: Readonly<Record<string, string>>;
  #requestsMax: number | undefined;
  #contextTokensMax: number | undefined;
  #state: EndpointState = 'ready';
  #readySinceMs: number | undefined;
  /** Whether it belongs to its pool's reserve. */
  standby: boolean;
  /** How long this router's last requests took here. */
  readonly times = new LatencyWindow();
  /** What is said of it; its state follows from that. */
  readonly health = new EndpointHealth(() => this.#standingChanged());
  /** Counted here: exact. */
  readonly own = new WatchedLoad(() => this.#loadChanged());
  readonly foreign = new WatchedLoad(() => this.#loadChanged());
  /** Who waits for a first token here, this router's and the others'. */
  readonly line = new WaitingLine(() => this.#loadChanged());
  /** What this router ever sent here; only differences mean anything. */
  readonly added = new WatchedAdded(() => this.#loadChanged());
  #share: CapShare | undefined;
  #kvTokensMax: number | undefined;
  #kvTokensTold: number | undefined;
  #metrics: EngineMetrics | undefined;
  /** Routers that are guessed for, and the sums of `added` at the times they last told. */
  readonly #guessed = { routers: 0, requests: 0, promptTokens: 0, uncachedTokens: 0 };
  /** Whether the watcher was told that its load changed, and has not read it since. */
  #isUnread = false;

  constructor(definition: EndpointDefinition, watcher?: EndpointWatcher) {
    this.address = definition.address;
    this.hash = hashName(definition.address);
    this.#watcher = watcher;
    this.#weight = definition.weight;
    this.#labels = definition.labels;
    this.#requestsMax = definition.requestsMax;
    this.#contextTokensMax = definition.contextTokensMax;
    this.standby = definition.standby === true;
    this.#kvTokensMax = definition.kvTokensMax;
  }

  #standingChanged(): void {
    this.#watcher?.standingChanged();
    // Its weight and whether it is full are read with its load.
    this.#loadChanged();
  }

  #loadChanged(): void {
    if (this.#isUnread) return;
    this.#isUnread = true;
    this.#watcher?.loadChanged(this);
  }

  /** The watcher has read its load, and wants to hear of the next change. */
  loadRead(): void {
    this.#isUnread = false;
  }

  /** Takes another definition of the same address. Decisions go by it from now on; what is in flight stays, also above a lower limit. */
  redefine({ weight, labels, requestsMax, contextTokensMax, kvTokensMax, standby }: EndpointDefinition): void {
    this.#weight = weight;
    this.#labels = labels;
    this.#contextTokensMax = contextTokensMax;
    this.requestsMax = requestsMax;
    this.standby = standby === true;
    this.#kvTokensMax = kvTokensMax;
  }

  get weight(): number {
    return this.#weight;
  }

  get labels(): Readonly<Record<string, string>> {
    return this.#labels;
  }

  get contextTokensMax(): number | undefined {
    return this.#contextTokensMax;
  }

  get requestsMax(): number | undefined {
    return this.#requestsMax;
  }

  set requestsMax(requestsMax: number | undefined) {
    this.#requestsMax = requestsMax;
    this.#standingChanged();
  }

  get state(): EndpointState {
    return this.#state;
  }

  set state(state: EndpointState) {
    if (state === this.#state) return;
    this.#state = state;
    this.#standingChanged();
  }

  get readySinceMs(): number | undefined {
    return this.#readySinceMs;
  }

  set readySinceMs(readySinceMs: number | undefined) {
    this.#readySinceMs = readySinceMs;
    this.#standingChanged();
  }

  /** Size of its KV cache in tokens, as it says itself, else as configured; undefined: unknown. */
  get kvTokensMax(): number | undefined {
    return this.#kvTokensTold ?? this.#kvTokensMax;
  }

  get metrics(): EngineMetrics | undefined {
    return this.#metrics;
  }

  /** Metrics come and go; the size of the cache stays what it was told to be, until it is told otherwise. */
  set metrics(metrics: EngineMetrics | undefined) {
    this.#metrics = metrics;
    const told = metrics?.kvTokensMax;
    if (told !== undefined && told > 0) this.#kvTokensTold = told;
  }

  /** Changes the state; one that becomes ready anew is ready since `nowMs`. */
  setState(state: EndpointState, nowMs: number): void {
    if (state === 'ready' && this.state !== 'ready') this.readySinceMs = nowMs;
    this.state = state;
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
    this.#loadChanged();
  }

  get requests(): number {
    const { routers, requests } = this.#guessed;
    return this.own.requests + this.foreign.requests + routers * this.added.requests - requests;
  }

  get promptTokens(): number {
    const { routers, promptTokens } = this.#guessed;
    return this.own.promptTokens + this.foreign.promptTokens + routers * this.added.promptTokens - promptTokens;
  }

  get requestsWaiting(): number {
    const { routers, requests } = this.#guessed;
    return this.own.requestsWaiting + this.foreign.requestsWaiting + routers * this.added.requests - requests;
  }

  get uncachedTokensWaiting(): number {
    const { routers, uncachedTokens } = this.#guessed;
    return this.own.uncachedTokensWaiting + this.foreign.uncachedTokensWaiting + routers * this.added.uncachedTokens - uncachedTokens;
  }

  get trialsFree(): number {
    return this.health.breaker.trialsFree;
  }

  get latency(): LatencySnapshot | undefined {
    return this.times.latest;
  }

  get headTokens(): number {
    return this.line.headTokens;
  }

  get headSinceMs(): number {
    return this.line.headSinceMs;
  }

  /** Begins (1) or ends (−1) the guess for one router that last told when our additions stood at `addedThen`. */
  guessFor(sign: 1 | -1, addedThen: Readonly<Added>): void {
    this.#guessed.routers += sign;
    this.#guessed.requests += sign * addedThen.requests;
    this.#guessed.promptTokens += sign * addedThen.promptTokens;
    this.#guessed.uncachedTokens += sign * addedThen.uncachedTokens;
    this.#loadChanged();
  }
}
