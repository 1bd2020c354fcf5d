import type { CapShare } from '../fleet/endpoint.ts';
import type { LoadEvent, SharedState } from '../fleet/shared-state.ts';
import { encodeEvents, encodeSnapshot, type ForwardedCompletion, openingOf, parsePoolMessage, parseReports } from './exchange-messages.ts';
import type { Clock, Completion, ExchangeStatus } from './ports.ts';
import { ReportOutbox } from './report-outbox.ts';

/** What carries messages between routers: Redis in service, a modelled network in the simulator. Every call returns at once. */
export interface ExchangeTransport {
  /** To all routers of a pool, this one included. */
  publish(pool: string, message: string): void;
  /** The same, and kept for routers that join. */
  publishSnapshot(pool: string, message: string): void;
  /** Appends exceptions for routers that join or missed them. Calls `failed` where they may not have been. */
  storePlacements(pool: string, placements: readonly StoredPlacement[], failed: () => void): void;
  /** To one router. Calls `failed` where it is known, or may be, that it did not arrive; it may be lost without. */
  forward(owner: string, message: string, failed: () => void): void;
  /** Asks for a call of `flush` very soon: within 2 ms. */
  wake(): void;
}

/** A session and where it lives; undefined: at its home again. */
export interface StoredPlacement {
  readonly keyId: string;
  readonly address: string | undefined;
}

export interface SharedExchangeOptions {
  readonly routerId: string;
  readonly clock: Clock;
  readonly transport: ExchangeTransport;
  readonly state: SharedState;
  /** Time between snapshots, in ms. */
  readonly snapshotMs: number;
  /** Events a second, over all routers, up to which they are pushed; above it snapshots alone carry the load. */
  readonly pushEventsPerSecondMax: number;
  /** Takes a completion report that another router handed on. */
  readonly onForwarded: (report: ForwardedCompletion) => void;
}

interface Peer {
  lastHeardMs: number;
  /** Number of the last message of each pool: pools go different ways, so that one may overtake another. */
  readonly sequences: Map<string, number>;
  pushes: boolean;
}

/** Snapshot periods without a word after which a router is gone, while our own words come back. */
const silentPeriodsMax = 8;
/** Snapshot periods without our own echo after which the transport counts as down. */
const echoPeriodsMax = 3;
/** How long the load last told is kept while nothing can be heard, in ms; after that it means nothing any more. */
const frozenMsMax = 30_000;
/** Snapshot periods without an acknowledgement, of which one goes out in each, after which a message with reports is taken for lost. */
const unacknowledgedPeriodsMax = 3;
/** Own placements told again when those kept are gone; and, by pool, of which it is remembered that they could not be stored. */
const retoldPlacementsMax = 5_000;
/** Time between two tries to store what could not be, in ms. */
const storeAgainMs = 1_000;
/** Other routers listened to: as many as a fleet may have, whatever someone makes up. */
const peersMax = 10_000;
/** Events and reports in one message: readers take no more than 20 000, and what cannot be read is lost whole. */
const eventsPerMessageMax = 5_000;
/** Prompt blocks of all events in one message, some 9 characters each: readers take no more than 4 million. */
const blocksPerMessageMax = 300_000;
/** Time between tellings of all that is known of endpoints' health, in ms; and rows in one: readers take no more than 20 000. */
const healthEveryMs = 1_000;
const healthRowsMax = 20_000;

/**
 * What routers tell one another and when: events batched and pushed, snapshots as repair and fall-back, who is there and who is
 * gone, and when pushing costs too much. Pure but for its transport, so that the simulator runs the same.
 */
