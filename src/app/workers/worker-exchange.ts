import { BroadcastChannel } from 'node:worker_threads';
import type { SharedState } from '../../fleet/shared-state.ts';
import { encodeEvents, type ForwardedCompletion } from '../../router/exchange-messages.ts';
import type { Clock, ExchangeEvents, StateExchange } from '../../router/ports.ts';
import { type ExchangeTransport, SharedExchange } from '../../router/shared-exchange.ts';
import { SupervisedCaps } from './supervised-caps.ts';
import type { Broadcast, FromWorker, ToWorker } from './worker-messages.ts';

export interface WorkerExchangeOptions {
  readonly groupId: string;
  readonly routerId: string;
  readonly state: SharedState;
  readonly clock: Clock;
  readonly events: Pick<ExchangeEvents, 'pushingChanged'>;
  readonly onForwarded: (report: ForwardedCompletion) => void;
  /** To the supervisor. */
  readonly post: (message: FromWorker) => void;
}

/** What the supervisor says to an exchange. */
export type ToExchange = Extract<ToWorker, { kind: 'cap-answer' | 'placements' }>;

export interface WorkerExchange extends StateExchange {
  receive(message: ToExchange): void;
}

/** How long what happens is gathered before it is told, in ms: waking the other threads costs more than what they are told. */
const flushMs = 2;
/** Time between snapshots, in ms. */
const snapshotMs = 100;
/** Events a second, over all workers, up to which they are pushed; docs/adr/0013. */
const pushEventsPerSecondMax = 20_000;
/** Time that a worker which joins gives the others to tell what they know of endpoints' health, in ms: they do so with their next snapshot. */
const joinMs = 1.5 * snapshotMs;

/**
 * What the workers of one process tell one another, without anything else to carry it: the rules of {@link SharedExchange} over a
 * channel between threads. Exact limits, and the sessions that live away from their homes, are kept by the supervisor.
 */
export function createWorkerExchange(options: WorkerExchangeOptions): WorkerExchange {
  const { groupId, routerId, state, clock, events, onForwarded, post } = options;
  let channel: BroadcastChannel | undefined;
  let wakeTimer: NodeJS.Timeout | undefined;
  const send = (message: Broadcast): void => channel?.postMessage(message);
  const transport: ExchangeTransport = {
    publish: (pool, text) => send({ pool, text }),
    publishSnapshot: (pool, text) => send({ pool, text }),
    storePlacements: (pool, placements) => post({ kind: 'store-placements', pool, placements }),
    // Whoever is not there any more took the counts along that the report is for.
    forward: (to, text) => send({ to, text }),
    wake: () => {
      wakeTimer = setTimeout(() => exchange.flush(), flushMs);
    },
  };
  const exchange: SharedExchange = new SharedExchange({ routerId, clock, transport, state, snapshotMs, pushEventsPerSecondMax, onForwarded });
  const caps = new SupervisedCaps(post, () => exchange.capShare());
  const echo = encodeEvents(routerId, 1, []);
  let pushing = true;
  let timer: NodeJS.Timeout | undefined;
  const tick = (): void => {
    // The channel lasts as long as the process: our own words need not come back to show that it carries them.
    exchange.receive('', echo);
    exchange.tick();
    const now = exchange.status();
    if (now.pushing === pushing) return;
    pushing = now.pushing;
    events.pushingChanged(pushing);
  };
  /** Pools whose placements were asked for. */
  let asked: readonly string[] = [];
  const askPlacements = (): void => {
    const pools = state.pools.filter((pool) => !asked.includes(pool));
    asked = state.pools;
    if (pools.length > 0) post({ kind: 'ask-placements', pools });
  };

  return {
    kind: 'workers',
    publish: (event) => exchange.publish(event),
    // Of other processes' routers nobody here knows anything.
    forward: (owner, lease, completion) => owner.startsWith(groupId) && exchange.forward(owner, lease, completion),
    poolsChanged: () => {
      if (channel !== undefined) askPlacements();
    },
    snapshotAgeMs: () => exchange.snapshotAgeMs(),
    status: () => exchange.status(),
    trouble: () => undefined,
    caps,
    receive: (message) => {
      if (message.kind === 'cap-answer') caps.answered(message.id, message.taken);
      else exchange.receivePlacements(message.pool, message.placements);
    },
    start: async () => {
      channel = new BroadcastChannel(groupId);
      channel.onmessage = (event) => {
        const message = (event as unknown as { readonly data: Broadcast }).data;
        if ('pool' in message) exchange.receive(message.pool, message.text);
        else if (message.to === routerId) exchange.receiveReports(message.text);
      };
      caps.start();
      askPlacements();
      tick();
      timer = setInterval(tick, snapshotMs);
      await new Promise((resolve) => setTimeout(resolve, joinMs));
    },
    stop: () => {
      clearInterval(timer);
      caps.stop();
      exchange.flushAll();
      clearTimeout(wakeTimer);
      channel?.close();
      channel = undefined;
      return Promise.resolve();
    },
  };
}
