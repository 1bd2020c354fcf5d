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
/** Age of our own echo, in ms, after which the subscription is made anew while commands work. */
const echoMsMax = 1_500;

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
  let resubscribedMs = 0;
  const tick = (): void => {
    exchange.tick();
    const now = exchange.status();
    if (now.pushing !== pushing) {
      pushing = now.pushing;
      events.pushingChanged(pushing);
    }
    const nowMs = clock.nowMs();
    if ((exchange.snapshotAgeMs() ?? 0) > echoMsMax && transport.ready && nowMs - resubscribedMs > echoMsMax) {
      resubscribedMs = nowMs;
      transport.resubscribe();
    }
  };

  return {
    kind: 'redis',
    publish: (event) => exchange.publish(event),
    forward: (owner, lease, completion) => exchange.forward(owner, lease, completion),
    snapshotAgeMs: () => exchange.snapshotAgeMs(),
    status: () => exchange.status(),
    trouble: () => transport.trouble,
    caps,
    start: async () => {
      await transport.start();
      timers.push(
        setInterval(tick, settings.snapshotMs),
        setInterval(() => void transport.poll(), pollMs),
      );
    },
    stop: async () => {
      for (const timer of timers) clearInterval(timer);
      caps.stop();
      exchange.flush();
      await transport.stop();
    },
  };
}
