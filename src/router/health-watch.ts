import { ChurnMap } from '../core/churn-map.ts';
import { toHostPort } from '../core/data-parallel-rank.ts';
import { expectedTtftMs, tokensPerMsDefault } from '../core/expected-wait.ts';
import type { BreakerSettings, BreakerState } from '../fleet/breaker.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import type { ChangeCause, EndpointChange } from '../fleet/endpoint-change.ts';
import { type HealthAspect, isServing, type OperatorVerdict, type ProbeState, type ReserveVerdict } from '../fleet/endpoint-health.ts';
import type { FleetPool, FleetView, MembershipChange } from '../fleet/fleet-view.ts';
import type { HealthRow } from '../fleet/health-row.ts';
import type { Reservation } from '../fleet/reservations.ts';
import type { Judgement } from './measured-times.ts';
import type { Clock, Completion } from './ports.ts';
import type { ProbeVerdict } from './probe-verdict.ts';

/** How the endpoints of one pool are judged. */
export interface PoolHealthSettings {
  /** By what became of requests; undefined: they are not. */
  readonly passive: BreakerSettings | undefined;
  /**
   * An endpoint is slow whose first tokens take that many times as long as its peers', against what was to be expected; undefined: none is.
   * Not without `passive`, which says how it comes back.
   */
  readonly slow: { readonly factor: number; readonly samplesMin: number } | undefined;
  /** Most of its endpoints that may be left out for failing or being slow, as a share. */
  readonly ejectedShareMax: number;
  /** Length of the slow start; 0: there is none. */
  readonly slowStartMs: number;
  /** Whether it is probed: then nobody gets requests before a probe has passed. */
  readonly isProbed: boolean;
  /** Whether first tokens are noticed there. */
  readonly observesFirstToken: boolean;
}

export interface HealthWatchOptions {
  readonly routerId: string;
  readonly fleet: FleetView;
  readonly settings: ReadonlyMap<string, PoolHealthSettings>;
  readonly clock: Clock;
  /** Whether all that the other routers send and see is heard as it happens: only then does anybody know how long an endpoint took for what. */
  readonly hearsAll: () => boolean;
  /** Tells the other routers; returns at once. */
  readonly publish: (pool: string, row: HealthRow) => void;
  /** Hears of every change of a state, whoever found it out. Returns at once, never throws. */
  readonly changed: (change: EndpointChange) => void;
  /** Hears each time that an endpoint should be left out and stays, since as many are left out as may be. Returns at once, never throws. */
  readonly withheld: (pool: string, address: string, cause: string) => void;
}

/** Changes kept for whoever asks. */
const changesKept = 256;
/** Added to every expected time to first token, so that small ones compare: what an engine needs for a step anyway, in ms. */
const baseMs = 50;
/** A slow endpoint is slower than its peers by that much, too: what nobody notices is no reason, in ms. */
const slowExcessMsMin = 200;
/** Wait on the peers above which nobody is called slow, in ms: what is taken from one then goes where it waits, too. */
const peersWaitMsMax = 500;
/** Most of a pool's endpoints that are called slow, as a share: where more are, slow is what the pool is. */
const slowShareMax = 0.25;
/** Requests that the peers of an endpoint ended lately without a failure, for it to stand out by its own. */
const peersRequestsMin = 10;
/** Silence after which an endpoint where requests wait may have stalled, in ms; and how many times what was expected it has to be. */
const stallMsMin = 1_000;
const stallFactor = 4;
/** Steps in a row that come late on one endpoint alone and make it slow, the last of which may be under way; and requests that wait for them. */
const lateStepsMin = 2;
const lateRequestsMin = 3;
/** Streamed answers in a row, of a pool, after which those are taken for streamed at which nobody has looked yet. */
const streamedEnough = 16;

/**
 * An answer that goes on that long after its first piece is streamed, in ms: then that piece was a first token, and not all of it. By Envoy's
 * times; and by this router's, which hears of the end later.
 */
const streamedMsMin = 20;
const streamedHeardMsMin = 100;

/** A first token, and what its endpoint took for it against what was to be expected. */
interface Token {
  readonly atMs: number;
  /** Since it was sent. */
  readonly waitedMs: number;
  readonly tookMs: number;
  readonly expectedMs: number;
}

/** What is expected of a request in flight. */
interface Expected {
  readonly pool: FleetPool;
  readonly endpoint: FleetEndpoint;
  /** Time to its first token as reckoned when it was sent. */
  readonly ms: number;
  readonly startedMs: number;
  /** Whether its answer is streamed; undefined: nobody has looked. */
  streams: boolean | undefined;
  /** Undefined: it waits for its first token. */
  token: Token | undefined;
}

