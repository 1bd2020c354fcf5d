import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { startAdmin } from '../admin/server.ts';
import { createFleetReport } from '../admin/fleet-report.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { AnswerWriter } from '../extproc/answer.ts';
import { FactReader } from '../extproc/fact-reader.ts';
import { startGrpcServer } from '../extproc/grpc-server.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { SharedState } from '../fleet/shared-state.ts';
import type { Clock, Rng, StateExchange } from '../router/ports.ts';
import { Router } from '../router/router.ts';
import { combineEvents, createEventLog } from '../telemetry/event-log.ts';
import type { Logger } from '../telemetry/logger.ts';
import { createMetrics } from '../telemetry/metrics.ts';
import { createExchange } from './exchange.ts';
import { packageVersion } from './package-file.ts';

/** A running Fairlead. */
export interface Service {
  readonly grpcPort: number;
  readonly adminPort: number;
  /** Readiness goes first, then waits, then closes; by the deadline at the latest. Idempotent. */
  drain(): Promise<void>;
}

const clock: Clock = { nowMs: () => performance.now() };
const rng: Rng = { draw: Math.random };

/** Composes and starts everything. Rejects with a message that names the cause when a port cannot be had. */
export async function startService(config: CompiledConfig, logger: Logger): Promise<Service> {
  const { settings } = config;
  const fleet = new FleetView(config.pools);
  const routerId = `${hostname().replace(/[^A-Za-z0-9-]/g, '-').slice(0, 40)}-${randomBytes(4).toString('hex')}`;
  const metrics = createMetrics({ fleet, table: config.table, version: packageVersion(), snapshotAgeMs: () => exchange.snapshotAgeMs() });
  const eventLog = createEventLog(logger);
  const events = combineEvents(metrics, eventLog);
  const placements = new Placements();
  const exchange = await createExchange(config, {
    routerId,
    state: new SharedState(fleet, placements),
    clock,
    events,
    onForwarded: ({ lease, completion }) => router.observe(lease, completion),
  });
  const router = new Router({
    id: routerId,
    table: config.table,
    fleet,
    placements,
    affinitySecret: config.affinitySecret,
    clock,
    rng,
    exchange,
    events,
    expireAfterMsMax: settings.leases.expireAfterMsMax,
    assumedDurationMs: settings.leases.assumedDurationMs,
    endpointsMax: settings.outputs.endpointsMax,
  });

  let state: 'starting' | 'serving' | 'draining' = 'starting';
  const startedMs = clock.nowMs();
  const { clusterHeader, endpointHeader } = settings.outputs;
  await exchange.start();
  const grpc = await startGrpcServer({
    address: settings.listen.grpc,
    router,
    events,
    messageBytesMax: settings.limits.messageBytesMax,
    context: {
      router,
      reader: new FactReader(settings.facts, settings.limits.scanBytesMax),
      writer: new AnswerWriter({ clusterHeader, endpointHeader }),
      events,
      clock,
      decideDeadlineMs: settings.limits.decideDeadlineMs,
      askForBodyBytesMax: settings.limits.askForBodyBytesMax,
    },
  });
  const admin = await startAdmin({
    address: settings.listen.admin,
    registry: metrics.registry,
    readiness: () => [
      { name: 'grpc', ready: state === 'serving', reason: state === 'serving' ? 'serving' : state },
      // Never in the way of requests: without Redis they are routed on what is known here.
      { name: 'state', ready: true, reason: describeState(exchange) },
      ...[...fleet.pools.values()].map((pool) => {
        const ready = pool.endpoints.filter((endpoint) => endpoint.state === 'ready').length;
        return { name: `pool:${pool.name}`, ready: ready > 0, reason: `${ready} of ${pool.endpoints.length} endpoints ready` };
      }),
    ],
    onError: (error) => events.failed(error),
    fleet: () => createFleetReport({ routerId, state, uptimeMs: clock.nowMs() - startedMs, fleet, table: config.table, exchange }),
  }).catch(async (error: unknown) => {
    await grpc.stop(0);
    throw error;
  });

  const expiry = setInterval(() => router.expire(), 1_000);
  state = 'serving';
  grpc.setReady(true);
  logger.info(
    { router: routerId, grpcPort: grpc.port, adminPort: admin.port, pools: config.pools.map(({ name, endpoints }) => ({ name, endpoints: endpoints.length })) },
    'serving',
  );

  let draining: Promise<void> | undefined;
  const drain = async (): Promise<void> => {
    state = 'draining';
    grpc.setReady(false);
    logger.info({ streamsOpen: grpc.streamsOpen, readinessDelayMs: settings.drain.readinessDelayMs }, 'draining: readiness is down');
    await new Promise((resolve) => setTimeout(resolve, settings.drain.readinessDelayMs));
    await grpc.stop(settings.drain.deadlineMs);
    clearInterval(expiry);
    eventLog.flush();
    await exchange.stop();
    await admin.close();
    logger.info('stopped');
  };
  return { grpcPort: grpc.port, adminPort: admin.port, drain: () => (draining ??= drain()) };
}

function describeState(exchange: StateExchange): string {
  if (exchange.kind === 'memory') return 'memory';
  const ageMs = exchange.snapshotAgeMs();
  const age = ageMs === undefined ? 'nothing heard yet' : `last heard ${Math.round(ageMs)} ms ago`;
  const trouble = exchange.trouble();
  // Messages may get through where nothing can be kept, or the other way round: that too is less than it should be.
  if (exchange.status().connected && trouble === undefined) return `redis: connected, ${age}`;
  return `redis: DEGRADED, ${age}: ${trouble?.message ?? 'nothing comes back'}`;
}
