import type { SharedState } from '../fleet/shared-state.ts';
import type { ForwardedCompletion } from '../router/exchange-messages.ts';
import type { Clock, ExchangeEvents, StateExchange } from '../router/ports.ts';
import { SharedExchange } from '../router/shared-exchange.ts';
import { RedisCapLeases } from './redis-cap-leases.ts';
import { RedisTransport } from './redis-transport.ts';
import type { RedisSettings } from './settings.ts';

export interface RedisExchangeOptions {
  readonly settings: RedisSettings;
  readonly routerId: string;
  readonly clock: Clock;
  readonly state: SharedState;
  readonly events: ExchangeEvents;
  readonly onForwarded: (report: ForwardedCompletion) => void;
}

/** Time between looks at what is kept in Redis, in ms: repair of what the subscription missed. */
const pollMs = 1_000;
/** Time without our own echo, in ms, after which the subscription is made anew while commands work; at least so many snapshots' time. */
const echoMsMax = 1_000;
const echoSnapshotsMax = 4;
/** Between the last tries to send what waits, in ms: long enough for a lost connection to be made anew, twice. */
const lastWaitsMs = [20, 100, 100, 100, 100];

/** Composes the exchange's rules with Redis and with the process's timers. */
export function createRedisExchange(options: RedisExchangeOptions): StateExchange {
  const { settings, routerId, clock, state, events, onForwarded } = options;
  const transport: RedisTransport = new RedisTransport({ settings, routerId, pools: state.pools, receiver: () => exchange, events });
  const exchange = new SharedExchange({
    routerId,
    clock,
    transport,
    state,
    snapshotMs: settings.snapshotMs,
    pushEventsPerSecondMax: settings.pushEventsPerSecondMax,
    onForwarded,
  });

  const caps = new RedisCapLeases(transport, () => exchange.capShare());
  const timers: NodeJS.Timeout[] = [];
  let pushing = true;
  let startedMs = Infinity;
  let resubscribedMs = -Infinity;
  const tick = (): void => {
    exchange.tick();
    const now = exchange.status();
    if (now.pushing !== pushing) {
      pushing = now.pushing;
      events.pushingChanged(pushing);
    }
    const nowMs = clock.nowMs();
    const patienceMs = Math.max(echoMsMax, echoSnapshotsMax * settings.snapshotMs);
    const silentMs = exchange.snapshotAgeMs() ?? nowMs - startedMs;
    if (silentMs > patienceMs && nowMs - resubscribedMs > patienceMs && transport.ready) {
      resubscribedMs = nowMs;
      transport.resubscribe();
    }
  };

  return {
    kind: 'redis',
    publish: (event) => exchange.publish(event),
    forward: (owner, lease, completion) => exchange.forward(owner, lease, completion),
    poolsChanged: () => transport.follow(state.pools),
    snapshotAgeMs: () => exchange.snapshotAgeMs(),
    status: () => exchange.status(),
    trouble: () => transport.trouble,
    caps,
    start: async () => {
      await transport.start();
      startedMs = clock.nowMs();
      timers.push(
        setInterval(tick, settings.snapshotMs),
        setInterval(() => void transport.poll(), pollMs),
      );
    },
    stop: async () => {
      for (const timer of timers) clearInterval(timer);
      caps.stop();
      exchange.flushAll();
      // A report that is lost leaves its request counted at its owner until it expires: a connection that is being made anew right
      // now, this router's own or the owner's subscription, is worth a moment.
      for (const waitMs of lastWaitsMs) {
        await new Promise((resolve) => setTimeout(resolve, waitMs));
        // Others may be waiting for an acknowledgement.
        exchange.flushAll();
        if (exchange.reportsWaiting === 0) break;
      }
      transport.stop();
    },
  };
}
