import type { ExchangeTransport, SharedExchange, StoredPlacement } from '../../src/router/shared-exchange.ts';
import type { SeededRng } from '../clock/seeded-rng.ts';
import type { VirtualTime } from '../clock/virtual-time.ts';
import { isAway, type NetworkModel } from './network-model.ts';

/** Time between looks at what is kept, in ms; as the real transport has it. */
const pollMs = 1_000;

/** Redis as routers see it: channels and a stream of exceptions, with delay, loss and outages, in virtual time. */
export class ModelledRedis {
  readonly #time: VirtualTime;
  readonly #rng: SeededRng;
  readonly #model: NetworkModel;
  readonly #members = new Map<string, () => SharedExchange>();
  /** When the last message of one router to another arrived or will. */
  readonly #arrivals = new Map<string, number>();
  readonly #stored = new Map<string, StoredPlacement[]>();
  messages = 0;

  constructor(time: VirtualTime, rng: SeededRng, model: NetworkModel) {
    this.#time = time;
    this.#rng = rng;
    this.#model = model;
  }

  get isAway(): boolean {
    return isAway(this.#model.outages, this.#time.nowMs());
  }

  /** One way through the network, in ms. */
  delayMs(): number {
    return this.#model.delayMs(this.#rng);
  }

  /** Connects a router, which polls for exceptions from now on. */
  join(routerId: string, exchange: () => SharedExchange, pools: readonly string[]): ExchangeTransport {
    this.#members.set(routerId, exchange);
    const read = new Map<string, number>();
    const poll = (): void => {
      this.#time.after(pollMs, poll);
      if (this.isAway) return;
      for (const pool of pools) {
        const stored = this.#stored.get(pool) ?? [];
        const from = read.get(pool) ?? 0;
        if (stored.length > from) exchange().receivePlacements(pool, stored.slice(from));
        read.set(pool, stored.length);
      }
    };
    this.#time.after(this.#rng.between(0, pollMs), poll);
    const toAll = (pool: string, message: string): void => {
      if (this.isAway) return;
      for (const [id, member] of this.#members) this.#deliver(routerId, id, () => member().receive(pool, message));
    };
    return {
      publish: toAll,
      publishSnapshot: toAll,
      storePlacements: (pool, placements, failed) => {
        if (this.isAway) {
          failed();
          return;
        }
        const stored = this.#stored.get(pool);
        if (stored === undefined) this.#stored.set(pool, [...placements]);
        else stored.push(...placements);
      },
      forward: (owner, message, failed) => {
        const member = this.#members.get(owner);
        if (this.isAway || member === undefined) failed();
        else this.#deliver(routerId, owner, () => member().receiveReports(message));
      },
      wake: () => this.#time.after(this.#model.gatherMs, () => exchange().flush()),
    };
  }

  #deliver(from: string, to: string, receive: () => void): void {
    this.messages += 1;
    if (this.#model.lossShare > 0 && this.#rng.chance(this.#model.lossShare)) return;
    const link = `${from} ${to}`;
    let atMs = this.#time.nowMs() + this.delayMs();
    if (!this.#model.reorders) atMs = Math.max(atMs, this.#arrivals.get(link) ?? 0);
    this.#arrivals.set(link, atMs);
    this.#time.at(atMs, receive);
  }
}
