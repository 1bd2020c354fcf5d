import type { CapShare } from '../fleet/endpoint.ts';
import type { LoadEvent, SharedState } from '../fleet/shared-state.ts';
import { encodeEvents, encodeForwarded, encodeSnapshot, type ForwardedCompletion, parseForwarded, parsePoolMessage } from './exchange-messages.ts';
import type { Clock, Completion, ExchangeStatus } from './ports.ts';

/** What carries messages between routers: Redis in service, a modelled network in the simulator. Every call returns at once. */
export interface ExchangeTransport {
  /** To all routers of a pool, this one included. */
  publish(pool: string, message: string): void;
  /** The same, and kept for routers that join. */
  publishSnapshot(pool: string, message: string): void;
  /** Appends exceptions for routers that join or missed them. */
  storePlacements(pool: string, placements: readonly StoredPlacement[]): void;
  /** To one router. Calls `failed` where it cannot be sent, or nobody knows whether it arrived. */
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
  sequence: number;
  pushes: boolean;
}

/** Snapshot periods without a word after which a router is gone, while our own words come back. */
const silentPeriodsMax = 8;
/** Snapshot periods without our own echo after which the transport counts as down. */
const echoPeriodsMax = 3;
/** How long the load last told is kept while nothing can be heard, in ms; after that it means nothing any more. */
const frozenMsMax = 30_000;
/** Completion reports kept for their owners while they cannot be sent. */
const forwardsWaitingMax = 50_000;
/** Own placements told again after an outage. */
const retoldPlacementsMax = 5_000;

/**
 * What routers tell one another and when: events batched and pushed, snapshots as repair and fall-back, who is there and who is
 * gone, and when pushing costs too much. Pure but for its transport, so that the simulator runs the same.
 */
export class SharedExchange {
  readonly #options: SharedExchangeOptions;
  readonly #pending = new Map<string, LoadEvent[]>();
  readonly #forwards = new Map<string, ForwardedCompletion[]>();
  #forwardsWaiting = 0;
  readonly #peers = new Map<string, Peer>();
  #sequence = 0;
  #waking = false;
  #lastEchoMs: number | undefined;
  #down = true;
  #pushing = true;
  /** Routers, this one included, when last anything was heard; sorted. */
  #idsLastSeen: readonly string[];
  #eventsThisSecond = 0;
  #secondStartedMs = 0;
  #calmSeconds = 0;

  constructor(options: SharedExchangeOptions) {
    this.#options = options;
    this.#idsLastSeen = [options.routerId];
  }

  // ---- from the router: appends only ----

