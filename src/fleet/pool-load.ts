import { toHostPort } from '../core/data-parallel-rank.ts';
import { waitingTokens } from '../core/expected-wait.ts';
import type { FleetEndpoint } from './endpoint.ts';
import { isServing } from './endpoint-health.ts';
import type { FleetPool } from './fleet-view.ts';
import { shareOf, Smoothed } from './smoothed.ts';

/** How much work a pool has, over all routers, and how much it can do. */
export interface PoolLoad {
  /** Sum of the weights of the endpoints that take requests as a matter of course: a slow one, or a half-open, is no capacity. */
  readonly weight: number;
  /** Servers among them: ranks behind one address are one. */
  readonly servers: number;
  /** Time that a new prompt would wait for those before it, in ms, if it could wait everywhere a little; smoothed over about a second. */
  readonly waitMs: number;
  /** Requests in flight as a part of the limits, smoothed likewise; undefined: not every endpoint has a limit. */
  readonly inFlightShare: number | undefined;
  /** Prefill that waits now, in tokens. */
  readonly waitingTokens: number;
  /** Requests in flight, over about ten seconds. */
  readonly requests: number;
  /** Requests, prompt tokens and prompt tokens not believed to be cached that are sent here in a second, over about ten. */
  readonly requestsPerS: number;
  readonly promptTokensPerS: number;
  readonly prefillTokensPerS: number;
  /** Prefill that an endpoint of weight 1 does in a second when it is busy, in tokens: as configured, until it was seen. */
  readonly capacityTokensPerS: number;
}

/** Most that a wait is taken for, in ms: one endpoint's clock must not drown all else. */
const waitMsMax = 60_000;
const waitOverMs = 1_000;
const ratesOverMs = 10_000;
/** Part of the weight that must have prompts queued for what is done to be all that can be done. */
const saturatedShare = 0.9;
/** How fast what is seen of a saturated pool replaces what was believed of it, and how fast that is forgotten once it is not, in ms. */
const learnOverMs = 30_000;
const forgetOverMs = 1_800_000;

/**
 * Measures one pool's load. To be asked for a sample a few times a second.
 *
 * What an endpoint can do is learned where it shows: a pool whose endpoints all have prompts queued does what it can, and one that has
 * none does at least that. Between such times the belief goes back to the configured figure, for the traffic it came from is gone.
 */
export class PoolLoadMeter {
  readonly #pool: FleetPool;
  readonly #tokensPerMs: number;
  readonly #wait = new Smoothed(waitOverMs);
  readonly #inFlightShare = new Smoothed(waitOverMs);
  readonly #requests = new Smoothed(ratesOverMs);
  readonly #requestsPerS = new Smoothed(ratesOverMs);
  readonly #promptTokensPerS = new Smoothed(ratesOverMs);
  readonly #prefillTokensPerS = new Smoothed(ratesOverMs);
  readonly #servedTokensPerS = new Smoothed(ratesOverMs);
  readonly #queuedShare = new Smoothed(ratesOverMs);
  #capacityTokensPerS: number;
  #last: { readonly atMs: number; readonly requests: number; readonly promptTokens: number; readonly uncachedTokens: number; readonly waiting: number } | undefined;

  /** `tokensPerMs`: prefill that an endpoint of weight 1 is reckoned to do. */
  constructor(pool: FleetPool, tokensPerMs: number) {
    this.#pool = pool;
    this.#tokensPerMs = tokensPerMs;
    this.#capacityTokensPerS = tokensPerMs * 1_000;
  }

  /**
   * The load now. `unheard`: routers whose dispatches do not come here since they are not pushed; they are believed to send what this one
   * does, as everywhere.
   */
  sample(nowMs: number, unheard = 0): PoolLoad {
    const now = this.#look(nowMs);
    this.#takeRates(nowMs, now, 1 + unheard);
    return {
      weight: now.weight,
      servers: now.servers,
      waitMs: this.#wait.value,
      inFlightShare: now.inFlightShare === undefined ? undefined : this.#inFlightShare.value,
      waitingTokens: now.waitingTokens,
      requests: this.#requests.value,
      requestsPerS: this.#requestsPerS.value,
      promptTokensPerS: this.#promptTokensPerS.value,
      prefillTokensPerS: this.#prefillTokensPerS.value,
      capacityTokensPerS: this.#capacityTokensPerS,
    };
  }