/**
 * Watches over the endpoints: takes in what probes, ended requests, first tokens, operators and other routers say of them, and makes their
 * states of it. What this router finds out it tells the others; of two words on one matter the later one holds, in every router.
 */
export class HealthWatch {
  readonly #options: HealthWatchOptions;
  #settings: ReadonlyMap<string, PoolHealthSettings>;
  readonly #changes: EndpointChange[] = [];
  /** As of the last tick. */
  #hearsAll: boolean;
  /** Own requests in flight, by lease, in order of dispatch. */
  readonly #expected = new ChurnMap<string, Expected>();
  /** Answers of each pool that were streamed, one after the other. */
  readonly #streamedInARow = new Map<string, number>();

  constructor(options: HealthWatchOptions) {
    this.#options = options;
    this.#settings = options.settings;
    this.#hearsAll = options.hearsAll();
    const nowMs = options.clock.nowMs();
    for (const pool of options.fleet.pools.values()) {
      for (const endpoint of pool.endpoints) {
        this.#prepare(pool, endpoint);
        endpoint.state = endpoint.health.derive(false);
        endpoint.health.progressMs = nowMs;
      }
    }
  }

  /** The latest changes, oldest first. */
  get changes(): readonly EndpointChange[] {
    return this.#changes;
  }

  /** Other settings from now on. What is known of the endpoints stays. */
  configure(settings: ReadonlyMap<string, PoolHealthSettings>): void {
    this.#settings = settings;
    for (const pool of this.#options.fleet.pools.values()) {
      for (const endpoint of pool.endpoints) {
        this.#prepare(pool, endpoint);
        this.#settle(pool, endpoint, 'operator', 'the configuration was changed', undefined);
      }
    }
  }

