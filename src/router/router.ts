import { ChurnMap } from '../core/churn-map.ts';
import { toTellable } from '../core/data-parallel-rank.ts';
import { decide } from '../core/decide.ts';
import { createAccount, type DecisionAccount } from '../core/explain.ts';
import { createAffinityHasher, type AffinityKey } from '../core/hash.ts';
import { perVersion } from '../core/per-version.ts';
import { bestMax } from '../core/policy.ts';
import type { FactNeed, RequestFacts } from '../core/request-facts.ts';
import type { FleetEndpoint, FleetPool, FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { RequestDuration } from '../fleet/request-duration.ts';
import { type Reservation, Reservations } from '../fleet/reservations.ts';
import { FirstTokenWatch } from './first-token-watch.ts';
import type { HealthWatch } from './health-watch.ts';
import type { Clock, Completion, DecisionLog, RefusalCode, Rng, RouterEvents, StateExchange } from './ports.ts';
import { judgeEnd, measureEnd, measureFirstToken } from './measured-times.ts';
import { moreTelling, type Refusal, refusalCodeOf, toRefusal } from './refusal.ts';
import type { RouteWeights } from './route-weights.ts';
import type { Chance, Routed } from './routed.ts';
import { compareWithShadow } from './shadow.ts';
import { chooseTarget } from './target-choice.ts';
import { type KnownFacts, matchRoute, missingFacts, type Route, type RoutedPool, type RouteTarget, type RoutingTable, somePoolStillOpen, withoutFact } from './routing-table.ts';

export interface RouterOptions {
  /** Unique among the routers that share state; letters and digits. */
  readonly id: string;
  readonly table: RoutingTable;
  readonly fleet: FleetView;
  /** Sessions that live elsewhere than at home; shared with the exchange where there is one. */
  readonly placements?: Placements | undefined;
  readonly affinitySecret: string;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly exchange: StateExchange;
  readonly events: RouterEvents;
  /** Is told how every final decision came about, and what became of it. */
  readonly decisions?: DecisionLog | undefined;
  /** Longest that a request is counted without a sign of its end, in ms. */
  readonly expireAfterMsMax: number;
  /** How long a request is counted while no end was ever reported, in ms. */
  readonly assumedDurationMs: number;
  /** Fallback addresses told to Envoy, the choice included. */
  readonly endpointsMax: number;
  /** Weights that operators set; absent: none can. */
  readonly weights?: RouteWeights | undefined;
  /** Learns of the endpoints' health from what becomes of requests; absent: nobody does. */
  readonly health?: HealthWatch | undefined;
}

/** How to decide. */
export interface RouteOptions {
  /** An earlier decision on the same request: the lease stays, the reservation moves. */
  readonly earlier?: Routed | undefined;
  /** The decision may be made again. */
  readonly provisional?: boolean;
  /** The routes that the facts were read for, where they may have been replaced since; absent: those in force. */
  readonly readFor?: RoutingTable | undefined;
}

/** What can be changed of a running router. */
export type RouterSettings = Pick<RouterOptions, 'table' | 'expireAfterMsMax' | 'assumedDurationMs' | 'endpointsMax'>;

/** Requests sent without any report of an end before that is called missing. */
const silentRequestsMax = 50;
/** Capped endpoints asked for a place by one call. */
const placesAskedMax = 64;
/** And the time that has to pass since the first of them, in ms. */
const silenceMsMax = 20_000;

const nothingCached: ReadonlyMap<string, number> = new Map();

/** How many endpoints of a pool have no limit of requests. */
const unlimitedOf = perVersion((endpoints) => endpoints.reduce((count, { requestsMax }) => count + (requestsMax === undefined ? 1 : 0), 0));

/** Whether the pool's policy, or the one that shadows it, looks at what endpoints have cached. */
function wantsCache({ policy, shadow }: RoutedPool): boolean {
  return policy.needs.has('prefix') || shadow?.policy.needs.has('prefix') === true;
}

/** A decision that was not told to anyone yet. */
interface Pending {
  readonly routed: Routed;
  readonly facts: RequestFacts;
  readonly key: AffinityKey | undefined;
  readonly final: boolean;
  readonly readFor: RoutingTable | undefined;
}

/** The use cases: decide on a request, and observe what became of it. Synchronous: no request waits for anything here. */
export class Router {
  readonly id: string;
  readonly fleet: FleetView;
  readonly #options: RouterOptions;
  #settings: RouterSettings;
  readonly #hash: (tenant: string, session: string) => AffinityKey;
  readonly #reservations = new Reservations();
  /** Provisional decisions: reserved here, not told to anyone yet. */
  readonly #provisional = new ChurnMap<string, Pending>();
  /** Places held on endpoints with an exact limit, by lease. */
  readonly #places = new ChurnMap<string, { readonly pool: string; readonly address: string }>();
  readonly #placements: Placements;
  readonly #duration = new RequestDuration();
  readonly #firstTokens = new FirstTokenWatch();
  #leases = 0;
  #firstDispatchMs: number | undefined;
  #completionsSeen = false;
  #silenceTold = false;

  constructor(options: RouterOptions) {
    this.id = options.id;
    this.fleet = options.fleet;
    this.#options = options;
    this.#settings = options;
    this.#placements = options.placements ?? new Placements();
    this.#hash = createAffinityHasher(options.affinitySecret);
  }

  /** The routes in force. */
  get table(): RoutingTable {
    return this.#settings.table;
  }

  /**
   * Decides by another configuration from the next call on. Requests in flight stay counted where they are. The fleet has to have the
   * table's pools by now. Returns the routes for which weights that operators had set mean nothing any more.
   */
  reconfigure(settings: RouterSettings): readonly string[] {
    this.#settings = settings;
    return this.#options.weights?.reconfigure(settings.table) ?? [];
  }

  /** The routes to decide by: those in force, unless they want what was not read for this request, or a body that nobody kept to rewrite. */
  #tableFor(readFor: RoutingTable | undefined): RoutingTable {
    const { table } = this;
    if (readFor === undefined || readFor === table) return table;
    if (table.rewrites === true && readFor.rewrites !== true) return readFor;
    return [...(table.headers ?? [])].every((name) => readFor.headers?.has(name) === true) ? table : readFor;
  }

  /** Facts that would make the decision better, given what is known already. `readFor`: see `RouteOptions`. */
  missingFacts(known: KnownFacts, readFor?: RoutingTable): ReadonlySet<FactNeed> {
    const table = this.#tableFor(readFor);
    const missing = missingFacts(table, known);
    // A session whose prompt was read once, for a pool it may go to, is known there by its first distinct block: to read it again would
    // cost more than it tells.
    if (!missing.has('prefix') || known.session === undefined) return missing;
    const key = this.#hash(known.tenant ?? '', known.session);
    const read = somePoolStillOpen(table, known, ({ name }) => this.fleet.pool(name)?.cache.knows(key.id) === true);
    return read ? withoutFact(missing, 'prefix') : missing;
  }

  /** Requests counted by this router and not released. */
  get requestsInFlight(): number {
    return this.#reservations.size;
  }

  /** Whether any completion report ever arrived. */
  get completionsSeen(): boolean {
    return this.#completionsSeen;
  }

  /**
   * Decides on a request and reserves its place. With `earlier`, decides again for the same request now that more is known:
   * the lease stays, the reservation moves. A `provisional` decision may be made again; it is neither counted nor told to
   * other routers before it is made final, by a second `route`, by `confirm`, or by the end of the request.
   */
  route(facts: RequestFacts, options: RouteOptions = {}): Routed | Refusal {
    return this.#route(facts, options);
  }

  /** `without`: pools that turned out to have no place, where the model must stay what the earlier decision said. */
  #route(facts: RequestFacts, { earlier, provisional = false, readFor }: RouteOptions, without?: ReadonlySet<string>): Routed | Refusal {
    const { clock, rng } = this.#options;
    const nowMs = clock.nowMs();
    const match = matchRoute(this.#tableFor(readFor), facts);
    if (match.kind === 'none') return this.#refuse(match.code, earlier, provisional, createAccount(undefined, facts, undefined));

    const { route } = match;
    const key = facts.session === undefined ? undefined : this.#hash(facts.tenant ?? '', facts.session);
    const account = createAccount(route.name, facts, key?.id);
    if (without !== undefined) account.considered.push(...(earlier?.account.considered ?? []));
    const chance: Chance = earlier?.chance ?? { draw: rng.draw(), sequences: [] };
    // Its own load must not count against it when it is decided on again.
    const over = earlier !== undefined && this.#reservations.setAside(earlier.lease, nowMs) === undefined;
    let code: RefusalCode | undefined;
    const tried = new Set(without);
    for (const { target, draw, isFallback } of this.#targets(route, key, chance)) {
      const { pool } = target;
      const fleetPool = this.fleet.pool(pool.name);
      if (fleetPool === undefined || tried.has(pool.name) || (without !== undefined && target.model !== earlier?.model)) continue;
      tried.add(pool.name);
      const promptTokens = facts.promptTokens ?? fleetPool.promptTokensMean;
      const cachedTokens = wantsCache(pool)
        ? fleetPool.cache.lookUp({ keyId: key?.id, promptTokens, prefixHashes: facts.prefixHashes }, fleetPool.endpoints)
        : nothingCached;
      const input = {
        facts,
        pool: fleetPool,
        cachedTokens,
        affinityKey: key,
        placedOn: key && this.#placements.find(pool.name, key.id),
        promptTokens,
        routers: this.fleet.routers,
        unheardTokens: fleetPool.unheard.tokens,
        nowMs,
        draw,
        sequence: sequenceIn(fleetPool, chance),
      };
      const decision = decide(pool.policy, input);
      account.considered.push({ pool: pool.name, decision, promptTokens, cachedTokens, shadow: compareWithShadow(pool.shadow, input, decision) });
      if (decision.kind === 'none') {
        code = moreTelling(code, refusalCodeOf(decision));
        continue;
      }

      const chosen = (decision.best ?? decision.addresses)[0];
      const endpoint = chosen === undefined ? undefined : fleetPool.endpoint(chosen);
      if (endpoint === undefined) throw new Error(`policy ${pool.policy.name} chose ${chosen ?? 'nothing'}, which is not in pool ${pool.name}`);
      if (earlier === undefined) this.#leases += 1;
      const lease = earlier?.lease ?? `${this.id}.${this.#leases}`;
      const addresses = this.#toTellable(fleetPool, endpoint, decision);
      const needsPlace = this.#options.exchange.caps !== undefined && endpoint.requestsMax !== undefined;
      const uncachedTokens = promptTokens - (cachedTokens.get(endpoint.address) ?? 0);
      const decidedMs = clock.nowMs();
      const routed: Routed = {
        kind: 'route',
        lease,
        route: route.name,
        pool,
        isFallback: isFallback || without !== undefined,
        model: target.model,
        addresses,
        decision,
        promptTokens,
        uncachedTokens,
        streams: facts.stream,
        needsPlace,
        decisionMs: decidedMs - nowMs,
        chance,
        account,
      };
      // A request that was reported over meanwhile (or expired) is not counted a second time: nobody would end it.
      if (over) return routed;
      const held = this.#reservations.reserve(lease, fleetPool, endpoint, routed, nowMs);
      if (pool.observeFirstToken) this.#firstTokens.expect(pool.name);
      const pending: Pending = { routed, facts, key, final: !provisional, readFor };
      if (!needsPlace) this.#leavePlace(lease);
      if (provisional || needsPlace) {
        this.#provisional.set(lease, pending);
      } else {
        this.#provisional.delete(lease);
        this.#confirm(pending, held, decidedMs);
      }
      return routed;
    }
    return this.#refuse(code ?? (without === undefined ? 'no_ready_endpoint' : 'overloaded'), earlier, provisional, account);
  }

  /** Where a request may go, in order: the target that its session or chance picks, then the route's fallbacks. */
  #targets(route: Route, key: AffinityKey | undefined, chance: Chance): { target: RouteTarget; draw: number; isFallback: boolean }[] {
    const { clock, weights } = this.#options;
    // What time it is matters to routes with a shift alone.
    const wallMs = route.shift === undefined ? 0 : (clock.wallMs?.() ?? clock.nowMs());
    const choice = chooseTarget(route, { key, draw: chance.draw, wallMs, weights });
    const first = choice === undefined ? [] : [{ ...choice, isFallback: false }];
    return route.fallback === undefined ? first : [...first, ...route.fallback.map((target) => ({ target, draw: chance.draw, isFallback: true }))];
  }

  /**
   * Takes a place on an endpoint with an exact limit, over all routers: on the choice, else on the next of its order that has one. The
   * one step that may wait for shared state, and only requests that `needsPlace` take it. Where nobody can be asked, the choice stands:
   * it was made within this router's share of the limit.
   */
  async secure(routed: Routed): Promise<Routed | Refusal> {
    const { caps } = this.#options.exchange;
    const pool = this.fleet.pool(routed.pool.name);
    if (!routed.needsPlace || caps === undefined || pool === undefined) return routed;
    const { lease, decision } = routed;
    const endpoints = decision.addresses.flatMap((address) => pool.endpoint(address) ?? []);
    const firstFree = endpoints.findIndex(({ requestsMax }) => requestsMax === undefined);
    const capped = (firstFree === -1 ? endpoints : endpoints.slice(0, firstFree)).slice(0, placesAskedMax);
    const outcome = await caps.acquire(
      pool.name,
      lease,
      capped.map(({ address, requestsMax = 0 }) => ({ address, requestsMax })),
    );
    const pending = this.#provisional.get(lease);
    const taken = outcome === 'unavailable' ? undefined : outcome.taken;
    if (this.#reservations.find(lease) === undefined || pending?.routed !== routed) {
      // The request ended while it waited.
      if (taken !== undefined) caps.release(pool.name, taken, lease);
      return routed;
    }
    // While nobody can be asked, each router keeps to its share; this request is counted on its first choice already.
    const inShare = endpoints.find(
      ({ requestsMax, own }, i) => requestsMax === undefined || own.requests - (i === 0 ? 1 : 0) < caps.shareOf(requestsMax),
    );
    const endpoint = outcome === 'unavailable' ? inShare : taken === undefined ? endpoints[firstFree] : pool.endpoint(taken);
    if (endpoint === undefined) {
      const without = new Set(routed.account.considered.map((considered) => considered.pool));
      const elsewhere = this.#route(pending.facts, { earlier: routed, provisional: !pending.final, readFor: pending.readFor }, without);
      return elsewhere.kind === 'route' ? this.secure(elsewhere) : elsewhere;
    }

    this.#leavePlace(lease, taken);
    if (taken !== undefined) this.#places.set(lease, { pool: pool.name, address: taken });
    const addresses = this.#toTellable(pool, endpoint, decision);
    const cachedTokens = routed.account.considered.findLast((considered) => considered.pool === pool.name)?.cachedTokens;
    const uncachedTokens = routed.promptTokens - (cachedTokens?.get(endpoint.address) ?? 0);
    const secured: Routed = { ...routed, addresses, uncachedTokens, needsPlace: false };
    if (addresses[0] !== routed.addresses[0]) this.#reservations.reserve(lease, pool, endpoint, secured, this.#options.clock.nowMs());
    this.#provisional.set(lease, { ...pending, routed: secured });
    if (pending.final) this.confirm(lease);
    return secured;
  }

  /** A provisional decision stands: counts it, remembers where the session went, tells the other routers. Idempotent. */
  confirm(lease: string): void {
    const pending = this.#provisional.take(lease);
    if (pending !== undefined) this.#confirm(pending, this.#reservations.find(lease), this.#options.clock.nowMs());
  }

  #confirm({ routed, key, facts }: Pending, held: Reservation | undefined, nowMs: number): void {
    const pool = routed.pool.name;
    const { promptTokens, uncachedTokens } = routed;
    const address = routed.addresses[0] ?? '';
    const { home } = routed.decision;
    const moved = key !== undefined && home !== undefined ? this.#placements.note(pool, key.id, address, home) : undefined;
    const placement = key !== undefined && moved !== undefined ? { keyId: key.id, away: moved === 'away' } : undefined;
    const fleetPool = this.fleet.pool(pool);
    if (facts.promptTokens !== undefined) fleetPool?.learnPromptTokens(promptTokens);
    const added = fleetPool?.endpoint(address)?.added;
    if (added !== undefined) {
      added.requests += 1;
      added.promptTokens += promptTokens;
      added.uncachedTokens += uncachedTokens;
      fleetPool?.noteDispatch(promptTokens, uncachedTokens);
    }
    const cached = wantsCache(routed.pool) ? { keyId: key?.id, prefixHashes: facts.prefixHashes } : undefined;
    if (cached !== undefined) fleetPool?.cache.note(address, { ...cached, promptTokens });
    if (held !== undefined) this.#options.health?.dispatched(held, facts.stream);
    this.#firstDispatchMs ??= nowMs;
    this.#options.events.decided(routed);
    this.#options.decisions?.decided(routed);
    fleetPool?.unheard.sent(nowMs);
    this.#options.exchange.publish({ kind: 'dispatch', pool, address, promptTokens, uncachedTokens, placement, cached });
  }

  /** The first token of a response passed. `streams`: whether more are to follow, as far as its first piece tells; undefined: it does not. */
  firstToken(lease: string, streams?: boolean): void {
    this.confirm(lease);
    const nowMs = this.#options.clock.nowMs();
    const held = this.#reservations.firstToken(lease, nowMs);
    if (held === undefined) return;
    this.#options.health?.firstToken(held, streams);
    measureFirstToken(held, nowMs);
    this.#firstTokens.noticed(held.pool.name);
    this.#options.events.firstToken(held.pool.name, held.endpoint.address, nowMs - held.startedMs);
    this.#options.decisions?.firstToken(lease, nowMs - held.startedMs);
    this.#publish('first-token', held);
  }

  /** A request is over, says `completion`. Idempotent; a lease of another router goes to its owner. */
  observe(lease: string, completion: Completion): void {
    const owner = lease.slice(0, Math.max(0, lease.lastIndexOf('.')));
    if (owner !== this.id) {
      this.#options.events.foreignReport(owner, this.#options.exchange.forward(owner, lease, completion));
      return;
    }
    this.confirm(lease);
    if (completion.ending === 'open') {
      this.#reservations.keepAlive(lease, this.#options.clock.nowMs());
      return;
    }
    this.#leavePlace(lease);
    const nowMs = this.#options.clock.nowMs();
    const held = this.#reservations.release(lease, nowMs, completion.ending === 'finished');
    if (completion.signal === 'access-log' || completion.signal === 'response-phases') this.#completionsSeen = true;
    if (held === undefined) {
      this.#options.events.unknownLease();
      return;
    }
    if (completion.ending === 'finished') this.#duration.learn(nowMs - held.startedMs);
    // Of an answer in one piece no first token is noticed.
    if (completion.ending === 'finished' && held.phase === 'waiting' && held.streams !== false) {
      const missed = this.#firstTokens.missed(held.pool.name);
      if (missed !== undefined) this.#options.events.noFirstToken(held.pool.name, missed);
    }
    this.#tellEnd(held, completion, nowMs);
  }

  /** A request is over, and counted no longer: tells all who learn from it. */
  #tellEnd(held: Reservation, completion: Completion, nowMs: number): void {
    const { health, events, decisions } = this.#options;
    const durationMs = nowMs - held.startedMs;
    const judgements = judgeEnd(held, completion, nowMs);
    health?.ended(held, completion, judgements);
    measureEnd(held, completion, judgements, nowMs);
    events.released(held.pool.name, held.endpoint.address, completion, durationMs);
    decisions?.ended(held.lease, completion, durationMs);
    this.#publish('done', held);
  }

  /** Drops what no sign of an end came for, and tells once if none comes for anything. To be called about once a second. */
  expire(): void {
    const { clock, events } = this.#options;
    const { expireAfterMsMax, assumedDurationMs } = this.#settings;
    const nowMs = clock.nowMs();
    const afterMs = this.#completionsSeen ? (this.#duration.known ? this.#duration.longMs : expireAfterMsMax) : assumedDurationMs;
    for (const held of this.#reservations.expire(nowMs - Math.min(afterMs, expireAfterMsMax), nowMs)) {
      this.confirm(held.lease);
      this.#leavePlace(held.lease);
      this.#tellEnd(held, { ending: 'expired', signal: 'timer' }, nowMs);
    }
    // What was measured grows old by itself.
    for (const pool of this.fleet.pools.values()) for (const { times } of pool.endpoints) times.advance(nowMs);
    if (!this.#completionsSeen && !this.#silenceTold && this.#leases >= silentRequestsMax && nowMs - (this.#firstDispatchMs ?? nowMs) >= silenceMsMax) {
      this.#silenceTold = true;
      events.noCompletionSignal(this.#leases);
    }
  }

  /** A provisional decision is final after all, as though it had been made so. */
  settle(routed: Routed): void {
    const pending = this.#provisional.get(routed.lease);
    if (pending === undefined) return;
    if (routed.needsPlace) this.#provisional.set(routed.lease, { ...pending, final: true });
    else this.confirm(routed.lease);
  }

  /** Refuses a request after all, for a cause that shows only where its answer is made. Its place is free again. */
  reject(routed: Routed, code: RefusalCode): Refusal {
    if (this.#provisional.has(routed.lease)) return this.#refuse(code, routed, false, routed.account);
    this.observe(routed.lease, { ending: 'not-proxied', signal: 'ext-proc' });
    this.#options.events.refused(code, routed.pool.name);
    return { ...toRefusal(code), account: routed.account };
  }

  /** The choice, and those of `order` to try when it fails: none with a limit, since a retry of Envoy's would land where no place was taken. */
  #toTellable(pool: FleetPool, chosen: FleetEndpoint, decision: Routed['decision']): readonly string[] {
    const { endpointsMax } = this.#settings;
    const tellableOf = (order: readonly string[]): readonly string[] => {
      const allowed = [chosen.address];
      for (const address of order) if (address !== chosen.address && pool.endpoint(address)?.requestsMax === undefined) allowed.push(address);
      return toTellable(allowed, endpointsMax);
    };
    // Those after the best are looked at only where too few of the best may be told.
    const best = decision.best ?? decision.addresses;
    const told = tellableOf(best);
    if (told.length >= endpointsMax || best.length < bestMax) return told;
    const unlimited = best.reduce((count, address) => count + (pool.endpoint(address)?.requestsMax === undefined ? 1 : 0), 0);
    return unlimited === unlimitedOf(pool) ? told : tellableOf(decision.addresses);
  }

  #publish(kind: 'first-token' | 'done', { pool, endpoint, promptTokens, uncachedTokens, phase }: Reservation): void {
    const { address } = endpoint;
    this.#options.exchange.publish(
      kind === 'done' ? { kind, pool: pool.name, address, uncachedTokens, promptTokens, waiting: phase === 'waiting' } : { kind, pool: pool.name, address, uncachedTokens },
    );
  }

  /** Gives back the place a lease holds, unless it is on `address`. */
  #leavePlace(lease: string, address?: string): void {
    const place = this.#places.get(lease);
    if (place === undefined || place.address === address) return;
    this.#places.delete(lease);
    this.#options.exchange.caps?.release(place.pool, place.address, lease);
  }

  #refuse(code: RefusalCode, earlier: Routed | undefined, provisional: boolean, account: DecisionAccount): Refusal {
    if (earlier !== undefined) {
      this.#leavePlace(earlier.lease);
      this.#reservations.release(earlier.lease, this.#options.clock.nowMs());
      this.#provisional.delete(earlier.lease);
    }
    if (!provisional) {
      this.#options.events.refused(code, account.considered[0]?.pool);
      this.#options.decisions?.refused(code, account);
    }
    return { ...toRefusal(code), account };
  }
}

/** A request's number within a pool, the same each time that it is decided on. */
function sequenceIn(pool: FleetPool, { sequences }: Chance): number {
  for (const known of sequences) if (known.pool === pool.name) return known.sequence;
  const { sequence } = pool;
  pool.sequence += 1;
  sequences.push({ pool: pool.name, sequence });
  return sequence;
}