  #look(nowMs: number): Look {
    const look: Look = { weight: 0, queuedWeight: 0, servers: 0, waitMs: 0, waitingTokens: 0, waiting: 0, requests: 0, inFlightShare: undefined };
    let limits = 0;
    let limited = 0;
    let weightedMs = 0;
    let capacityRequests = 0;
    // Sorted by address: the ranks of a server stand together.
    let lastServer = '';
    for (const endpoint of this.#pool.endpoints) {
      look.requests += endpoint.requests;
      look.waiting += endpoint.uncachedTokensWaiting;
      if (!isServing(endpoint.state)) continue;
      const { weight, requestsMax } = endpoint;
      look.weight += weight;
      const server = toHostPort(endpoint.address);
      if (server !== lastServer) look.servers += 1;
      lastServer = server;
      look.waitingTokens += waitingTokens(endpoint, this.#tokensPerMs, nowMs);
      weightedMs += weight * overdueMs(endpoint, this.#tokensPerMs, nowMs);
      if (endpoint.line.length > 1) look.queuedWeight += weight;
      capacityRequests += endpoint.requests;
      if (requestsMax === undefined) continue;
      limits += requestsMax;
      limited += weight;
    }
    if (look.weight > 0) look.waitMs = (look.waitingTokens / this.#tokensPerMs + weightedMs) / look.weight;
    if (limits > 0 && limited === look.weight) look.inFlightShare = capacityRequests / limits;
    return look;
  }

  #takeRates(nowMs: number, now: Look, factor: number): void {
    const { requests, promptTokens, uncachedTokens } = this.#pool.dispatched;
    const last = this.#last;
    const elapsedMs = last === undefined ? 0 : nowMs - last.atMs;
    if (last !== undefined && elapsedMs <= 0) return;
    this.#last = { atMs: nowMs, requests, promptTokens, uncachedTokens, waiting: now.waiting };
    if (last === undefined) return;

    const perS = (difference: number): number => (difference * 1_000) / elapsedMs;
    const prefillTokensPerS = perS(uncachedTokens - last.uncachedTokens) * factor;
    this.#wait.take(Math.min(waitMsMax, now.waitMs), elapsedMs);
    this.#inFlightShare.take(now.inFlightShare ?? 0, elapsedMs);
    this.#requests.take(now.requests, elapsedMs);
    this.#requestsPerS.take(perS(requests - last.requests) * factor, elapsedMs);
    this.#promptTokensPerS.take(perS(promptTokens - last.promptTokens) * factor, elapsedMs);
    this.#prefillTokensPerS.take(prefillTokensPerS, elapsedMs);
    // What came and does not wait any more was done.
    this.#servedTokensPerS.take(prefillTokensPerS - perS(now.waiting - last.waiting), elapsedMs);
    this.#queuedShare.take(now.weight === 0 ? 0 : now.queuedWeight / now.weight, elapsedMs);
    if (now.weight > 0) this.#learnCapacity(this.#servedTokensPerS.value / now.weight, elapsedMs);
  }

  #learnCapacity(servedTokensPerS: number, elapsedMs: number): void {
    const isSaturated = this.#queuedShare.value >= saturatedShare;
    const toward = isSaturated ? servedTokensPerS : this.#tokensPerMs * 1_000;
    const moved = this.#capacityTokensPerS + (toward - this.#capacityTokensPerS) * shareOf(elapsedMs, isSaturated ? learnOverMs : forgetOverMs);
    // At least one token, for it is divided by.
    this.#capacityTokensPerS = Math.max(1, moved, isSaturated ? 0 : servedTokensPerS);
  }
}

/** What one look at all endpoints of a pool shows. */
interface Look {
  weight: number;
  queuedWeight: number;
  servers: number;
  waitMs: number;
  /** Of those that are capacity, drained by the clock. */
  waitingTokens: number;
  /** Of all endpoints, as it is told. */
  waiting: number;
  requests: number;
  inFlightShare: number | undefined;
}

/**
 * How long an endpoint's first prompt in line takes longer than it should, in ms, where others wait behind it: so an endpoint that is
 * slower than it is reckoned to be, or has no room for another sequence, shows although few tokens wait.
 */
function overdueMs({ line, weight }: FleetEndpoint, tokensPerMs: number, nowMs: number): number {
  if (line.length < 2) return 0;
  return Math.max(0, nowMs - line.headSinceMs - line.headTokens / (tokensPerMs * weight));
}

/**
 * Tokens that a pool's endpoints generate in a second: those past their first token, each at the pace last measured (Little's law).
 * Undefined: no pace was measured. The pace is estimated from response bytes, and so is this.
 */
export function decodeTokensPerS({ endpoints }: FleetPool): number | undefined {
  let decoding = 0;
  let measured = 0;
  let tokensPerS = 0;
  for (const endpoint of endpoints) {
    const running = Math.max(0, endpoint.requests - endpoint.requestsWaiting);
    if (running === 0) continue;
    decoding += running;
    const tpotMs = endpoint.latency?.tpotMs?.mean;
    if (tpotMs === undefined || tpotMs <= 0) continue;
    measured += running;
    tokensPerS += (running * 1_000) / tpotMs;
  }
  if (decoding === 0) return 0;
  return measured === 0 ? undefined : (tokensPerS * decoding) / measured;
}