  /** Endpoints came or went, says discovery. */
  membership({ pool, endpoint, kind, from }: MembershipChange): void {
    const nowMs = this.#options.clock.nowMs();
    switch (kind) {
      case 'discovered': {
        this.#prepare(pool, endpoint);
        endpoint.readySinceMs = nowMs;
        endpoint.health.progressMs = nowMs;
        endpoint.state = endpoint.health.derive(this.#isWarming(pool, endpoint, nowMs));
        this.#tell(pool, endpoint, { from: undefined, to: endpoint.state, cause: 'discovered', detail: undefined, by: undefined });
        return;
      }
      case 'returned':
        endpoint.health.leaving = false;
        endpoint.state = from ?? endpoint.state;
        this.#settle(pool, endpoint, 'returned', undefined, undefined);
        return;
      case 'removed':
        endpoint.health.leaving = true;
        endpoint.state = from ?? endpoint.state;
        this.#settle(pool, endpoint, 'removed', undefined, undefined);
        return;
      case 'gone':
        this.#tell(pool, endpoint, { from: endpoint.state, to: undefined, cause: 'removed', detail: undefined, by: undefined });
    }
  }

  // ---- what others find out here ----

  /** A model server was probed: `hostPort` names all the ranks behind it. */
  probed(poolName: string, hostPort: string, verdict: ProbeVerdict): void {
    const pool = this.#options.fleet.pool(poolName);
    if (pool === undefined) return;
    for (const endpoint of endpointsAt(pool, hostPort)) {
      const { stamps, probe } = endpoint.health;
      const detail = verdict.kind === 'passing' ? undefined : verdict.detail;
      stamps.probe.atMs = this.#options.clock.nowMs();
      if (probe === verdict.kind) {
        stamps.probe.detail = detail;
        continue;
      }
      const cause = verdict.kind === 'passing' ? 'probe-passed' : verdict.kind === 'loading' ? 'model-loading' : 'probe-failed';
      this.#say(pool, endpoint, 'probe', cause, detail, () => this.#setProbe(pool, endpoint, verdict.kind));
    }
  }

  /** How long ago anybody probed a model server, in ms; undefined: nobody did. */
  verdictAgeMs(poolName: string, hostPort: string): number | undefined {
    const pool = this.#options.fleet.pool(poolName);
    const [endpoint] = pool === undefined ? [] : endpointsAt(pool, hostPort);
    const atMs = endpoint?.health.stamps.probe.atMs ?? -Infinity;
    return atMs === -Infinity ? undefined : this.#options.clock.nowMs() - atMs;
  }

  /** An operator's word. `ready`: it holds no longer, and whatever else is known of the endpoint does. False: there is no such endpoint. */
  operate(poolName: string, address: string, state: 'ready' | 'draining' | 'not-ready'): boolean {
    const pool = this.#options.fleet.pool(poolName);
    const meant = pool === undefined ? [] : endpointsAt(pool, address);
    const verdict: OperatorVerdict = state === 'ready' ? 'none' : state;
    for (const endpoint of meant) {
      if (pool === undefined) break;
      this.#say(pool, endpoint, 'operator', 'operator', undefined, () => {
        endpoint.health.operator = verdict;
        // Who says ready means it: what it failed before is forgiven.
        if (verdict === 'none' && endpoint.health.breaker.state !== 'closed') this.#closeBreaker(pool, endpoint, 'operator');
      });
    }
    return meant.length > 0;
  }

  /** Calls an endpoint of the reserve in, or sends it back. */
  reserve(poolName: string, address: string, active: boolean, cause: 'pressure' | 'calm', detail?: string): void {
    const pool = this.#options.fleet.pool(poolName);
    const endpoint = pool?.endpoint(address);
    const verdict: ReserveVerdict = active ? 'active' : 'reserve';
    if (pool === undefined || endpoint === undefined || endpoint.health.reserve === 'none' || endpoint.health.reserve === verdict) return;
    this.#say(pool, endpoint, 'reserve', cause, detail, () => {
      endpoint.health.reserve = verdict;
    });
  }

  // ---- from the router, on the request path ----

  /** A request was counted on an endpoint. `streams`: whether its answer is streamed; undefined: nobody has looked. */
  dispatched({ lease, pool, endpoint, startedMs }: Reservation, streams: boolean | undefined): void {
    endpoint.health.breaker.dispatched(lease);
    if (this.#of(pool)?.slow === undefined) return;
    // Of an answer in one piece no first token is noticed that could say so.
    if (streams === false) this.#streamedInARow.set(pool.name, 0);
    // What waits there counts this request too by now.
    const ms = baseMs + expectedTtftMs(endpoint, 0, tokensPerMsDefault, this.#options.clock.nowMs());
    this.#expected.set(lease, { pool, endpoint, ms, startedMs, streams, token: undefined });
  }

  /** A first token came. `streams`: whether its answer is streamed, by that; undefined: it does not tell. */
  firstToken({ lease, pool, endpoint, startedMs, uncachedTokens }: Reservation, streams?: boolean): void {
    const expected = this.#expected.get(lease);
    const nowMs = this.#options.clock.nowMs();
    endpoint.health.progressMs = nowMs;
    if (expected === undefined) return;
    expected.streams ??= streams;
    this.#streamedInARow.set(pool.name, expected.streams === true ? (this.#streamedInARow.get(pool.name) ?? 0) + 1 : 0);
    expected.token = {
      atMs: nowMs,
      waitedMs: nowMs - startedMs,
      // What waited before it is not its own fault: its time begins with the endpoint's last sign of progress.
      tookMs: Math.min(nowMs - startedMs, endpoint.line.servedInMs),
      expectedMs: toExpectedMs(endpoint, uncachedTokens),
    };
    // An answer in one piece has its first token with its last: that says how long it is, not how slow. Where nobody has looked, its end tells.
    if (expected.streams === true) this.#judgeToken(pool, endpoint, lease, expected.token, nowMs);
  }

  /** A request is over; `judgements`: what that says of the endpoints it touched. */
  ended({ lease, pool }: Reservation, completion: Completion, judgements: readonly Judgement[]): void {
    const nowMs = this.#options.clock.nowMs();
    const expected = this.#expected.take(lease);
    for (const { endpoint, outcome } of judgements) {
      const { breaker } = endpoint.health;
      if (outcome.kind === 'unknown' || outcome.kind === 'given-up') {
        breaker.forgot(lease);
        continue;
      }
      const failed = outcome.kind === 'failed';
      if (!failed) endpoint.health.progressMs = nowMs;
      const token = expected?.endpoint === endpoint && expected.streams === undefined ? expected.token : undefined;
      if (token !== undefined && isStreamed(completion, nowMs - token.atMs)) this.#judgeToken(pool, endpoint, lease, token, nowMs);
      if (this.#of(pool)?.passive === undefined) {
        breaker.forgot(lease);
        continue;
      }
      const news = breaker.ended(lease, failed, nowMs, () => this.#standsOut(pool, endpoint, nowMs));
      if (news === 'trip') this.#open(pool, endpoint, 'open', 'failures', describe(completion));
      else if (news === 'trial-failed') this.#open(pool, endpoint, 'open', 'trial-failed', describe(completion));
      else if (news === 'trials-passed') this.#say(pool, endpoint, 'breaker', 'trials-passed', undefined, () => breaker.close(nowMs));
    }
  }

  // ---- from timers ----

  /** Lets time pass: back-offs, slow starts, endpoints that fell behind or silent. About ten times a second. */
  tick(): void {
    const nowMs = this.#options.clock.nowMs();
    this.#hearsAll = this.#options.hearsAll();
    for (const pool of this.#options.fleet.pools.values()) {
      const settings = this.#of(pool);
      for (const endpoint of pool.endpoints) {
        // Discovery may have put it into the reserve, or taken it out, while it was known.
        if (endpoint.standby === (endpoint.health.reserve === 'none')) {
          this.#prepare(pool, endpoint);
          this.#settle(pool, endpoint, 'discovered', undefined, undefined);
        }
        // Each router knows when a back-off is over: nobody has to say so.
        if (endpoint.health.breaker.tick(nowMs)) {
          forgetPace(endpoint);
          this.#settle(pool, endpoint, 'back-off-over', undefined, undefined);
        } else if (endpoint.state === 'warming' && !this.#isWarming(pool, endpoint, nowMs)) {
          this.#settle(pool, endpoint, 'warmed-up', undefined, undefined);
        }
      }
      // Others may have gone meanwhile: what could be spared then is too much now.
      this.#enforceLimit(pool);
      if (settings?.slow !== undefined) this.#findSlow(pool, settings.slow, nowMs);
    }
    this.#findLateAndStalled(nowMs);
  }

  // ---- between routers ----

  /** All that was said of a pool's endpoints, for routers that join or missed it. */
  rows(poolName: string): HealthRow[] {
    const rows: HealthRow[] = [];
    for (const endpoint of this.#options.fleet.pool(poolName)?.endpoints ?? []) {
      for (const aspect of ['operator', 'probe', 'breaker', 'reserve'] as const) {
        if (endpoint.health.stamps[aspect].version > 0) rows.push(this.#toRow(endpoint, aspect));
      }
    }
    return rows;
  }

  /** Takes another router's word, if it is later than what is known. */
  receive(poolName: string, row: HealthRow): void {
    const pool = this.#options.fleet.pool(poolName);
    const endpoint = pool?.endpoint(row.address);
    if (pool === undefined || endpoint === undefined) return;
    const nowMs = this.#options.clock.nowMs();
    const { health } = endpoint;
    const stamp = health.stamps[row.aspect];
    if (row.version === stamp.version && row.by === stamp.by) {
      // The same word again: a probe that goes on finding the same, whoever probes now.
      if (row.aspect === 'probe') stamp.atMs = Math.max(stamp.atMs, nowMs - row.ms);
      return;
    }
    if (row.version < stamp.version || (row.version === stamp.version && row.by < stamp.by)) return;
    if (row.aspect === 'probe' && this.#of(pool)?.isProbed !== true) return;
    if (row.aspect === 'reserve' && health.reserve === 'none') return;
    Object.assign(stamp, { version: row.version, by: row.by, cause: row.cause, detail: row.detail, atMs: row.aspect === 'breaker' ? nowMs : nowMs - row.ms });
    switch (row.aspect) {
      case 'operator':
        health.operator = row.value as OperatorVerdict;
        break;
      case 'probe':
        this.#setProbe(pool, endpoint, row.value as ProbeState);
        break;
      case 'reserve':
        health.reserve = row.value as ReserveVerdict;
        break;
      case 'breaker':
        health.breaker.take({ state: row.value as BreakerState, untilMs: nowMs + row.ms, strikes: row.strikes }, nowMs);
        forgetPace(endpoint);
    }
    this.#settle(pool, endpoint, row.cause, row.detail, row.by);
    if (row.aspect === 'breaker') this.#enforceLimit(pool);
  }

  /** Another router's request got its first token. Whether its answer is streamed is not told: it may be in time, and late only where all are. */
  heardToken(poolName: string, address: string, uncachedTokens: number): void {
    const pool = this.#options.fleet.pool(poolName);
    const endpoint = pool?.endpoint(address);
    if (pool === undefined || endpoint === undefined || !this.#hearsAll) return;
    const atMs = this.#options.clock.nowMs();
    const tookMs = endpoint.line.servedInMs;
    if (tookMs > slowExcessMsMin && !this.#streams(pool)) return;
    this.#judgeStep(pool, endpoint, { atMs, tookMs, waitedMs: tookMs, expectedMs: toExpectedMs(endpoint, uncachedTokens) });
  }

  // ---- inside ----

  #of(pool: FleetPool): PoolHealthSettings | undefined {
    return this.#settings.get(pool.name);
  }

  #prepare(pool: FleetPool, endpoint: FleetEndpoint): void {
    const { health } = endpoint;
    const settings = this.#of(pool);
    if (settings?.passive !== undefined) health.breaker.configure(settings.passive);
    else if (health.breaker.state !== 'closed') health.breaker.close(this.#options.clock.nowMs());
    if (settings?.isProbed !== true) health.probe = 'none';
    else if (health.probe === 'none') health.probe = 'unknown';
    if (!endpoint.standby) health.reserve = 'none';
    else if (health.reserve === 'none') health.reserve = 'reserve';
  }

  /** Says something new of an endpoint, here and to the other routers. */
  #say(pool: FleetPool, endpoint: FleetEndpoint, aspect: HealthAspect, cause: ChangeCause, detail: string | undefined, change: () => void): void {
    const { routerId, clock, publish } = this.#options;
    const stamp = endpoint.health.stamps[aspect];
    change();
    Object.assign(stamp, { version: stamp.version + 1, by: routerId, cause, detail, atMs: clock.nowMs() });
    publish(pool.name, this.#toRow(endpoint, aspect));
    this.#settle(pool, endpoint, cause, detail, undefined);
  }

  #toRow(endpoint: FleetEndpoint, aspect: HealthAspect): HealthRow {
    const { health, address } = endpoint;
    const { version, by, cause, detail, atMs } = health.stamps[aspect];
    const { state, untilMs, strikes } = health.breaker.verdict;
    const nowMs = this.#options.clock.nowMs();
    const value = aspect === 'breaker' ? state : health[aspect];
    const ms = aspect === 'breaker' ? Math.max(0, (untilMs ?? nowMs) - nowMs) : Math.max(0, nowMs - atMs);
    return { address, aspect, version, by, value, ms, strikes: aspect === 'breaker' ? strikes : 0, cause, detail };
  }

  #setProbe(pool: FleetPool, endpoint: FleetEndpoint, probe: ProbeState): void {
    const { health } = endpoint;
    const before = health.probe;
    health.probe = probe;
    if (probe !== 'passing' || before === 'passing') return;
    if (before === 'unknown') return;
    // It was away, and what it held in its cache most likely is too. It starts anew.
    pool.cache.forget(endpoint.address);
    forgetPace(endpoint);
    if (health.breaker.state !== 'closed') this.#closeBreaker(pool, endpoint, 'probe-passed');
  }

  #closeBreaker(pool: FleetPool, endpoint: FleetEndpoint, cause: ChangeCause): void {
    const nowMs = this.#options.clock.nowMs();
    this.#say(pool, endpoint, 'breaker', cause, undefined, () => endpoint.health.breaker.close(nowMs));
  }

  #isWarming(pool: FleetPool, { readySinceMs }: FleetEndpoint, nowMs: number): boolean {
    const slowStartMs = this.#of(pool)?.slowStartMs ?? 0;
    return readySinceMs !== undefined && nowMs - readySinceMs < slowStartMs;
  }

  /** Makes the endpoint's state what now follows, and tells of it where it is another. */
  #settle(pool: FleetPool, endpoint: FleetEndpoint, cause: ChangeCause, detail: string | undefined, by: string | undefined): void {
    const nowMs = this.#options.clock.nowMs();
    const from = endpoint.state;
    let to = endpoint.health.derive(this.#isWarming(pool, endpoint, nowMs));
    if (isServing(to) && !isServing(from)) {
      // Found to be there when the router starts, it was there before: nobody has to go easy on it.
      if (from === 'joining' && endpoint.health.last === undefined && endpoint.readySinceMs === undefined) to = 'ready';
      else {
        endpoint.readySinceMs = nowMs;
        to = endpoint.health.derive(this.#isWarming(pool, endpoint, nowMs));
      }
    }
    if (to === from) return;
    endpoint.state = to;
    this.#tell(pool, endpoint, { from, to, cause, detail, by });
  }

  #tell(pool: FleetPool, endpoint: FleetEndpoint, change: Pick<EndpointChange, 'from' | 'to' | 'cause' | 'detail' | 'by'>): void {
    const atMs = this.#options.clock.nowMs();
    endpoint.health.last = { cause: change.cause, detail: change.detail, atMs };
    const whole: EndpointChange = { pool: pool.name, address: endpoint.address, ...change, atMs, untilMs: endpoint.health.breaker.verdict.untilMs };
    this.#changes.push(whole);
    if (this.#changes.length > changesKept) this.#changes.shift();
    this.#options.changed(whole);
  }

  /** Takes the time of a first token into the endpoint's pace; a trial whose first token came late has failed. */
  #judgeToken(pool: FleetPool, endpoint: FleetEndpoint, lease: string, token: Token, nowMs: number): void {
    const { breaker, pace } = endpoint.health;
    const { tookMs, expectedMs } = token;
    if (this.#hearsAll) {
      this.#judgeStep(pool, endpoint, token);
      pace.add(tookMs, expectedMs, nowMs);
    }
    if (!breaker.isTrial(lease)) return;
    const withAllMs = expectedMs + endpoint.uncachedTokensWaiting / (tokensPerMsDefault * endpoint.weight);
    if (tookMs > this.#slowLimit(pool, endpoint, withAllMs, nowMs)) this.#open(pool, endpoint, 'slow', 'trial-failed', 'the first token of a trial came late');
  }

  /** Whether a first token came late, and how often in a row that happened; slow is who stands out by it. */
  #judgeStep(pool: FleetPool, endpoint: FleetEndpoint, { atMs, tookMs, waitedMs, expectedMs }: Token): void {
    if (!isServing(endpoint.state)) return;
    const { lateSteps } = endpoint.health;
    const usualPace = this.#usualPace(endpoint, atMs);
    if (usualPace === undefined) return;
    const limitMs = tookMs <= slowExcessMsMin ? slowExcessMsMin : this.#lateLimit(pool, endpoint, usualPace, expectedMs, tookMs, atMs);
    if (!lateSteps.isOfLast(atMs, waitedMs > limitMs)) {
      if (tookMs > limitMs) lateSteps.late(usualPace, atMs);
      else lateSteps.clear();
    }
    this.#judgeSteps(pool, endpoint, lateSteps.steps(atMs), lateSteps.requests(atMs), atMs);
  }

  /** Whether the pool's answers are streamed, to judge by the last of them. */
  #streams({ name }: FleetPool): boolean {
    return (this.#streamedInARow.get(name) ?? 0) >= streamedEnough;
  }

  #judgeSteps(pool: FleetPool, endpoint: FleetEndpoint, steps: number, requests: number, nowMs: number): void {
    if (steps < lateStepsMin || requests < lateRequestsMin || !this.#canSpareSlow(pool, endpoint, nowMs)) return;
    // Where others are late too, it is what they share: the machine, the network, this router.
    const peers = pool.endpoints.filter((peer) => peer !== endpoint && isServing(peer.state));
    if (2 * peers.filter(({ health }) => health.lateSteps.steps(nowMs) > 0).length >= peers.length) return;
    this.#open(pool, endpoint, 'slow', 'slower-than-peers', `first tokens came late ${steps} times in a row, and of few peers`);
  }

  /** How the endpoint does when nothing is late; undefined: nobody knows. */
  #usualPace({ health: { pace, lateSteps } }: FleetEndpoint, nowMs: number): number | undefined {
    return lateSteps.steps(nowMs) > 0 ? lateSteps.usualPace : pace.pace(1, nowMs);
  }

  /**
   * Time above which a first token is late, in ms: against what the endpoint needed before and its peers need, with all that waits there,
   * for in which order it does that nobody here knows. Infinity: nothing to compare with. What took no longer than `tookMs` is in time
   * without a look at the peers, if it is by the endpoint's own measure.
   */
  #lateLimit(pool: FleetPool, endpoint: FleetEndpoint, usualPace: number, expectedMs: number, tookMs: number, nowMs: number): number {
    const slow = this.#of(pool)?.slow;
    if (slow === undefined) return Infinity;
    const withAllMs = expectedMs + endpoint.uncachedTokensWaiting / (tokensPerMsDefault * endpoint.weight);
    const limitAt = (pace: number): number => Math.max(slow.factor * pace * withAllMs, pace * withAllMs + slowExcessMsMin);
    if (tookMs <= limitAt(usualPace)) return limitAt(usualPace);
    const peersPace = this.#peersPace(pool, endpoint, slow.samplesMin, nowMs);
    return peersPace === undefined ? Infinity : limitAt(Math.max(usualPace, peersPace));
  }

  /** Whether none of its peers fails anything, and they do enough to say so. */
  #standsOut(pool: FleetPool, endpoint: FleetEndpoint, nowMs: number): boolean {
    let requests = 0;
    for (const peer of pool.endpoints) {
      if (peer === endpoint || !isServing(peer.state)) continue;
      const recent = peer.health.breaker.recent(nowMs);
      if (recent.failed > 0) return false;
      requests += recent.requests;
    }
    return requests >= peersRequestsMin;
  }

  /** Time to first token above which an endpoint is slow against its peers, in ms; Infinity: nothing to compare with. */
  #slowLimit(pool: FleetPool, endpoint: FleetEndpoint, expectedMs: number, nowMs: number): number {
    const slow = this.#of(pool)?.slow;
    const peers = slow && this.#peersPace(pool, endpoint, slow.samplesMin, nowMs);
    return slow === undefined || peers === undefined ? Infinity : Math.max(slow.factor * peers * expectedMs, peers * expectedMs + slowExcessMsMin);
  }

  /** Median pace of the other endpoints that are in order; undefined: none has enough samples. */
  #peersPace(pool: FleetPool, endpoint: FleetEndpoint, samplesMin: number, nowMs: number): number | undefined {
    const paces: number[] = [];
    for (const peer of pool.endpoints) {
      if (peer === endpoint || !isServing(peer.state)) continue;
      const pace = peer.health.pace.pace(samplesMin, nowMs);
      if (pace !== undefined) paces.push(pace);
    }
    paces.sort((a, b) => a - b);
    return paces[Math.floor((paces.length - 1) / 2)];
  }

  #findSlow(pool: FleetPool, { factor, samplesMin }: { readonly factor: number; readonly samplesMin: number }, nowMs: number): void {
    // Two medians, of all and of all but one, are as good as the same where it matters: of many. Worth a look at each only where one stands out.
    const paces = new Map<FleetEndpoint, number>();
    for (const endpoint of pool.endpoints) {
      const pace = isServing(endpoint.state) ? endpoint.health.pace.pace(samplesMin, nowMs) : undefined;
      if (pace !== undefined) paces.set(endpoint, pace);
    }
    if (paces.size < 2) return;
    const sorted = [...paces.values()].sort((a, b) => a - b);
    const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? Infinity;
    for (const [endpoint, pace] of paces) {
      if (pace <= factor * lower) continue;
      const peers = this.#peersPace(pool, endpoint, samplesMin, nowMs);
      if (peers === undefined || pace <= factor * peers || (pace - peers) * baseMs < slowExcessMsMin) continue;
      if (!this.#canSpareSlow(pool, endpoint, nowMs)) continue;
      this.#open(pool, endpoint, 'slow', 'slower-than-peers', `first tokens take ${(pace / peers).toFixed(1)} times as long as on its peers`);
    }
  }

  /** Whether the pool can do without an endpoint that works, if slowly: few are called slow, and its peers have nothing much to wait for. */
  #canSpareSlow(pool: FleetPool, endpoint: FleetEndpoint, nowMs: number): boolean {
    let present = 0;
    let slow = 0;
    const waits: number[] = [];
    for (const peer of pool.endpoints) {
      if (peer.health.countsAsPresent) present += 1;
      if (peer.health.breaker.state === 'slow' || peer.health.breaker.state === 'half-open') slow += 1;
      if (peer !== endpoint && isServing(peer.state)) waits.push(expectedTtftMs(peer, 0, tokensPerMsDefault, nowMs));
    }
    waits.sort((a, b) => a - b);
    return slow < Math.max(1, Math.floor(slowShareMax * present)) && (waits[Math.floor(waits.length / 2)] ?? Infinity) <= peersWaitMsMax;
  }

  /** Looks at who waits longest on each endpoint, and how many with him. */
  #findLateAndStalled(nowMs: number): void {
    const waiting = new Map<FleetEndpoint, { readonly oldest: Expected; streamed: Expected[] }>();
    this.#expected.visit((expected) => {
      // In order of start, but for decisions that were made again.
      if (nowMs - expected.startedMs < slowExcessMsMin) return false;
      const { endpoint, pool, streams, token } = expected;
      if (streams === false || token !== undefined) return true;
      const settings = this.#of(pool);
      if (settings?.slow === undefined || !settings.observesFirstToken) return true;
      const there = waiting.get(endpoint) ?? { oldest: expected, streamed: [] };
      if (streams === true || this.#streams(pool)) there.streamed.push(expected);
      waiting.set(endpoint, there);
      return true;
    });
    for (const { oldest, streamed } of waiting.values()) {
      this.#findLate(streamed, nowMs);
      this.#findStalled(oldest, nowMs);
    }
  }

  /** The step after a late one is late as soon as it has taken too long: those that wait need not get their first tokens for that. */
  #findLate(waiting: readonly Expected[], nowMs: number): void {
    const [oldest] = waiting;
    if (oldest === undefined || !this.#hearsAll) return;
    const { pool, endpoint, startedMs } = oldest;
    const { lateSteps } = endpoint.health;
    const steps = lateSteps.steps(nowMs);
    const usualPace = this.#usualPace(endpoint, nowMs);
    if (steps === 0 || usualPace === undefined || !isServing(endpoint.state)) return;
    const tookMs = Math.min(nowMs - startedMs, nowMs - endpoint.line.headSinceMs);
    if (tookMs <= this.#lateLimit(pool, endpoint, usualPace, baseMs, tookMs, nowMs)) return;
    const foreign = this.#streams(pool) ? endpoint.foreign.requestsWaiting : 0;
    this.#judgeSteps(pool, endpoint, steps + 1, lateSteps.requests(nowMs) + waiting.length + foreign, nowMs);
  }

  /** A request that waits far longer than expected, on an endpoint that shows no sign of work meanwhile, while others do. */
  #findStalled({ ms, endpoint, pool, startedMs }: Expected, nowMs: number): void {
    const ageMs = nowMs - startedMs;
    const { state } = endpoint;
    if (ageMs < stallMsMin || (!isServing(state) && state !== 'half-open')) return;
    const peers = Math.max(1, this.#peersPace(pool, endpoint, 1, nowMs) ?? 1);
    // It may be at work on anything that waits there: what others sent at the same moment came in an order that nobody here knows.
    const allMs = baseMs + endpoint.uncachedTokensWaiting / (tokensPerMsDefault * endpoint.weight);
    const limitMs = Math.max(stallMsMin, stallFactor * peers * Math.max(ms, allMs));
    if (ageMs < limitMs || nowMs - endpoint.health.progressMs < limitMs) return;
    const othersWork = pool.endpoints.some((peer) => peer !== endpoint && nowMs - peer.health.progressMs < limitMs);
    if (!othersWork) return;
    this.#open(pool, endpoint, 'slow', state === 'half-open' ? 'trial-failed' : 'stalled', `no first token for ${Math.round(ageMs)} ms`);
  }

  /** Leaves an endpoint out, if the pool can spare it. */
  #open(pool: FleetPool, endpoint: FleetEndpoint, state: 'open' | 'slow', cause: ChangeCause, detail: string): void {
    const { breaker } = endpoint.health;
    if (breaker.state === 'closed' && this.#leftOut(pool) >= this.#leftOutMax(pool)) {
      this.#options.withheld(pool.name, endpoint.address, `${cause}: ${detail}`);
      return;
    }
    const nowMs = this.#options.clock.nowMs();
    this.#say(pool, endpoint, 'breaker', cause, detail, () => {
      breaker.open(state, nowMs);
      forgetPace(endpoint);
    });
  }

  #leftOut(pool: FleetPool): number {
    let count = 0;
    for (const { health } of pool.endpoints) if (health.countsAsPresent && health.breaker.state !== 'closed') count += 1;
    return count;
  }

  /** Never all, unless the share is 1; and at least one of two or more, however small the share. */
  #leftOutMax(pool: FleetPool): number {
    const share = this.#of(pool)?.ejectedShareMax ?? 0;
    let present = 0;
    for (const { health } of pool.endpoints) if (health.countsAsPresent) present += 1;
    return share === 0 ? 0 : Math.max(present > 1 ? 1 : 0, Math.floor(share * present));
  }

  /** Two routers may each leave out the last that the pool can spare, or the pool may shrink: then all routers take the same ones in again. */
  #enforceLimit(pool: FleetPool): void {
    let surplus = this.#leftOut(pool) - this.#leftOutMax(pool);
    if (surplus <= 0) return;
    const left = pool.endpoints.filter(({ health }) => health.countsAsPresent && health.breaker.state !== 'closed');
    left.sort((a, b) => a.health.breaker.verdict.strikes - b.health.breaker.verdict.strikes || (a.address < b.address ? 1 : -1));
    for (const endpoint of left) {
      if (surplus <= 0) return;
      surplus -= 1;
      this.#closeBreaker(pool, endpoint, 'ejection-limit');
    }
  }
}

