import type { CompiledConfig } from '../src/config/load-outcome.ts';
import { noFacts, type RequestFacts } from '../src/core/request-facts.ts';
import { FleetView } from '../src/fleet/fleet-view.ts';
import { Placements } from '../src/fleet/placements.ts';
import { SharedState } from '../src/fleet/shared-state.ts';
import type { ForwardedCompletion } from '../src/router/exchange-messages.ts';
import { createMemoryExchange } from '../src/router/memory-exchange.ts';
import type { Completion } from '../src/router/ports.ts';
import { Router } from '../src/router/router.ts';
import type { Routed } from '../src/router/routed.ts';
import { type ExchangeTransport, SharedExchange, type StoredPlacement } from '../src/router/shared-exchange.ts';
import { combineEvents } from '../src/telemetry/event-log.ts';

/** A router on a modelled network. */
export interface ModelledRouter {
  readonly id: string;
  readonly router: Router;
  readonly exchange: SharedExchange;
  readonly fleet: FleetView;
  readonly placements: Placements;
  /** Reports that others handed on to it. */
  readonly forwarded: ForwardedCompletion[];
  /** Cut off: nothing it sends arrives, nothing arrives at it. */
  cut: boolean;
  /** Killed: it does nothing any more. */
  dead: boolean;
  route(facts: Partial<RequestFacts>): Routed;
  finish(routed: Routed): void;
}

export interface NetworkOptions {
  readonly config: CompiledConfig;
  /** Delay of the next message, in ms; by default 1. What is delayed differently arrives out of order. */
  readonly delayMs?: () => number;
  /** Whether the next message is lost on its way; by default none is. */
  readonly loses?: () => boolean;
  /** How often the next message arrives. */
  readonly copies?: () => number;
  readonly snapshotMs?: number;
  readonly pushEventsPerSecondMax?: number;
  /** Chance of the routers. */
  readonly draw: () => number;
}

const finished: Completion = { ending: 'finished', signal: 'access-log', status: 200 };
/** Routers with their exchanges over a network and a store that are modelled, in virtual time. */
export class ModelledNetwork {
  nowMs = 0;
  readonly routers: ModelledRouter[] = [];
  /** Exceptions as they are kept, oldest first. */
  readonly stored: StoredPlacement[] = [];
  messages = 0;
  bytes = 0;
  readonly #options: NetworkOptions;
  readonly #queue: { readonly atMs: number; readonly order: number; readonly run: () => void }[] = [];
  #order = 0;

  constructor(options: NetworkOptions) {
    this.#options = options;
  }

  /** A router joins: it reads what is kept, and speaks every period from a time of its own on. */
  join(id: string): ModelledRouter {
    const { config, draw, snapshotMs = 100, pushEventsPerSecondMax = 1e9 } = this.#options;
    const fleet = new FleetView(config.pools);
    const placements = new Placements();
    const clock = { nowMs: () => this.nowMs };
    const forwarded: ForwardedCompletion[] = [];
    const exchange: SharedExchange = new SharedExchange({
      routerId: id,
      clock,
      transport: this.#transportOf(() => made),
      state: new SharedState(fleet, placements),
      snapshotMs,
      pushEventsPerSecondMax,
      onForwarded: (report) => {
        forwarded.push(report);
        router.observe(report.lease, report.completion);
      },
    });
    const router = new Router({
      id,
      table: config.table,
      fleet,
      placements,
      affinitySecret: 'one per fleet',
      clock,
      rng: { draw },
      exchange: {
        ...createMemoryExchange(),
        kind: 'redis',
        publish: (event) => exchange.publish(event),
        forward: (owner, lease, completion) => exchange.forward(owner, lease, completion),
      },
      events: combineEvents(),
      expireAfterMsMax: 1e9,
      assumedDurationMs: 1e9,
      endpointsMax: 8,
    });
    const made: ModelledRouter = {
      id,
      router,
      exchange,
      fleet,
      placements,
      forwarded,
      cut: false,
      dead: false,
      route: (facts) => {
        const outcome = router.route({ ...noFacts, ...facts });
        if (outcome.kind !== 'route') throw new Error(`refused: ${outcome.code}`);
        return outcome;
      },
      finish: ({ lease }) => router.observe(lease, finished),
    };
    this.routers.push(made);
    exchange.receivePlacements(config.pools[0]?.name ?? '', this.stored);
    const tick = (): void => {
      if (made.dead) return;
      exchange.tick();
      this.later(snapshotMs, tick);
    };
    this.later(((this.routers.length * 37) % snapshotMs) + 1, tick);
    return made;
  }

  later(ms: number, run: () => void): void {
    this.#order += 1;
    this.#queue.push({ atMs: this.nowMs + ms, order: this.#order, run });
  }

  /** Lets time pass. */
  run(untilMs: number): void {
    for (;;) {
      let next = -1;
      for (let i = 0; i < this.#queue.length; i += 1) {
        const at = this.#queue[i];
        const best = this.#queue[next];
        if (at !== undefined && (best === undefined || at.atMs < best.atMs || (at.atMs === best.atMs && at.order < best.order))) next = i;
      }
      const due = this.#queue[next];
      if (due === undefined || due.atMs > untilMs) break;
      this.#queue.splice(next, 1);
      this.nowMs = Math.max(this.nowMs, due.atMs);
      due.run();
    }
    this.nowMs = untilMs;
  }

  #transportOf(self: () => ModelledRouter): ExchangeTransport {
    const { delayMs = () => 1, loses = () => false, copies = () => 1 } = this.#options;
    const send = (message: string, deliver: (to: ModelledRouter) => void): boolean => {
      if (self().cut || self().dead) return false;
      this.messages += 1;
      this.bytes += message.length;
      for (const to of this.routers) {
        for (let copy = copies(); copy > 0; copy -= 1) {
          if (loses()) continue;
          this.later(delayMs(), () => {
            if (!to.dead && !to.cut) deliver(to);
          });
        }
      }
      return true;
    };
    return {
      publish: (pool, message) => void send(message, (to) => to.exchange.receive(pool, message)),
      publishSnapshot: (pool, message) => void send(message, (to) => to.exchange.receive(pool, message)),
      storePlacements: (_, placements) => {
        if (!self().cut) this.stored.push(...placements);
      },
      forward: (owner, message, failed) => {
        const there = this.routers.some((to) => to.id === owner && !to.dead && !to.cut);
        const sent = send(message, (to) => {
          if (to.id === owner) to.exchange.receiveReports(message);
        });
        if (!sent || !there) failed();
      },
      wake: () => this.later(1, () => {
        if (!self().dead) self().exchange.flush();
      }),
    };
  }
}
