import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { createControls, type OperatorChange } from '../admin/controls.ts';
import { type AdminOptions, createAdminApp, serveAdmin } from '../admin/server.ts';
import { toConfigReport } from './config-report.ts';
import { createAutoscaleReports } from '../admin/autoscale-report.ts';
import { toChangeReports } from '../admin/change-report.ts';
import { createFleetReport } from '../admin/fleet-report.ts';
import { toEndpointList } from '../config/endpoint-list.ts';
import { loadConfigFile } from '../config/load.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import type { Problem } from '../config/problem.ts';
import { parseHostPort } from '../config/schema.ts';
import { createPrefixSeed } from '../core/hash.ts';
import { AnswerWriter } from '../extproc/answer.ts';
import { ExplainGate, explainHeader, explainTokenHeader } from '../extproc/explain-gate.ts';
import { FactReader } from '../extproc/fact-reader.ts';
import { type GrpcServerOptions, startGrpcServer } from '../extproc/grpc-server.ts';
import { SessionCookies } from '../extproc/session-cookie.ts';
import type { StreamContext } from '../extproc/stream.ts';
import { type FleetPool, FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { SharedState } from '../fleet/shared-state.ts';
import { HealthProber } from '../probes/health-prober.ts';
import { MetricsScraper, type ScrapeSettings } from '../probes/metrics-scraper.ts';
import { FleetMembers } from '../router/fleet-members.ts';
import { findCoverage, type PoolCoverage } from '../router/coverage.ts';
import { HealthWatch } from '../router/health-watch.ts';
import type { Clock, Rng, StateExchange } from '../router/ports.ts';
import type { ProbeSettings } from '../router/probe-verdict.ts';
import type { ConfigReload, ReloadCause } from '../router/reload-events.ts';
import { RouteWeights } from '../router/route-weights.ts';
import { Router } from '../router/router.ts';
import { ScalingWatch, scalingTickMs } from '../router/scaling-watch.ts';
import { isOurShare } from '../router/scrape-share.ts';
import { combineEvents, createEventLog } from '../telemetry/event-log.ts';
import type { Logger } from '../telemetry/logger.ts';
import { createMetrics, type Metrics } from '../telemetry/metrics.ts';
import { createDecisionLogs } from './decision-logs.ts';
import { ConfigReloader } from './config-reloader.ts';
import { createExchange, type ExchangeParts } from './exchange.ts';
import { PoolDiscoveries, sourcesOf } from './pool-discoveries.ts';
import { packageVersion } from './package-file.ts';

/** A running Fairlead. */
export interface Service {
  readonly grpcPort: number;
  /** 0 in a worker, which serves the admin API by `fetch` alone. */
  readonly adminPort: number;
  /** Answers a request to the admin API. */
  readonly fetch: (request: Request) => Response | Promise<Response>;
  /** What it counts. */
  readonly registry: Metrics['registry'];
  /** Goes on in a new file where decisions are logged to one: the old one was renamed. */
  reopenLogs(): void;
  /** Reads the configuration again, and asks every source of endpoints; never throws. */
  reload(cause: ReloadCause): void;
  /** Readiness goes first, then waits, then closes; by the deadline at the latest. Idempotent. */
  drain(): Promise<void>;
}

const clock: Clock = { nowMs: () => performance.now(), wallMs: () => Date.now() };
const rng: Rng = { draw: Math.random };
/** Between looks after endpoints' health, in ms: the back-offs and slow starts are as exact as that. */
const healthTickMs = 100;

/** Where a configuration came from, and what is doubtful about it. */
export interface ConfigOrigin {
  /** Absolute path. */
  readonly file: string;
  readonly warnings: readonly Problem[];
}

/** What is different for a service that is one of several workers of a process (src/app/workers). */
export interface WorkerSite {
  readonly routerId: string;
  /** Address to serve gRPC at. */
  readonly listen: string;
  /** Among the workers, where the configuration names nothing else that routers share. */
  readonly createExchange: (parts: ExchangeParts) => StateExchange;
  /** Is told of each configuration that was put into force. */
  readonly configured: (config: CompiledConfig) => void;
}

/** Composes and starts everything. Rejects with a message that names the cause when a port cannot be had. */
export async function startService(config: CompiledConfig, origin: ConfigOrigin, logger: Logger, site?: WorkerSite): Promise<Service> {
  // What of it cannot change while the router runs; `running` is the one in force.
  const { settings } = config;
  let running = config;
  const fleet = new FleetView(config.pools);
  const routerId = site?.routerId ?? createRouterId();
  const scraped = toScraped(config, fleet);
  const metrics = createMetrics({
    fleet,
    table: config.table,
    version: packageVersion(),
    snapshotAgeMs: () => exchange.snapshotAgeMs(),
    scraped: { pools: scraped.map(({ pool }) => pool.name), nowMs: () => clock.nowMs() },
    scaling: (pool) => scaling.of(pool),
    processMetrics: site === undefined ? 'all' : 'loop',
  });
  const eventLog = createEventLog(logger);
  const events = combineEvents(metrics, eventLog);
  const decisions = await createDecisionLogs(config, { routerId, metrics, logger, onError: (error) => events.failed(error) });
  const placements = new Placements();
  const sharedState = new SharedState(fleet, placements);
  sharedState.shareMetricsOf(scraped.map(({ pool }) => pool.name));
  const exchangeParts: ExchangeParts = {
    routerId,
    state: sharedState,
    clock,
    events,
    onForwarded: ({ lease, completion }) => router.observe(lease, completion),
  };
  const exchange = site !== undefined && settings.state.kind === 'memory' ? site.createExchange(exchangeParts) : await createExchange(config, exchangeParts);
  const health = new HealthWatch({
    routerId,
    fleet,
    settings: config.health,
    clock,
    hearsAll: () => hearsAll(exchange),
    publish: (pool, row) => exchange.publish({ kind: 'health', pool, address: row.address, row }),
    changed: (change) => events.endpointChanged(change),
    withheld: (pool, address, cause) => events.ejectionWithheld(pool, address, cause),
  });
  sharedState.health = health;
  const scaling = new ScalingWatch({ routerId, fleet, settings: config.scaling, health, exchange, clock });
  const weights = new RouteWeights(config.table);
  const router = new Router({
    id: routerId,
    table: config.table,
    fleet,
    health,
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
  let context = createStreamContext(config, router, events);
  const members = new FleetMembers(
    {
      fleet,
      nowMs: () => clock.nowMs(),
      changed: (changes) => {
        for (const change of changes) health.membership(change);
        metrics.follow();
      },
    },
    config.pools,
  );
  const discoveries = new PoolDiscoveries({ members, events, rng, wallMs: Date.now });
  /** The pools that the exchange knows of. */
  let exchanged = fleet.pools;
  const followPools = (): void => {
    if (exchanged === fleet.pools) return;
    exchanged = fleet.pools;
    exchange.poolsChanged();
    placements.keepPools(new Set(fleet.pools.keys()));
    metrics.follow();
  };
  await exchange.start();
  const grpc = await startGrpcServer({
    address: site?.listen ?? settings.listen.grpc,
    router,
    events,
    messageBytesMax: settings.limits.messageBytesMax,
    ...toTransportOptions(config, logger),
    context: () => context,
  });
  const reload = (cause: ReloadCause): ConfigReload => {
    discoveries.refresh();
    return reloader.reload(cause);
  };
  const changed = (change: OperatorChange): void => {
    logger.warn({ event: 'changed_by_hand', ...change }, 'An operator changed this through the admin API. It holds until it is changed back or this router restarts: states of endpoints in all routers that share theirs, all else in this one alone.');
  };
  const adminOptions: AdminOptions = {
    address: settings.listen.admin,
    registry: metrics.registry,
    readiness: () => [
      { name: 'grpc', ready: state === 'serving', reason: state === 'serving' ? 'serving' : state },
      // Never in the way of requests: without Redis they are routed on what is known here.
      { name: 'state', ready: true, reason: describeState(exchange) },
      ...findCoverage(fleet, running.table, { weights, wallMs: Date.now() })
        .filter(({ pool }) => !fleet.isLeaving(pool))
        .map((coverage) => ({ name: `pool:${coverage.pool}`, ready: coverage.unserved.length === 0, reason: describeCoverage(coverage) })),
    ],
    onError: (error) => events.failed(error),
    decisions: (limit) => decisions.recent.list(limit),
    changes: () => toChangeReports(health.changes, clock.nowMs(), Date.now()),
    autoscale: () => createAutoscaleReports(fleet, (pool) => scaling.of(pool)),
    controls: isLoopback(settings.listen.admin)
      ? createControls({
          fleet,
          weights,
          operate: (pool, address, to) => health.operate(pool, address, to),
          changed,
          members,
          parseEndpoint: (pool, written) => toEndpointList([written], running.settings.pools.find(({ name }) => name === pool)?.labels),
          reload: () => reload('api'),
        })
      : undefined,
    config: () => toConfigReport(reloader.status, discoveries.status),
    fleet: () => createFleetReport({ routerId, state, uptimeMs: clock.nowMs() - startedMs, nowMs: clock.nowMs(), fleet, table: running.table, exchange, weights, wallMs: Date.now() }),
  };
  const adminApp = createAdminApp(adminOptions);
  const admin =
    site !== undefined
      ? undefined
      : await serveAdmin(adminApp, adminOptions).catch(async (error: unknown) => {
          await grpc.stop(0);
          throw error;
        });

  const reloader = new ConfigReloader({
    file: origin.file,
    running: config,
    warnings: origin.warnings,
    load: loadConfigFile,
    events,
    wallMs: Date.now,
    // Whole, and between two requests: nothing in here waits for anything. What may fail comes first.
    apply: (next) => {
      const nextContext = createStreamContext(next, router, events);
      health.configure(next.health);
      members.configure(next.pools, sourcesOf(next));
      const { table, settings: { leases, outputs, log } } = next;
      const dropped = router.reconfigure({ table, expireAfterMsMax: leases.expireAfterMsMax, assumedDurationMs: leases.assumedDurationMs, endpointsMax: outputs.endpointsMax });
      if (dropped.length > 0) logger.warn({ event: 'weights_dropped', routes: dropped }, 'Weights that an operator had set are dropped: their routes or targets are gone.');
      context = nextContext;
      running = next;
      followPools();
      const nextScraped = toScraped(next, fleet);
      const scrapedPools = nextScraped.map(({ pool }) => pool.name);
      sharedState.shareMetricsOf(scrapedPools);
      scraper.follow(nextScraped);
      prober.follow(toProbed(next, fleet));
      scaling.reconfigure(next.scaling);
      metrics.follow({ table, scrapedPools });
      logger.level = log.level;
      // They tell when they have something to tell; what they named last holds until then.
      void discoveries.follow(next);
      site?.configured(next);
    },
  });
  const scraper = new MetricsScraper({
    pools: scraped,
    clock,
    rng,
    events,
    ...(exchange.kind !== 'memory' && {
      isOurs: (hostPort) => isOurShare(hostPort, routerId, exchange.status()),
      onRead: (pool, address) => sharedState.noteMetrics(pool, address),
    }),
  });
  scraper.start();
  const prober = new HealthProber({
    pools: toProbed(config, fleet),
    clock,
    rng,
    events,
    onResult: (pool, hostPort, verdict) => health.probed(pool, hostPort, verdict),
    verdictAgeMs: (pool, hostPort) => health.verdictAgeMs(pool, hostPort),
    ...(exchange.kind !== 'memory' && { isOurs: (hostPort: string) => isOurShare(hostPort, routerId, exchange.status()) }),
  });
  // Endpoints that are only to be found should be there when the first request comes; each source has bounded time to be asked.
  await discoveries.follow(config);
  prober.start();
  const healthTimer = setInterval(() => health.tick(), healthTickMs);
  const scalingTimer = setInterval(() => scaling.tick(), scalingTickMs);
  const expiry = setInterval(() => {
    router.expire();
    members.sweep(running.settings.leases.expireAfterMsMax);
    followPools();
  }, 1_000);
  // Nor should it come before anybody knows who can take it.
  await prober.firstRound();
  reloader.start();
  state = 'serving';
  grpc.setReady(true);
  logger.info(
    { router: routerId, grpcPort: grpc.port, ...(admin && { adminPort: admin.port }), pools: config.pools.map(({ name, endpoints }) => ({ name, endpoints: endpoints.length })) },
    site === undefined ? 'serving' : 'worker serving',
  );

  let draining: Promise<void> | undefined;
  const drain = async (): Promise<void> => {
    state = 'draining';
    grpc.setReady(false);
    const { readinessDelayMs, deadlineMs } = running.settings.drain;
    logger.info({ streamsOpen: grpc.streamsOpen, readinessDelayMs }, 'draining: readiness is down');
    await new Promise((resolve) => setTimeout(resolve, readinessDelayMs));
    await grpc.stop(deadlineMs);
    clearInterval(expiry);
    reloader.stop();
    discoveries.stop();
    scraper.stop();
    prober.stop();
    clearInterval(healthTimer);
    clearInterval(scalingTimer);
    eventLog.flush();
    await exchange.stop();
    await admin?.close();
    await decisions.close();
    logger.info('stopped');
  };
  return { grpcPort: grpc.port, adminPort: admin?.port ?? 0, fetch: (request) => adminApp.fetch(request), registry: metrics.registry, reopenLogs: () => decisions.reopen(), reload: (cause) => void reload(cause), drain: () => (draining ??= drain()) };
}

/** A name that no other router has, and that tells people where it runs. */
export function createRouterId(): string {
  return `${hostname().replace(/[^A-Za-z0-9-]/g, '-').slice(0, 40)}-${randomBytes(4).toString('hex')}`;
}

/** What streams go by, and what a reload replaces for those that come after it. */
function createStreamContext({ settings, affinitySecret, table, files }: CompiledConfig, router: Router, events: StreamContext['events']): StreamContext {
  const { outputs, facts, limits, affinity } = settings;
  const { clusterHeader, endpointHeader } = outputs;
  const cookies = affinity.cookie && new SessionCookies(affinity.cookie, { secret: affinitySecret, wallMs: () => Date.now(), randomBytes });
  const { header: isExplaining, allow, token } = settings.explain;
  const explains = isExplaining ? new ExplainGate({ allow, token: token ?? files.explainToken }) : undefined;
  return {
    router,
    reader: new FactReader(facts, limits.scanBytesMax, createPrefixSeed(affinitySecret), table.headers, cookies),
    table,
    writer: new AnswerWriter({ clusterHeader, endpointHeader, ownRequestHeaders: explains && [explainHeader, explainTokenHeader] }),
    explains,
    cookies,
    events,
    clock,
    decideDeadlineMs: limits.decideDeadlineMs,
    askForBodyBytesMax: limits.askForBodyBytesMax,
  };
}

/** Pools whose model servers' metrics are read. */
function toScraped({ settings }: CompiledConfig, fleet: FleetView): { readonly pool: FleetPool; readonly settings: ScrapeSettings }[] {
  return settings.pools.flatMap(({ name, metrics }) => {
    const pool = fleet.pool(name);
    return pool === undefined || metrics === undefined ? [] : [{ pool, settings: metrics }];
  });
}

/** Whether what the other routers send and see is heard as it happens, or there are none. */
function hearsAll(exchange: StateExchange): boolean {
  if (exchange.kind === 'memory') return true;
  const { connected, pushing } = exchange.status();
  return connected && pushing;
}

/** Pools whose model servers are probed. */
function toProbed({ settings }: CompiledConfig, fleet: FleetView): { readonly pool: FleetPool; readonly settings: ProbeSettings }[] {
  return settings.pools.flatMap(({ name, health: { probe } }) => {
    const pool = fleet.pool(name);
    return pool === undefined || probe === undefined ? [] : [{ pool, settings: probe }];
  });
}

/** What `listen` says of the gRPC server, besides its address. */
function toTransportOptions(
  { settings: { listen }, files }: CompiledConfig,
  logger: Logger,
): Pick<GrpcServerOptions, 'transport' | 'socketMode' | 'tls' | 'onTlsReload' | 'resetLimit' | 'connections'> {
  const { transport, socketMode, resetLimit, keepalive, connectionAge } = listen;
  return {
    transport,
    socketMode: Number.parseInt(socketMode, 8),
    tls: files.listenTls,
    onTlsReload: (outcome) => {
      if (outcome.ok) logger.info({ event: 'tls_reloaded', validTo: outcome.validTo.toISOString() }, 'The files of listen.tls changed. New connections use them.');
      else logger.error({ event: 'tls_reload_failed', cause: outcome.error.message }, 'The files of listen.tls changed and cannot be used. New connections go on with what was there before.');
    },
    resetLimit,
    connections: {
      keepaliveIntervalMs: keepalive.intervalMs,
      keepaliveTimeoutMs: keepalive.timeoutMs,
      ageMsMax: connectionAge.maxMs,
      ageGraceMs: connectionAge.graceMs,
    },
  };
}

/** Whether only this machine can reach an address to listen on. */
function isLoopback(address: string): boolean {
  const host = parseHostPort(address)?.host ?? '';
  return host === '::1' || host === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

function describeCoverage({ taking, endpoints, standIns, unserved }: PoolCoverage): string {
  const parts = [`${taking} of ${endpoints} endpoints take requests`];
  for (const { route, pool } of standIns) parts.push(`${pool} stands in on route ${route}`);
  for (const route of unserved) parts.push(`nobody serves route ${route}`);
  return parts.join('; ');
}

function describeState(exchange: StateExchange): string {
  if (exchange.kind === 'memory') return 'memory';
  if (exchange.kind === 'workers') return `memory, shared by ${exchange.status().routers.length} workers`;
  const ageMs = exchange.snapshotAgeMs();
  const age = ageMs === undefined ? 'nothing heard yet' : `last heard ${Math.round(ageMs)} ms ago`;
  const trouble = exchange.trouble();
  // Messages may get through where nothing can be kept, or the other way round: that too is less than it should be.
  if (exchange.status().connected && trouble === undefined) return `redis: connected, ${age}`;
  return `redis: DEGRADED, ${age}: ${trouble?.message ?? 'nothing comes back'}`;
}
