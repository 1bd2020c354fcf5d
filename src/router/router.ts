import { decide } from '../core/decide.ts';
import { createAffinityHasher, type AffinityKey, hashName, pairFraction } from '../core/hash.ts';
import type { FactNeed, RequestFacts } from '../core/request-facts.ts';
import type { FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { RequestDuration } from '../fleet/request-duration.ts';
import { type Reservation, Reservations } from '../fleet/reservations.ts';
import type { Clock, Completion, RefusalCode, Rng, RouterEvents, StateExchange } from './ports.ts';
import { type Refusal, toRefusal } from './refusal.ts';
import type { Routed } from './routed.ts';
import { matchRoute, matchRouteWithoutModel, missingFacts, type Route, type RoutedPool, type RoutingTable } from './routing-table.ts';

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
  /** Longest that a request is counted without a sign of its end, in ms. */
  readonly expireAfterMsMax: number;
  /** How long a request is counted while no end was ever reported, in ms. */
  readonly assumedDurationMs: number;
  /** Fallback addresses told to Envoy, the choice included. */
  readonly endpointsMax: number;
}

/** Requests sent without any report of an end before that is called missing. */
const silentRequestsMax = 50;
/** Capped endpoints asked for a place by one call. */
const placesAskedMax = 64;
/** And the time that has to pass since the first of them, in ms. */
const silenceMsMax = 20_000;

/** The use cases: decide on a request, and observe what became of it. Synchronous: no request waits for anything here. */
export class Router {
  readonly id: string;
  readonly table: RoutingTable;
  readonly fleet: FleetView;
  readonly #options: RouterOptions;
  readonly #hash: (tenant: string, session: string) => AffinityKey;
  readonly #reservations = new Reservations();
  /** Provisional decisions: reserved here, not told to anyone yet. */
  readonly #provisional = new Map<string, { readonly routed: Routed; readonly key: AffinityKey | undefined; readonly measured: boolean; readonly final: boolean }>();
  /** Places held on endpoints with an exact limit, by lease. */
  readonly #places = new Map<string, { readonly pool: string; readonly address: string }>();
  readonly #placements: Placements;
  readonly #duration = new RequestDuration();
  #leases = 0;
  #firstDispatchMs: number | undefined;
  #completionsSeen = false;
  #silenceTold = false;

  constructor(options: RouterOptions) {
    this.id = options.id;
    this.table = options.table;
    this.fleet = options.fleet;
    this.#options = options;
    this.#placements = options.placements ?? new Placements();
    this.#hash = createAffinityHasher(options.affinitySecret);
  }