export class SharedExchange {
  readonly #options: SharedExchangeOptions;
  /** What this router's own messages start with. */
  readonly #ownOpening: string;
  readonly #pending = new Map<string, LoadEvent[]>();
  readonly #reports: ReportOutbox;
  /** By pool, sessions whose whereabouts could not be stored. */
  readonly #unstored = new Map<string, Set<string>>();
  #storedAgainMs = 0;
  #toldHealthMs = -Infinity;
  readonly #peers = new Map<string, Peer>();
  #sequence = 0;
  #waking = false;
  #lastEchoMs: number | undefined;
  #down = true;
  #pushing: boolean;
  /** Routers, this one included, when last anything was heard; sorted. */
  #idsLastSeen: readonly string[];
  #eventsThisSecond = 0;
  #secondStartedMs = 0;
  #calmSeconds = 0;

  constructor(options: SharedExchangeOptions) {
    this.#options = options;
    this.#ownOpening = openingOf(options.routerId);
    this.#idsLastSeen = [options.routerId];
    this.#pushing = options.pushEventsPerSecondMax > 0;
    const { routerId, clock, transport, snapshotMs } = options;
    this.#reports = new ReportOutbox({
      routerId,
      clock,
      send: (owner, message, failed) => transport.forward(owner, message, failed),
      // While nobody can be heard, nobody is known to be gone.
      isGone: (router) => !this.#down && !this.#peers.has(router),
      lostAfterMs: unacknowledgedPeriodsMax * snapshotMs,
    });
  }

  // ---- from the router: appends only ----

  publish(event: LoadEvent): void {
    this.#eventsThisSecond += 1;
    // Load is pushed where somebody is there to hear it; who comes reads the snapshots first, and is known here by its own, within a period.
    // Placements and words on health are few and must not be late: they go out even while load is not pushed.
    if ((!this.#pushing || this.#peers.size === 0) && event.kind !== 'health' && !(event.kind === 'dispatch' && event.placement !== undefined)) return;
    const pending = this.#pending.get(event.pool);
    if (pending === undefined) this.#pending.set(event.pool, [event]);
    else pending.push(event);
    this.#wake();
  }

  /** Keeps a report until it has arrived; an outage of the transport is waited out. False: too many wait already. */
  forward(owner: string, lease: string, completion: Completion): boolean {
    if (!this.#reports.add(owner, lease, completion)) return false;
    this.#wake();
    return true;
  }

  snapshotAgeMs(): number | undefined {
    return this.#lastEchoMs === undefined ? undefined : this.#options.clock.nowMs() - this.#lastEchoMs;
  }

  status(): ExchangeStatus {
    const nowMs = this.#options.clock.nowMs();
    const { state, routerId } = this.#options;
    return {
      connected: !this.#down,
      pushing: this.#pushing,
      routersLastSeen: this.#idsLastSeen.length,
      routers: [
        { id: routerId, ageMs: 0, requestsInFlight: state.ownRequests },
        ...[...this.#peers].map(([id, { lastHeardMs }]) => ({ id, ageMs: nowMs - lastHeardMs, requestsInFlight: state.requestsOf(id) })),
      ],
    };
  }

  /** This router's part in what is divided while routers cannot ask one another. */
  capShare(): CapShare {
    return { routers: this.#idsLastSeen.length, rank: this.#idsLastSeen.indexOf(this.#options.routerId) };
  }

  // ---- from the transport's timers ----

  /** Sends what has gathered. */
  flush(): void {
    this.#waking = false;
    const { transport, routerId } = this.#options;
    for (const [pool, events] of this.#pending) {
      this.#pending.delete(pool);
      for (const page of eventPages(events)) transport.publish(pool, encodeEvents(routerId, this.#nextSequence(), page));
      const stored = events.flatMap((event) =>
        event.kind === 'dispatch' && event.placement !== undefined
          ? [{ keyId: event.placement.keyId, address: event.placement.away ? event.address : undefined }]
          : [],
      );
      if (stored.length > 0) this.#store(pool, stored);
    }
    // Through an outage reports wait as they are: a flush may come every 2 ms, and must not cost what they all cost to write.
    if (!this.#down) this.#reports.flush();
  }

  /** Sends all that waits, whatever is known of the transport: this router goes. */
  flushAll(): void {
    this.#reports.sendAgain();
    this.flush();
    this.#reports.flush();
    this.#reports.acknowledge();
    this.#storeAgain();
  }

  /** Completion reports of which it is not known yet that they have arrived. */
  get reportsWaiting(): number {
    return this.#reports.waiting;
  }

  #store(pool: string, placements: readonly StoredPlacement[]): void {
    this.#options.transport.storePlacements(pool, placements, () => {
      const unstored = this.#unstored.get(pool) ?? new Set();
      this.#unstored.set(pool, unstored);
      for (const { keyId } of placements) if (unstored.size < retoldPlacementsMax) unstored.add(keyId);
    });
  }

  /** What could not be stored, as it is now. */
  #storeAgain(): void {
    const unstored = [...this.#unstored];
    this.#unstored.clear();
    for (const [pool, keyIds] of unstored) {
      this.#store(pool, [...keyIds].map((keyId) => ({ keyId, address: this.#options.state.placedOn(pool, keyId) })));
    }
  }

  /** Once per snapshot period: tells everyone how things stand, and finds out who is gone. */
  tick(): void {
    const nowMs = this.#options.clock.nowMs();
    const { state, transport, routerId } = this.#options;
    if (!this.#down) this.#reports.sendAgain();
    if (!this.#down && nowMs - this.#storedAgainMs >= storeAgainMs) {
      this.#storedAgainMs = nowMs;
      this.#storeAgain();
    }
    this.flush();
    if (!this.#down) this.#reports.acknowledge();
    this.#thin(nowMs);
    // Words on health are pushed; that they are all told again now and then is for those who missed some.
    const tellsHealth = nowMs - this.#toldHealthMs >= healthEveryMs;
    if (tellsHealth) this.#toldHealthMs = nowMs;
    for (const pool of state.pools) {
      const metrics = { read: state.takeMetrics(pool), nowMs };
      const health = tellsHealth ? state.health?.rows(pool).slice(0, healthRowsMax) : [];
      transport.publishSnapshot(pool, encodeSnapshot(routerId, this.#nextSequence(), state.ownLoad(pool), this.#pushing, metrics, health));
    }
    this.#missSilent(nowMs);
  }

  // ---- from the transport's subscription ----

  /** A message of a pool's channel, or a stored snapshot. Whatever is no message of ours is ignored. */
  receive(pool: string, text: string): void {
    const nowMs = this.#options.clock.nowMs();
    // Our own come back to us, each of them: that they do is all there is to learn from them.
    if (text.startsWith(this.#ownOpening)) {
      this.#echoed(nowMs);
      return;
    }
    const message = parsePoolMessage(pool, text);
    const { routerId, state } = this.#options;
    if (message === undefined || message.router === routerId) return;
    let peer = this.#peers.get(message.router);
    if (peer === undefined) {
      if (this.#peers.size >= peersMax) return;
      peer = { lastHeardMs: nowMs, sequences: new Map(), pushes: true };
      this.#peers.set(message.router, peer);
      // It knows nothing yet of what was found out before it came.
      this.#toldHealthMs = -Infinity;
    }
    if (message.sequence <= (peer.sequences.get(pool) ?? 0)) return;
    peer.lastHeardMs = nowMs;
    peer.sequences.set(pool, message.sequence);
    if (message.kind === 'snapshot') {
      peer.pushes = message.pushes;
      state.applySnapshot(message.router, pool, message.loads, message.pushes, nowMs);
      for (const [address, { ageMs, ...told }] of message.metrics ?? []) state.applyMetrics(pool, address, { scrapedMs: nowMs - ageMs, ...told });
      for (const row of message.health ?? []) state.health?.receive(pool, row);
    } else {
      for (const event of message.events) {
        // A router that does not push still sends dispatches that move a session: its snapshots hold their load.
        if (peer.pushes || event.kind === 'health') state.applyEvent(message.router, event, nowMs);
        else if (event.kind === 'dispatch' && event.placement !== undefined) state.applyPlacement(pool, event.address, event.placement);
      }
    }
  }

  /** What another router tells this one alone. Reports for a third are nobody's business here, and would go round. */
  receiveReports(text: string): void {
    const message = parseReports(text);
    if (message === undefined) return;
    const { routerId, onForwarded } = this.#options;
    const { router, number, reports, received } = message;
    this.#reports.acknowledged(router, received);
    if (number > 0) this.#reports.arrived(router, number);
    for (const report of reports) {
      if (report.lease.slice(0, Math.max(0, report.lease.lastIndexOf('.'))) === routerId) onForwarded(report);
    }
  }

  /** Exceptions read back from where they are kept. */
  receivePlacements(pool: string, placements: readonly StoredPlacement[]): void {
    for (const { keyId, address } of placements) {
      this.#options.state.applyPlacement(pool, address ?? '', { keyId, away: address !== undefined });
    }
  }

  /** What was kept of a pool is gone: tells again what this router knows. */
  retellPlacements(pool: string): void {
    const placements = this.#options.state.placements(pool, retoldPlacementsMax).reverse();
    if (placements.length > 0) this.#store(pool, placements);
  }

  #wake(): void {
    if (this.#waking) return;
    this.#waking = true;
    this.#options.transport.wake();
  }

  #nextSequence(): number {
    this.#sequence += 1;
    return this.#sequence;
  }

  #echoed(nowMs: number): void {
    this.#lastEchoMs = nowMs;
    if (!this.#down) return;
    this.#down = false;
    // Nobody could be heard until now: everyone gets the time to speak before being missed.
    for (const peer of this.#peers.values()) peer.lastHeardMs = nowMs;
  }

  #missSilent(nowMs: number): void {
    const { snapshotMs, state, routerId } = this.#options;
    const silentMs = this.#lastEchoMs === undefined ? Infinity : nowMs - this.#lastEchoMs;
    this.#down = silentMs > echoPeriodsMax * snapshotMs;
    if (this.#down) state.hold();
    // While nothing is heard, silence says nothing about the others: their last word stands for a while.
    const patienceMs = this.#down ? frozenMsMax : silentPeriodsMax * snapshotMs;
    for (const [router, { lastHeardMs }] of this.#peers) {
      if (nowMs - lastHeardMs <= patienceMs) continue;
      this.#peers.delete(router);
      state.forget(router, nowMs);
    }
    if (!this.#down) this.#idsLastSeen = [routerId, ...this.#peers.keys()].sort();
    state.noteRouters(this.#idsLastSeen.length);
    state.shareCaps(this.#down ? this.capShare() : undefined);
  }

  /** Once a second: pushes while the fleet's event rate, reckoned from our own share, is within bounds. */
  #thin(nowMs: number): void {
    const elapsedMs = nowMs - this.#secondStartedMs;
    if (elapsedMs < 1_000) return;
    const perSecond = ((this.#eventsThisSecond * 1_000) / elapsedMs) * (this.#peers.size + 1);
    this.#secondStartedMs = nowMs;
    this.#eventsThisSecond = 0;
    const max = this.#options.pushEventsPerSecondMax;
    if (this.#pushing) {
      if (perSecond > max) {
        this.#pushing = false;
        this.#calmSeconds = 0;
      }
      return;
    }
    this.#calmSeconds = perSecond < 0.6 * max ? this.#calmSeconds + 1 : 0;
    if (this.#calmSeconds >= 5) this.#pushing = true;
  }
}

function* eventPages(events: readonly LoadEvent[]): Generator<readonly LoadEvent[]> {
  let from = 0;
  let blocks = 0;
  for (const [at, event] of events.entries()) {
    const more = event.kind === 'dispatch' ? (event.cached?.prefixHashes.length ?? 0) : 0;
    if (at - from === eventsPerMessageMax || blocks + more > blocksPerMessageMax) {
      yield events.slice(from, at);
      from = at;
      blocks = 0;
    }
    blocks += more;
  }
  yield from === 0 ? events : events.slice(from);
}
