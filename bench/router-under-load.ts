// One router of `redis-cost.ts`, as a process of its own: the real router, fleet, exchange and Redis client under a loop of requests.
import { createExchange } from '../src/app/exchange.ts';
import { loadConfig } from '../src/config/load.ts';
import { noFacts } from '../src/core/request-facts.ts';
import { FleetView } from '../src/fleet/fleet-view.ts';
import { Placements } from '../src/fleet/placements.ts';
import { type LoadEvent, SharedState } from '../src/fleet/shared-state.ts';
import type { Clock, StateExchange } from '../src/router/ports.ts';
import { Router } from '../src/router/router.ts';
import { combineEvents } from '../src/telemetry/event-log.ts';

/** From the parent. */
export type Order =
  | { readonly kind: 'prepare'; readonly id: string; readonly config: string; readonly routers: number }
  /** Begins the load. With `probes`, stamped events go out too. */
  | { readonly kind: 'load'; readonly requestsPerSecond: number; readonly probes: boolean }
  /** Begins to count. */
  | { readonly kind: 'measure' }
  | { readonly kind: 'report' };

/** To the parent. */
export type Reply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'report'; readonly requests: number; readonly cpuUs: number; readonly dropped: number; readonly delaysMs: readonly number[] };

/** A pool of its own for stamped events: nothing is routed there. */
export const probePool = 'probe';
const probeMs = 20;
const firstTokenMs = 50;
const durationMeanMs = 500;
const sessions = 5_000;
/** Stamps have to fit what a message may say of tokens. */
const stampMax = 1e9;

const clock: Clock = { nowMs: () => performance.now() };

/** Microseconds of the machine's monotonic clock, the same in all processes, up to `stampMax`. */
function stamp(): number {
  return Number((process.hrtime.bigint() / 1_000n) % BigInt(stampMax));
}

/** Notes how old stamped events are when they take effect. */
class WatchedState extends SharedState {
  readonly delaysMs: number[] = [];

  override applyEvent(router: string, event: LoadEvent, nowMs: number): void {
    super.applyEvent(router, event, nowMs);
    if (event.pool === probePool && event.kind === 'dispatch') this.delaysMs.push(((stamp() - event.promptTokens + stampMax) % stampMax) / 1_000);
  }
}

interface Prepared {
  readonly router: Router;
  readonly exchange: StateExchange;
  readonly state: WatchedState;
  readonly fleet: FleetView;
  dropped: number;
}

async function prepare({ id, config: text, routers }: Extract<Order, { kind: 'prepare' }>): Promise<Prepared> {
  const outcome = loadConfig(text);
  if (!outcome.ok) throw new Error(outcome.problems.map(({ path, message }) => `${path}: ${message}`).join('; '));
  const { config } = outcome;
  const fleet = new FleetView(config.pools);
  const placements = new Placements();
  const state = new WatchedState(fleet, placements);
  const events = combineEvents({
    exchangeDropped: () => {
      prepared.dropped += 1;
    },
  });
  const exchange = await createExchange(config, { routerId: id, state, clock, events, onForwarded: () => {} });
  const router = new Router({
    id,
    table: config.table,
    fleet,
    placements,
    affinitySecret: config.affinitySecret,
    clock,
    rng: { draw: Math.random },
    exchange,
    events,
    expireAfterMsMax: 1_800_000,
    assumedDurationMs: 30_000,
    endpointsMax: 8,
  });
  const prepared: Prepared = { router, exchange, state, fleet, dropped: 0 };
  await exchange.start();
  for (let waited = 0; exchange.kind === 'redis' && exchange.status().routers.length < routers; waited += 20) {
    if (waited > 10_000) throw new Error(`knows ${exchange.status().routers.length} of ${routers} routers after 10 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return prepared;
}

/** Sends requests evenly, as far as a timer allows; each gets a first token and, after a random while, an end. Returns how to stop. */
function startLoad({ router, exchange, fleet }: Prepared, requestsPerSecond: number, probes: boolean): { requests(): number; stop(): void } {
  /** What is due, by the millisecond. */
  const due = new Map<number, (() => void)[]>();
  const at = (ms: number, action: () => void): void => {
    const key = Math.ceil(ms);
    const list = due.get(key);
    if (list === undefined) due.set(key, [action]);
    else list.push(action);
  };
  const startedMs = performance.now();
  let requests = 0;
  let doneMs = Math.floor(startedMs);
  const send = (nowMs: number): void => {
    requests += 1;
    const routed = router.route({
      ...noFacts,
      path: '/v1/chat/completions',
      model: 'm',
      session: `session-${Math.floor(Math.random() * sessions)}`,
      promptTokens: 500 + Math.floor(Math.random() * 4_000),
    });
    if (routed.kind !== 'route') return;
    const { lease } = routed;
    at(nowMs + firstTokenMs, () => router.firstToken(lease));
    at(nowMs + firstTokenMs - durationMeanMs * Math.log(1 - Math.random()), () => router.observe(lease, { ending: 'finished', signal: 'access-log', status: 200 }));
  };
  const tick = setInterval(() => {
    const nowMs = performance.now();
    for (; doneMs < nowMs; doneMs += 1) {
      for (const action of due.get(doneMs) ?? []) action();
      due.delete(doneMs);
    }
    const wanted = ((nowMs - startedMs) / 1_000) * requestsPerSecond;
    while (requests < wanted) send(nowMs);
  }, 1);
  const address = fleet.pool(probePool)?.endpoints[0]?.address ?? '';
  const probe = setInterval(() => {
    if (probes) exchange.publish({ kind: 'dispatch', pool: probePool, address, promptTokens: stamp(), uncachedTokens: 0, placement: undefined, cached: undefined });
  }, probeMs);
  return {
    requests: () => requests,
    stop: () => {
      clearInterval(tick);
      clearInterval(probe);
    },
  };
}

let prepared: Prepared | undefined;
let load: ReturnType<typeof startLoad> | undefined;
let counted: { cpu: NodeJS.CpuUsage; requests: number; dropped: number } | undefined;

async function obey(order: Order): Promise<Reply | undefined> {
  switch (order.kind) {
    case 'prepare':
      prepared = await prepare(order);
      return { kind: 'ready' };
    case 'load':
      if (prepared !== undefined) load = startLoad(prepared, order.requestsPerSecond, order.probes);
      return undefined;
    case 'measure':
      if (prepared === undefined || load === undefined) return undefined;
      prepared.state.delaysMs.length = 0;
      counted = { cpu: process.cpuUsage(), requests: load.requests(), dropped: prepared.dropped };
      return undefined;
    case 'report': {
      if (prepared === undefined || load === undefined || counted === undefined) return { kind: 'failed', message: 'nothing was measured' };
      const { user, system } = process.cpuUsage(counted.cpu);
      const requests = load.requests() - counted.requests;
      const reply: Reply = { kind: 'report', requests, cpuUs: user + system, dropped: prepared.dropped - counted.dropped, delaysMs: [...prepared.state.delaysMs] };
      load.stop();
      await prepared.exchange.stop();
      prepared = undefined;
      return reply;
    }
  }
}

if (process.send !== undefined) {
  // As `serve` does: one stray rejection must not end it.
  process.on('unhandledRejection', (error) => process.stderr.write(`unhandled rejection: ${String(error)}\n`));
  process.on('message', (order: Order) => {
    obey(order).then(
      (reply) => {
        if (reply !== undefined) process.send?.(reply);
      },
      (error: unknown) => process.send?.({ kind: 'failed', message: String(error) } satisfies Reply),
    );
  });
  process.on('disconnect', () => process.exit());
}