  /** Facts that would make the decision better, given what is known already. */
  missingFacts(known: { path: string; model: string | undefined; session: string | undefined }): ReadonlySet<FactNeed> {
    return missingFacts(this.table, known);
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
  route(facts: RequestFacts, { earlier, provisional = false }: { earlier?: Routed | undefined; provisional?: boolean } = {}): Routed | Refusal {
    const { clock, rng } = this.#options;
    const nowMs = clock.nowMs();
    const route = this.#findRoute(facts);
    if (typeof route === 'string') return this.#refuse(route, earlier, provisional);

    const key = facts.session === undefined ? undefined : this.#hash(facts.tenant ?? '', facts.session);
    const chance = earlier?.chance ?? { draw: rng.draw(), sequences: new Map<string, number>() };
    const { pool, draw } = this.#chooseTarget(route, key, chance.draw);
    const fleetPool = pool && this.fleet.pool(pool.name);
    if (pool === undefined || fleetPool === undefined) return this.#refuse('no_ready_endpoint', earlier, provisional);

    let sequence = chance.sequences.get(pool.name);
    if (sequence === undefined) {
      sequence = fleetPool.sequence;
      fleetPool.sequence += 1;
      chance.sequences.set(pool.name, sequence);
    }
    const promptTokens = facts.promptTokens ?? fleetPool.promptTokensMean;
    const input = {
      facts,
      pool: fleetPool,
      affinityKey: key,
      placedOn: key && this.#placements.find(pool.name, key.id),
      promptTokens,
      nowMs,
      draw,
      sequence,
    };
    // Its own load must not count against it when it is decided on again.
    const over = earlier !== undefined && this.#reservations.setAside(earlier.lease) === undefined;
    const decision = decide(pool.policy, input);
    if (decision.kind === 'none') {
      const codes = { 'not-ready': 'no_ready_endpoint', saturated: 'overloaded', subset: 'subset_unavailable' } as const;
      return this.#refuse(codes[decision.cause], earlier, provisional);
    }

    const chosen = decision.addresses[0];
    const endpoint = chosen === undefined ? undefined : fleetPool.endpoint(chosen);
    if (endpoint === undefined) throw new Error(`policy ${pool.policy.name} chose ${chosen ?? 'nothing'}, which is not in pool ${pool.name}`);
    if (earlier === undefined) this.#leases += 1;
    const lease = earlier?.lease ?? `${this.id}.${this.#leases}`;
    const addresses = decision.addresses.slice(0, this.#options.endpointsMax);
    const needsPlace = this.#options.exchange.caps !== undefined && endpoint.requestsMax !== undefined;
    const routed: Routed = { kind: 'route', lease, pool, addresses, decision, promptTokens, needsPlace, decisionMs: clock.nowMs() - nowMs, chance };
    // A request that was reported over meanwhile (or expired) is not counted a second time: nobody would end it.
    if (over) return routed;
    this.#reservations.reserve(lease, fleetPool, endpoint, promptTokens, nowMs);
    this.#provisional.set(lease, { routed, key, measured: facts.promptTokens !== undefined, final: !provisional });
    if (needsPlace) return routed;
    this.#leavePlace(lease);
    if (!provisional) this.confirm(lease);
    return routed;
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
    if (endpoint === undefined) return this.#refuse('overloaded', routed, !pending.final);

    this.#leavePlace(lease, taken);
    if (taken !== undefined) this.#places.set(lease, { pool: pool.name, address: taken });
    // A retry of Envoy's must not land where no place was taken.
    const uncapped = endpoints.filter((other) => other !== endpoint && other.requestsMax === undefined);
    const addresses = [endpoint, ...uncapped].map(({ address }) => address).slice(0, this.#options.endpointsMax);
    const secured: Routed = { ...routed, addresses, needsPlace: false };
    if (addresses[0] !== routed.addresses[0]) this.#reservations.reserve(lease, pool, endpoint, routed.promptTokens, this.#options.clock.nowMs());
    this.#provisional.set(lease, { ...pending, routed: secured });
    if (pending.final) this.confirm(lease);
    return secured;
  }

  /** A provisional decision stands: counts it, remembers where the session went, tells the other routers. Idempotent. */
  confirm(lease: string): void {
    const pending = this.#provisional.get(lease);
    if (pending === undefined) return;
    this.#provisional.delete(lease);
    const { routed, key, measured } = pending;
    const pool = routed.pool.name;
    const address = routed.addresses[0] ?? '';
    const { home } = routed.decision;
    const moved = key !== undefined && home !== undefined ? this.#placements.note(pool, key.id, address, home) : undefined;
    const placement = key !== undefined && moved !== undefined ? { keyId: key.id, away: moved === 'away' } : undefined;
    const fleetPool = this.fleet.pool(pool);
    if (measured) fleetPool?.learnPromptTokens(routed.promptTokens);
    const added = fleetPool?.endpoint(address)?.added;
    if (added !== undefined) {
      added.requests += 1;
      added.promptTokens += routed.promptTokens;
    }
    this.#firstDispatchMs ??= this.#options.clock.nowMs();
    this.#options.events.decided(routed);
    this.#options.exchange.publish({ kind: 'dispatch', pool, address, promptTokens: routed.promptTokens, placement });
  }

  /** The first token of a response passed. */
  firstToken(lease: string): void {
    this.confirm(lease);
    const held = this.#reservations.firstToken(lease);
    if (held === undefined) return;
    this.#options.events.firstToken(held.pool.name, held.endpoint.address, this.#options.clock.nowMs() - held.startedMs);
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
    this.#leavePlace(lease);
    const held = this.#reservations.release(lease);
    if (completion.signal === 'access-log' || completion.signal === 'response-phases') this.#completionsSeen = true;
    if (held === undefined) {
      this.#options.events.unknownLease();
      return;
    }
    const durationMs = this.#options.clock.nowMs() - held.startedMs;
    if (completion.ending === 'finished') this.#duration.learn(durationMs);
    this.#options.events.released(held.pool.name, held.endpoint.address, completion, durationMs);
    this.#publish('done', held);
  }

  /** Drops what no sign of an end came for, and tells once if none comes for anything. To be called about once a second. */
  expire(): void {
    const { clock, events, expireAfterMsMax, assumedDurationMs } = this.#options;
    const nowMs = clock.nowMs();
    const afterMs = this.#completionsSeen ? (this.#duration.known ? this.#duration.longMs : expireAfterMsMax) : assumedDurationMs;
    for (const held of this.#reservations.expire(nowMs - Math.min(afterMs, expireAfterMsMax))) {
      this.confirm(held.lease);
      this.#leavePlace(held.lease);
      events.released(held.pool.name, held.endpoint.address, { ending: 'expired', signal: 'timer' }, nowMs - held.startedMs);
      this.#publish('done', held);
    }
    if (!this.#completionsSeen && !this.#silenceTold && this.#leases >= silentRequestsMax && nowMs - (this.#firstDispatchMs ?? nowMs) >= silenceMsMax) {
      this.#silenceTold = true;
      events.noCompletionSignal(this.#leases);
    }
  }

  #publish(kind: 'first-token' | 'done', { pool, endpoint, promptTokens, phase }: Reservation): void {
    const event = { pool: pool.name, address: endpoint.address, promptTokens };
    this.#options.exchange.publish(kind === 'done' ? { kind, ...event, waiting: phase === 'waiting' } : { kind, ...event });
  }

  /** Gives back the place a lease holds, unless it is on `address`. */
  #leavePlace(lease: string, address?: string): void {
    const place = this.#places.get(lease);
    if (place === undefined || place.address === address) return;
    this.#places.delete(lease);
    this.#options.exchange.caps?.release(place.pool, place.address, lease);
  }

  #refuse(code: RefusalCode, earlier: Routed | undefined, provisional: boolean): Refusal {
    if (earlier !== undefined) {
      this.#leavePlace(earlier.lease);
      this.#reservations.release(earlier.lease);
      this.#provisional.delete(earlier.lease);
    }
    if (!provisional) this.#options.events.refused(code);
    return toRefusal(code);
  }

  #findRoute({ path, model }: RequestFacts): Route | RefusalCode {
    const match = matchRoute(this.table, path, model);
    if (match.kind === 'route') return match.route;
    if (match.kind === 'needs-model') return matchRouteWithoutModel(this.table, path) ?? 'model_required';
    return model === undefined ? 'route_not_found' : 'model_not_found';
  }

  /**
   * Picks a target by weight: by the session where there is one, so that it stays with its target; else by the draw. What is left
   * of the draw inside the target's share is even again, and serves the choice inside the pool.
   */
  #chooseTarget({ name, targets }: Route, key: AffinityKey | undefined, draw: number): { pool: RoutedPool | undefined; draw: number } {
    if (targets.length === 1) return { pool: targets[0]?.pool, draw };
    const total = targets.reduce((sum, { weight }) => sum + weight, 0);
    let left = (key === undefined ? draw : pairFraction(key, hashName(name))) * total;
    for (const { pool, weight } of targets) {
      if (left < weight) return { pool, draw: key === undefined ? left / weight : draw };
      left -= weight;
    }
    return { pool: targets.findLast(({ weight }) => weight > 0)?.pool, draw };
  }
}