  publish(event: LoadEvent): void {
    this.#eventsThisSecond += 1;
    // Placements are few and must not be lost: they go out even while load is not pushed.
    if (!this.#pushing && !(event.kind === 'dispatch' && event.placement !== undefined)) return;
    const pending = this.#pending.get(event.pool);
    if (pending === undefined) this.#pending.set(event.pool, [event]);
    else pending.push(event);
    this.#wake();
  }

  forward(owner: string, lease: string, completion: Completion): boolean {
    if (!this.#queueForward(owner, lease, completion)) return false;
    this.#wake();
    return true;
  }

  /** Keeps a report until it is sent; an outage of the transport is waited out. False: too many wait already. */
  #queueForward(owner: string, lease: string, completion: Completion): boolean {
    if (this.#forwardsWaiting >= forwardsWaitingMax) return false;
    this.#forwardsWaiting += 1;
    const waiting = this.#forwards.get(owner);
    if (waiting === undefined) this.#forwards.set(owner, [{ lease, completion }]);
    else waiting.push({ lease, completion });
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
      transport.publish(pool, encodeEvents(routerId, this.#nextSequence(), events));
      const stored = events.flatMap((event) =>
        event.kind === 'dispatch' && event.placement !== undefined
          ? [{ keyId: event.placement.keyId, address: event.placement.away ? event.address : undefined }]
          : [],
      );
      if (stored.length > 0) transport.storePlacements(pool, stored);
    }
    const forwards = [...this.#forwards];
    this.#forwards.clear();
    this.#forwardsWaiting = 0;
    for (const [owner, reports] of forwards) {
      // A report counts once, however often it arrives: what may be lost is sent again with the next snapshot,
      // unless its owner is gone and its counts with it.
      transport.forward(owner, encodeForwarded(reports), () => {
        if (!this.#down && !this.#peers.has(owner)) return;
        for (const { lease, completion } of reports) this.#queueForward(owner, lease, completion);
      });
    }
  }

  /** Once per snapshot period: tells everyone how things stand, and finds out who is gone. */
  tick(): void {
    const nowMs = this.#options.clock.nowMs();
    const { state, transport, routerId } = this.#options;
    this.flush();
    this.#thin(nowMs);
    for (const pool of state.pools) {
      transport.publishSnapshot(pool, encodeSnapshot(routerId, this.#nextSequence(), state.ownLoad(pool), this.#pushing));
    }
    this.#missSilent(nowMs);
  }

  // ---- from the transport's subscription ----

  /** A message of a pool's channel, or a stored snapshot. Whatever is no message of ours is ignored. */
  receive(pool: string, text: string): void {
    const message = parsePoolMessage(pool, text);
    if (message === undefined) return;
    const nowMs = this.#options.clock.nowMs();
    const { routerId, state } = this.#options;
    if (message.router === routerId) {
      this.#echoed(nowMs);
      return;
    }
    const peer = this.#peers.get(message.router) ?? { lastHeardMs: nowMs, sequence: 0, pushes: true };
    if (message.sequence <= peer.sequence) return;
    peer.lastHeardMs = nowMs;
    peer.sequence = message.sequence;
    this.#peers.set(message.router, peer);
    if (message.kind === 'snapshot') {
      peer.pushes = message.pushes;
      state.applySnapshot(message.router, pool, message.loads, message.pushes);
    } else {
      for (const event of message.events) {
        // A router that does not push still sends dispatches that move a session: its snapshots hold their load.
        if (peer.pushes) state.applyEvent(message.router, event);
        else if (event.kind === 'dispatch' && event.placement !== undefined) state.applyPlacement(pool, event.address, event.placement);
      }
    }
  }

  /** Reports that another router handed on to this one. */
  receiveForwarded(text: string): void {
    for (const report of parseForwarded(text)) this.#options.onForwarded(report);
  }

  /** Exceptions read back from where they are kept. */
  receivePlacements(pool: string, placements: readonly StoredPlacement[]): void {
    for (const { keyId, address } of placements) {
      this.#options.state.applyPlacement(pool, address ?? '', { keyId, away: address !== undefined });
    }
  }

  /** The store was found empty or came back after an outage: tells again what this router knows. */
  retellPlacements(): void {
    const { state, transport } = this.#options;
    for (const pool of state.pools) {
      const placements = state.placements(pool, retoldPlacementsMax).reverse();
      if (placements.length > 0) transport.storePlacements(pool, placements);
    }
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
    this.retellPlacements();
  }

  #missSilent(nowMs: number): void {
    const { snapshotMs, state, routerId } = this.#options;
    const silentMs = this.#lastEchoMs === undefined ? Infinity : nowMs - this.#lastEchoMs;
    this.#down = silentMs > echoPeriodsMax * snapshotMs;
    if (!this.#down) this.#idsLastSeen = [routerId, ...this.#peers.keys()].sort();
    state.shareCaps(this.#down ? this.capShare() : undefined);
    // While nothing is heard, silence says nothing about the others: their last word stands for a while.
    const patienceMs = this.#down ? frozenMsMax : silentPeriodsMax * snapshotMs;
    for (const [router, { lastHeardMs }] of this.#peers) {
      if (nowMs - lastHeardMs <= patienceMs) continue;
      this.#peers.delete(router);
      state.forget(router);
    }
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