/** What an endpoint needs for so many tokens by itself, in ms. */
function toExpectedMs({ weight }: FleetEndpoint, uncachedTokens: number): number {
  return baseMs + uncachedTokens / (tokensPerMsDefault * weight);
}

/** What was measured before says nothing of what comes now. */
function forgetPace({ health }: FleetEndpoint): void {
  health.pace.clear();
  health.lateSteps.clear();
}

/** Whether an answer came in more than one piece, as far as its times tell. */
function isStreamed({ answerMs, firstByteMs }: Completion, sinceTokenMs: number): boolean {
  return answerMs !== undefined && firstByteMs !== undefined ? answerMs - firstByteMs >= streamedMsMin : sinceTokenMs >= streamedHeardMsMin;
}

/** The endpoint of that address, or all the ranks behind it. */
function endpointsAt(pool: FleetPool, address: string): readonly FleetEndpoint[] {
  const endpoint = pool.endpoint(address);
  return endpoint === undefined ? pool.endpoints.filter((rank) => toHostPort(rank.address) === address) : [endpoint];
}

/** The completion, for people. */
function describe({ ending, status, attempts = 1 }: Completion): string {
  return `last: ${attempts > 1 ? 'had to be retried' : ending === 'finished' ? `status ${status ?? '?'}` : ending}`;
}
