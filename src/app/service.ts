import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { createControls, type OperatorChange } from '../admin/controls.ts';
import { startAdmin } from '../admin/server.ts';
import { createFleetReport } from '../admin/fleet-report.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { parseHostPort } from '../config/schema.ts';
import { createPrefixSeed } from '../core/hash.ts';
import { AnswerWriter } from '../extproc/answer.ts';
import { ExplainGate, explainHeader, explainTokenHeader } from '../extproc/explain-gate.ts';
import { FactReader } from '../extproc/fact-reader.ts';
import { startGrpcServer } from '../extproc/grpc-server.ts';
import { SessionCookies } from '../extproc/session-cookie.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { SharedState } from '../fleet/shared-state.ts';
import { MetricsScraper } from '../probes/metrics-scraper.ts';
import type { Clock, Rng, StateExchange } from '../router/ports.ts';
import { RouteWeights } from '../router/route-weights.ts';
import { Router } from '../router/router.ts';
import { isOurShare } from '../router/scrape-share.ts';
import { combineEvents, createEventLog } from '../telemetry/event-log.ts';
import type { Logger } from '../telemetry/logger.ts';
import { createMetrics } from '../telemetry/metrics.ts';
import { createDecisionLogs } from './decision-logs.ts';
import { createExchange } from './exchange.ts';
import { packageVersion } from './package-file.ts';

/** A running Fairlead. */
export interface Service {
  readonly grpcPort: number;
  readonly adminPort: number;
  /** Goes on in a new file where decisions are logged to one: the old one was renamed. */
  reopenLogs(): void;
  /** Readiness goes first, then waits, then closes; by the deadline at the latest. Idempotent. */
  drain(): Promise<void>;
}

const clock: Clock = { nowMs: () => performance.now(), wallMs: () => Date.now() };
const rng: Rng = { draw: Math.random };

/** Composes and starts everything. Rejects with a message that names the cause when a port cannot be had. */
export async function startService(config: CompiledConfig, logger: Logger): Promise<Service> {
  const { settings } = config;
  const fleet = new FleetView(config.pools);
  const routerId = `${hostname().replace(/[^A-Za-z0-9-]/g, '-').slice(0, 40)}-${randomBytes(4).toString('hex')}`;
  const scraped = settings.pools.flatMap(({ name, metrics: scrapeSettings }) => {
    const pool = fleet.pool(name);
    return pool === undefined || scrapeSettings === undefined ? [] : [{ pool, settings: scrapeSettings }];
  });
  const metrics = createMetrics({
    fleet,
    table: config.table,
    version: packageVersion(),
    snapshotAgeMs: () => exchange.snapshotAgeMs(),
    scraped: scraped.length === 0 ? undefined : { pools: scraped.map(({ pool }) => pool.name), nowMs: () => clock.nowMs() },
  });
  const eventLog = createEventLog(logger);
  const events = combineEvents(metrics, eventLog);
  const decisions = await createDecisionLogs(config, { routerId, metrics, logger, onError: (error) => events.failed(error) });
  const placements = new Placements();
  const sharedState = new SharedState(fleet, placements);
  for (const { pool } of scraped) sharedState.shareMetrics(pool.name);
  const exchange = await createExchange(config, {
    routerId,
    state: sharedState,
    clock,
    events,
    onForwarded: ({ lease, completion }) => router.observe(lease, completion),
  });
  const weights = new RouteWeights(config.table);
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
    decisions: decisions.log,
    expireAfterMsMax: settings.leases.expireAfterMsMax,
    assumedDurationMs: settings.leases.assumedDurationMs,
    endpointsMax: settings.outputs.endpointsMax,
    weights,
  });

  let state: 'starting' | 'serving' | 'draining' = 'starting';
  const startedMs = clock.nowMs();
  const { clusterHeader, endpointHeader } = settings.outputs;
  const cookies = settings.affinity.cookie && new SessionCookies(settings.affinity.cookie, { secret: config.affinitySecret, wallMs: () => Date.now(), randomBytes });
  const { header: isExplaining, allow, token } = settings.explain;
  const explains = isExplaining ? new ExplainGate({ allow, token: token ?? config.files.explainToken }) : undefined;
  await exchange.start();
  const grpc = await startGrpcServer({
    address: settings.listen.grpc,
    router,
    events,
    messageBytesMax: settings.limits.messageBytesMax,
    context: {
      router,
      reader: new FactReader(settings.facts, settings.limits.scanBytesMax, createPrefixSeed(config.affinitySecret), config.table.headers, cookies),
      writer: new AnswerWriter({ clusterHeader, endpointHeader, ownRequestHeaders: explains && [explainHeader, explainTokenHeader] }),
      explains,
      cookies,
      events,
      clock,
      decideDeadlineMs: settings.limits.decideDeadlineMs,
      askForBodyBytesMax: settings.limits.askForBodyBytesMax,
    },
  });
  const changed = (change: OperatorChange): void => {
    logger.warn({ event: 'changed_by_hand', ...change }, 'An operator changed this through the admin API. It holds in this router alone, until it restarts or is changed back.');
  };
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
    decisions: (limit) => decisions.recent.list(limit),
    controls: isLoopback(settings.listen.admin) ? createControls({ fleet, weights, nowMs: () => clock.nowMs(), changed }) : undefined,
    fleet: () => createFleetReport({ routerId, state, uptimeMs: clock.nowMs() - startedMs, nowMs: clock.nowMs(), fleet, table: config.table, exchange, weights, wallMs: Date.now() }),
  }).catch(async (error: unknown) => {
    await grpc.stop(0);
    throw error;
  });

  const scraper = new MetricsScraper({
    pools: scraped,
    clock,
    rng,
    events,
    ...(exchange.kind === 'redis' && {
      isOurs: (hostPort) => isOurShare(hostPort, routerId, exchange.status()),
      onRead: (pool, address) => sharedState.noteMetrics(pool, address),
    }),
  });
  scraper.start();
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
    scraper.stop();
    eventLog.flush();
    await exchange.stop();
    await admin.close();
    await decisions.close();
    logger.info('stopped');
  };
  return { grpcPort: grpc.port, adminPort: admin.port, reopenLogs: () => decisions.reopen(), drain: () => (draining ??= drain()) };
}

/** Whether only this machine can reach an address to listen on. */
function isLoopback(address: string): boolean {
  const host = parseHostPort(address)?.host ?? '';
  return host === '::1' || host === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(host);
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
