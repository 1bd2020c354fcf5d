import { performance } from 'node:perf_hooks';
import { type Aggregator, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import { toHostPort } from '../core/data-parallel-rank.ts';
import { countRejections } from '../core/decision.ts';
import type { DecisionAccount, ShadowComparison } from '../core/explain.ts';
import { endpointStates } from '../core/fleet-snapshot.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import { changeCauses } from '../fleet/endpoint-change.ts';
import type { FleetView } from '../fleet/fleet-view.ts';
import type { CompletionSignal, DecisionLog, Ending, RefusalCode } from '../router/ports.ts';
import { type RoutingTable, targetsOf } from '../router/routing-table.ts';
import type { ReloadOutcome } from '../router/reload-events.ts';
import { memberSources } from '../router/fleet-members.ts';
import { probeFailures, type ScrapeFailure } from '../router/probe-events.ts';
import type { DecidedPhase, SessionCookieOutcome, StreamEnding } from '../router/stream-events.ts';
import type { PoolScaling } from '../router/scaling-watch.ts';
import type { TelemetryEvents } from './event-log.ts';
import { registerScalingReadings } from './scaling-metrics.ts';
import { type Observations, Series, type Tally, TalliedCounter, TalliedHistogram } from './tallies.ts';

export interface MetricsOptions {
  readonly fleet: FleetView;
  readonly table: RoutingTable;
  /** Fairlead's own version. */
  readonly version: string;
  /** Age of what is known of other routers, in ms; undefined, or no such function, where nothing is shared. */
  readonly snapshotAgeMs?: (() => number | undefined) | undefined;
  /** Pools whose model servers' metrics are read, and the clock that tells their age; left out where none are. */
  readonly scraped?: { readonly pools: readonly string[]; readonly nowMs: () => number } | undefined;
  /** How the pools stand; left out where nobody watches. */
  readonly scaling?: ((pool: string) => PoolScaling | undefined) | undefined;
  /** What of the process to add that prom-client and Node tell: all, nothing, or only how busy this thread's loop is; default all. */
  readonly processMetrics?: 'all' | 'loop' | 'none' | undefined;
}

/** Counts what happens. `registry` has it all in Prometheus' form. */
export interface Metrics extends TelemetryEvents {
  readonly registry: Registry;
  /** Scores shadow policies. */
  readonly decisions: Pick<DecisionLog, 'decided' | 'refused'>;
  /** A line of the decision log was not taken by its destination. */
  decisionLineDropped(): void;
  /**
   * Pools, endpoints or routes came or went: series of what is gone are dropped, so that they do not pile up where endpoints come and go all
   * day. Without `configured` the configuration is what it was.
   */
  follow(configured?: { readonly table: RoutingTable; readonly scrapedPools: readonly string[] }): void;
}

/** Endpoints of a pool with series of their own; the others share one named `other`. Each has some 70. */
const endpointSeriesMax = 1_000;

const refusalCodes: Readonly<Record<RefusalCode, true>> = {
  model_required: true,
  model_not_found: true,
  route_not_found: true,
  no_ready_endpoint: true,
  residency_unavailable: true,
  subset_unavailable: true,
  overloaded: true,
  shed_priority: true,
  deadline_unreachable: true,
  body_not_rewritable: true,
  rewrite_unsupported: true,
  prompt_too_long: true,
  internal_error: true,
};
const endings: Readonly<Record<Exclude<Ending, 'open'>, true>> = {
  finished: true,
  'client-abort': true,
  'upstream-failure': true,
  'not-proxied': true,
  'stream-error': true,
  expired: true,
};
const signals: Readonly<Record<CompletionSignal, true>> = { 'access-log': true, 'response-phases': true, 'ext-proc': true, timer: true };
const streamEndings: Readonly<Record<StreamEnding, true>> = {
  completed: true,
  'let-go': true,
  cancelled: true,
  'protocol-error': true,
  'internal-error': true,
};
const decidedPhases: Readonly<Record<DecidedPhase, true>> = { headers: true, 'body-early': true, body: true, deadline: true };
const reloadOutcomes: Readonly<Record<ReloadOutcome, true>> = { applied: true, unchanged: true, refused: true };
const sessionCookieOutcomes: Readonly<Record<SessionCookieOutcome, true>> = { set: true, unsent: true, invalid: true };
const scrapeFailures: Readonly<Record<ScrapeFailure, true>> = { unreachable: true, timeout: true, status: true, 'too-large': true, 'no-metrics': true };
const messagePhases = ['request_headers', 'request_body', 'request_trailers', 'response_headers', 'response_body', 'response_trailers'];
const shadowOutcomes: Readonly<Record<ShadowComparison['outcome'], true>> = {
  agree: true,
  differ: true,
  'only-live': true,
  'only-shadow': true,
  neither: true,
  failed: true,
};
const bodyCauses = ['malformed', 'truncated', 'over-limit', 'compressed', 'not-json'];
const statusClasses = ['1xx', '2xx', '3xx', '4xx', '5xx'];
/** Codes that strategies make up: a few each, counted out so that a strategy with a fault cannot fill the memory. */
const codesMax = 64;

// All in seconds.
const decisionBounds = [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2];
const answerBounds = [5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 5];
const firstTokenBounds = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60];
const regretBounds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const probeBounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const requestBounds = [0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

type EndpointLabel = 'pool' | 'endpoint';

/** Everything counted of one endpoint. */
interface EndpointSeries {
  readonly decisions: Series<Tally>;
  readonly promptTokens: Tally;
  readonly releases: Series<Series<Tally>>;
  readonly responses: Series<Tally>;
  readonly servedElsewhere: Tally;
  readonly changes: Series<Series<Tally>>;
  readonly firstToken: Observations;
  readonly firstByte: Observations;
  readonly duration: Observations;
}

/** How one pool's shadow policy does. */
interface ShadowSeries {
  readonly decisions: Series<Tally>;
  readonly regret: Series<Observations>;
}

/** Everything counted of one pool. */
interface PoolSeries {
  readonly endpoints: Series<EndpointSeries>;
  readonly ejectionsWithheld: Tally;
  readonly decisionDuration: Observations;
  readonly rejections: Series<Series<Tally>>;
}

/**
 * Counts what happens, in a registry of its own. Labels hold only what the configuration or the code names, never what came
 * with a request. Per event it costs a few map look-ups and additions.
 */
export function createMetrics({ fleet, table: firstTable, version, snapshotAgeMs, scraped, scaling, processMetrics = 'all' }: MetricsOptions): Metrics {
  let table = firstTable;
  let scrapedPools = scraped?.pools ?? [];
  const registry = new Registry();
  const droppable: { drop(labels: Readonly<Record<string, string>>): void }[] = [];
  const kept = <M extends (typeof droppable)[number]>(metric: M): M => {
    droppable.push(metric);
    return metric;
  };
  const counter = <L extends string = never>(name: string, help: string): TalliedCounter<L> => kept(new TalliedCounter(registry, { name, help }));
  const histogram = <L extends string>(name: string, help: string, bounds: readonly number[]): TalliedHistogram<L> =>
    kept(new TalliedHistogram(registry, { name, help }, bounds));
  /** One counter with one label. */
  const counted = (name: string, help: string, label: string, known: Iterable<string>): Series<Tally> => {
    const metric = counter<string>(name, help);
    return new Series((value) => metric.child({ [label]: value }), known).makeKnown();
  };

  const decisions = counter<'pool' | 'endpoint' | 'reason'>('fairlead_decisions_total', 'Requests sent to an endpoint, by what tipped the decision.');
  const promptTokens = counter<EndpointLabel>('fairlead_prompt_tokens_total', 'Estimated prompt tokens of requests sent to an endpoint.');
  const rejections = counter<'pool' | 'filter' | 'reason'>(
    'fairlead_endpoint_rejections_total',
    'Endpoints left out of a decision that found another one, by filter and reason.',
  );
  const decisionDuration = histogram<'pool'>('fairlead_decision_duration_seconds', 'Time to decide on a request whose facts are known.', decisionBounds);
  const releases = counter<EndpointLabel | 'ending' | 'signal'>(
    'fairlead_requests_released_total',
    'Requests no longer counted in flight, by how they ended and what told so.',
  );
  const responses = counter<EndpointLabel | 'status_class'>(
    'fairlead_responses_total',
    'Statuses sent to clients, of requests whose end was reported with one.',
  );
  const servedElsewhere = counter<EndpointLabel>(
    'fairlead_served_elsewhere_total',
    'Requests that another endpoint answered than the one chosen: a retry, or an Envoy that does not know the endpoint.',
  );
  const changes = counter<EndpointLabel | 'to' | 'cause'>(
    'fairlead_endpoint_changes_total',
    'Changes of an endpoint\'s state, by the new state ("gone": it left) and the cause, whichever router found it out.',
  );
  const ejectionsWithheld = counter<'pool'>(
    'fairlead_ejections_withheld_total',
    'Times that an endpoint should have been left out for failing or being slow and stayed, since as many of its pool were left out as may be.',
  );
  const firstToken = histogram<EndpointLabel>(
    'fairlead_time_to_first_token_seconds',
    'From the decision to the first piece of the response body, in pools that observe it; answers in one piece are left out where the body told so.',
    firstTokenBounds,
  );
  const firstByte = histogram<EndpointLabel>(
    'fairlead_upstream_first_byte_seconds',
    "From Envoy's sight of the request to the first byte from the endpoint; of streamed answers that is the headers, not the first token.",
    firstTokenBounds,
  );
  const duration = histogram<EndpointLabel>(
    'fairlead_request_duration_seconds',
    'From the decision to the reported end; requests that expired are not in it.',
    requestBounds,
  );

  const fallbackTotal = counter<'route' | 'pool'>('fairlead_fallbacks_total', "Requests sent to a fallback of their route, whose target had nobody who could take them.");
  const fallbacks = new Series(
    (route) => new Series((pool) => fallbackTotal.child({ route, pool }), fleet.pools.keys()),
    table.routes.map(({ name }) => name),
  );
  const refusalTotal = counter<'pool' | 'code'>(
    'fairlead_refusals_total',
    'Final decisions to refuse a request, by the first pool that it was to go to; no pool where no route was found.',
  );
  const makeRefusals = (pool: string): Series<Tally> => new Series((code) => refusalTotal.child({ pool, code }), Object.keys(refusalCodes)).makeKnown();
  const refusalsByPool = new Series(makeRefusals, ['', ...fleet.pools.keys()]).makeKnown();
  const foreignReports = counted(
    'fairlead_foreign_reports_total',
    'Completion reports of other routers\' requests: "forwarded" to their owner, or "lost" for want of a way.',
    'outcome',
    ['forwarded', 'lost'],
  );
  const unknownLeases = counter('fairlead_unknown_leases_total', 'Completion reports of requests that were over already or never were.').child({});
  const streamsOpened = counter('fairlead_streams_opened_total', 'ext_proc streams opened by Envoy.').child({});
  const streamsClosed = counted('fairlead_streams_closed_total', 'ext_proc streams closed.', 'ending', Object.keys(streamEndings));
  const messages = counted('fairlead_stream_messages_total', 'Messages from Envoy on ext_proc streams.', 'phase', messagePhases);
  const bodiesUnusable = counted('fairlead_bodies_unusable_total', 'Request bodies that gave no facts.', 'cause', bodyCauses);
  const sessionCookies = counted(
    'fairlead_session_cookies_total',
    "Session cookies set on responses, not set since the response's headers never came here, or found invalid in requests.",
    'outcome',
    Object.keys(sessionCookieOutcomes),
  );
  const shadowDecisions = counter<'pool' | 'policy' | 'outcome'>(
    'fairlead_shadow_decisions_total',
    'Decisions that a shadow policy was scored on: whether it agreed with the live one, differed, or only one of them found an endpoint.',
  );
  const shadowRegret = histogram<'pool' | 'policy' | 'better'>(
    'fairlead_shadow_regret_seconds',
    'Where live and shadow policy differed: how much sooner the first token was expected at the choice of the better one. Summed with better="shadow", less better="live", it is the estimated regret of the live policy.',
    regretBounds,
  );
  const droppedLines = counter('fairlead_decision_log_dropped_total', 'Lines of the decision log that its destination was too slow for.').child({});
  const failures = counter('fairlead_internal_errors_total', 'Exceptions caught at a stream or in a listener: bugs.').child({});
  const records = counter('fairlead_access_log_records_total', 'Access-log records taken in.').child({});
  const recordsWithoutLease = counter(
    'fairlead_access_log_records_without_lease_total',
    'Access-log records that named no lease, such as those of requests that were refused.',
  ).child({});
  const dropped = counter('fairlead_exchange_dropped_total', 'Messages to other routers not sent, or sent without knowing whether they arrived.').child({});
  const troubles = counter<'code'>('fairlead_exchange_troubles_total', 'Times that what carries state between routers got into trouble, by its code.');
  const troublesByCode = new Series((code) => troubles.child({ code }), [], codesMax);
  const scrapes = counter<'pool' | 'outcome'>(
    'fairlead_engine_scrapes_total',
    'Times that an endpoint was asked for its model server\'s metrics: "ok", or why they could not be read.',
  );
  const discoveries = counter<'pool' | 'source' | 'outcome'>(
    'fairlead_discovery_reads_total',
    'Times that a file or the name service was asked for the endpoints of a pool: "ok", or "failed", where what it said last holds.',
  );
  const discoveriesByPool = new Series(
    (pool) => new Series((source) => new Series((outcome) => discoveries.child({ pool, source, outcome }), ['ok', 'failed']).makeKnown(), memberSources),
    fleet.pools.keys(),
  );
  const reloads = counted('fairlead_config_reloads_total', 'Times that the configuration was read again while the router ran.', 'outcome', Object.keys(reloadOutcomes));
  let isReloaded = true;
  const scrapesByPool = new Series(
    (pool) => new Series((outcome) => scrapes.child({ pool, outcome }), ['ok', ...Object.keys(scrapeFailures)]).makeKnown(),
    scrapedPools,
  ).makeKnown();
  const probes = counter<'pool' | 'outcome'>('fairlead_probes_total', 'Health probes of model servers, by outcome: "passed", or why they failed.');
  const probeDuration = histogram<'pool'>('fairlead_probe_duration_seconds', 'How long health probes took that passed.', probeBounds);
  const probesByPool = new Series(
    (pool) => ({
      outcomes: new Series((outcome) => probes.child({ pool, outcome }), ['passed', ...probeFailures]).makeKnown(),
      duration: probeDuration.child({ pool }),
    }),
    fleet.pools.keys(),
  );
  const answerLatency = histogram<'phase'>(
    'fairlead_answer_latency_seconds',
    'From the first message of a stream to its final answer, by the phase that brought the facts; waiting for the body is in it.',
    answerBounds,
  );
  const answers = new Series((phase) => answerLatency.child({ phase }), Object.keys(decidedPhases)).makeKnown();

  const makeEndpoint = (pool: string, endpoint: string): EndpointSeries => {
    const labels = { pool, endpoint };
    return {
      decisions: new Series((reason) => decisions.child({ ...labels, reason }), [], codesMax),
      promptTokens: promptTokens.child(labels),
      releases: new Series(
        (ending) => new Series((signal) => releases.child({ ...labels, ending, signal }), Object.keys(signals)),
        Object.keys(endings),
      ),
      responses: new Series((status) => responses.child({ ...labels, status_class: status }), statusClasses),
      servedElsewhere: servedElsewhere.child(labels),
      changes: new Series((to) => new Series((cause) => changes.child({ ...labels, to, cause }), changeCauses), [...endpointStates, 'gone']),
      firstToken: firstToken.child(labels),
      firstByte: firstByte.child(labels),
      duration: duration.child(labels),
    };
  };
  const pools = new Series<PoolSeries>(
    (pool) => ({
      endpoints: new Series(
        (endpoint) => makeEndpoint(pool, endpoint),
        fleet.pool(pool)?.endpoints.map(({ address }) => address) ?? [],
        0,
        endpointSeriesMax,
      ),
      ejectionsWithheld: ejectionsWithheld.child({ pool }),
      decisionDuration: decisionDuration.child({ pool }),
      rejections: new Series((filter) => new Series((reason) => rejections.child({ pool, filter, reason }), [], codesMax), [], codesMax),
    }),
    fleet.pools.keys(),
  );

  const makeShadow = (pool: string, policy: string): ShadowSeries => ({
    decisions: new Series((outcome) => shadowDecisions.child({ pool, policy, outcome }), Object.keys(shadowOutcomes)).makeKnown(),
    regret: new Series((better) => shadowRegret.child({ pool, policy, better }), ['live', 'shadow']).makeKnown(),
  });
  const shadows = new Map<string, { readonly policy: string; readonly series: ShadowSeries }>();
  const followShadows = (): void => {
    const wanted = new Map(
      table.routes.flatMap(targetsOf).flatMap(({ pool }) => (pool.shadow === undefined ? [] : [[pool.name, pool.shadow.policy.name] as const])),
    );
    for (const [pool, { policy }] of shadows) {
      if (wanted.get(pool) === policy) continue;
      shadows.delete(pool);
      for (const metric of [shadowDecisions, shadowRegret]) metric.drop({ pool });
    }
    for (const [pool, policy] of wanted) if (!shadows.has(pool)) shadows.set(pool, { policy, series: makeShadow(pool, policy) });
  };
  followShadows();
  const scoreShadows = ({ considered }: DecisionAccount): void => {
    for (const { pool, shadow } of considered) {
      const scores = shadows.get(pool)?.series;
      if (shadow === undefined || scores === undefined) continue;
      scores.decisions.of(shadow.outcome).value += 1;
      const { expectedTtftMs } = shadow;
      if (shadow.outcome !== 'differ' || expectedTtftMs === undefined) continue;
      const regretMs = expectedTtftMs.live - expectedTtftMs.shadow;
      // Equal expectations count for neither in sum, and stay in the count.
      scores.regret.of(regretMs >= 0 ? 'shadow' : 'live').observe(Math.abs(regretMs) / 1_000);
    }
  };

  let signalMissing = false;
  /** Pools that gave none yet. */
  const firstTokensMissing = new Set<string>();
  let isInTrouble = false;
  let isPushing = true;
  let closedTotal = 0;
  registerReadings(registry, {
    fleet,
    table: () => table,
    isReloaded: () => isReloaded,
    version,
    streamsOpen: () => streamsOpened.value - closedTotal,
    signalMissing: () => signalMissing,
    firstTokensMissing: () => firstTokensMissing.size,
    isInTrouble: () => isInTrouble,
    isPushing: () => isPushing,
    snapshotAgeMs: () => snapshotAgeMs?.(),
  });
  if (scraped !== undefined) registerScrapeReadings(registry, fleet, { pools: () => scrapedPools, nowMs: scraped.nowMs });

  const drop = (labels: Readonly<Record<string, string>>): void => {
    for (const metric of droppable) metric.drop(labels);
  };
  const follow: Metrics['follow'] = (configured) => {
    if (configured !== undefined) ({ table, scrapedPools } = configured);
    const names = [...fleet.pools.keys()];
    const gone = new Set([pools, probesByPool, discoveriesByPool].flatMap((series: Series<unknown>) => series.renew(names)).concat(refusalsByPool.renew(['', ...names])));
    for (const [, byPool] of fallbacks.entries()) for (const pool of byPool.renew(names)) gone.add(pool);
    for (const pool of gone) {
      drop({ pool });
      firstTokensMissing.delete(pool);
    }
    for (const [pool, { endpoints }] of pools.entries()) {
      for (const endpoint of endpoints.renew(fleet.pool(pool)?.endpoints.map(({ address }) => address) ?? [])) drop({ pool, endpoint });
    }
    for (const route of fallbacks.renew(table.routes.map(({ name }) => name))) drop({ route });
    for (const pool of scrapesByPool.renew(scrapedPools)) scrapes.drop({ pool });
    scrapesByPool.makeKnown();
    refusalsByPool.makeKnown();
    followShadows();
  };

  if (scaling !== undefined) registerScalingReadings(registry, { fleet, scaling });
  if (processMetrics === 'all') registerProcessMetrics(registry);
  else if (processMetrics === 'loop') registerLoopMetrics(registry);

  return {
    registry,
    decisions: { decided: ({ account }) => scoreShadows(account), refused: (_code, account) => scoreShadows(account) },
    follow,
    configReloaded: ({ outcome }) => {
      reloads.of(outcome).value += 1;
      isReloaded = outcome !== 'refused';
    },
    discovered: (pool, source) => {
      discoveriesByPool.of(pool).of(source).of('ok').value += 1;
    },
    discoveryFailed: (pool, source) => {
      discoveriesByPool.of(pool).of(source).of('failed').value += 1;
    },
    decisionLineDropped: () => {
      droppedLines.value += 1;
    },
    decided: ({ route, pool: { name }, isFallback, addresses, decision, promptTokens: tokens, decisionMs }) => {
      if (isFallback) fallbacks.of(route).of(name).value += 1;
      const pool = pools.of(name);
      const endpoint = pool.endpoints.of(addresses[0] ?? 'other');
      endpoint.decisions.of(decision.reason).value += 1;
      endpoint.promptTokens.value += tokens;
      pool.decisionDuration.observe(decisionMs / 1_000);
      for (const { filter, reason, count } of countRejections(decision.trace)) pool.rejections.of(filter).of(reason).value += count;
    },
    refused: (code, pool = '') => {
      refusalsByPool.of(pool).of(code).value += 1;
    },
    endpointChanged: ({ pool, address, to = 'gone', cause }) => {
      pools.of(pool).endpoints.of(address).changes.of(to).of(cause).value += 1;
    },
    ejectionWithheld: (pool) => {
      pools.of(pool).ejectionsWithheld.value += 1;
    },
    firstToken: (pool, address, sinceDispatchMs) => {
      firstTokensMissing.delete(pool);
      pools.of(pool).endpoints.of(address).firstToken.observe(sinceDispatchMs / 1_000);
    },
    released: (pool, address, { ending, signal, status, firstByteMs, servedBy }, durationMs) => {
      if (signal === 'access-log' || signal === 'response-phases') signalMissing = false;
      const endpoint = pools.of(pool).endpoints.of(address);
      endpoint.releases.of(ending).of(signal).value += 1;
      // How long a request took that the clock ended is a guess of ours, not an observation.
      if (signal !== 'timer') endpoint.duration.observe(durationMs / 1_000);
      if (status !== undefined) endpoint.responses.of(toStatusClass(status)).value += 1;
      if (firstByteMs !== undefined) endpoint.firstByte.observe(firstByteMs / 1_000);
      if (servedBy !== undefined && servedBy !== toHostPort(address)) endpoint.servedElsewhere.value += 1;
    },
    foreignReport: (_owner, forwarded) => {
      foreignReports.of(forwarded ? 'forwarded' : 'lost').value += 1;
    },
    unknownLease: () => {
      unknownLeases.value += 1;
    },
    noCompletionSignal: () => {
      signalMissing = true;
    },
    noFirstToken: (pool) => {
      firstTokensMissing.add(pool);
    },
    streamOpened: () => {
      streamsOpened.value += 1;
    },
    streamClosed: (ending) => {
      closedTotal += 1;
      streamsClosed.of(ending).value += 1;
    },
    message: (phase) => {
      messages.of(phase).value += 1;
    },
    answered: (phase, sinceHeadersMs) => {
      answers.of(phase).observe(sinceHeadersMs / 1_000);
    },
    bodyUnusable: (cause) => {
      bodiesUnusable.of(cause).value += 1;
    },
    sessionCookie: (outcome) => {
      sessionCookies.of(outcome).value += 1;
    },
    failed: () => {
      failures.value += 1;
    },
    accessLogRecords: (count, withoutLease) => {
      records.value += count;
      recordsWithoutLease.value += withoutLease;
    },
    exchangeTrouble: ({ code }) => {
      isInTrouble = true;
      troublesByCode.of(code).value += 1;
    },
    exchangeRecovered: () => {
      isInTrouble = false;
    },
    exchangeDropped: () => {
      dropped.value += 1;
    },
    pushingChanged: (pushing) => {
      isPushing = pushing;
    },
    metricsScraped: (pool) => {
      scrapesByPool.of(pool).of('ok').value += 1;
    },
    scrapeFailed: (pool, _address, cause) => {
      scrapesByPool.of(pool).of(cause).value += 1;
    },
    probePassed: (pool, _address, durationMs) => {
      const { outcomes, duration: took } = probesByPool.of(pool);
      outcomes.of('passed').value += 1;
      took.observe(durationMs / 1_000);
    },
    probeFailed: (pool, _address, cause) => {
      probesByPool.of(pool).outcomes.of(cause).value += 1;
    },
  };
}

/** `2xx` and so on; what is no HTTP status counts as `other`. */
function toStatusClass(status: number): string {
  return statusClasses[Math.floor(status / 100) - 1] ?? 'other';
}

interface Readings {
  readonly fleet: FleetView;
  readonly table: () => RoutingTable;
  readonly isReloaded: () => boolean;
  readonly version: string;
  readonly streamsOpen: () => number;
  readonly signalMissing: () => boolean;
  readonly firstTokensMissing: () => number;
  readonly isInTrouble: () => boolean;
  readonly isPushing: () => boolean;
  readonly snapshotAgeMs: () => number | undefined;
}

/** Registers what is read when somebody asks, instead of being kept. */
function registerReadings(registry: Registry, readings: Readings): void {
  const { fleet, table, isReloaded, version, streamsOpen, signalMissing, firstTokensMissing, isInTrouble, isPushing, snapshotAgeMs } = readings;
  const registers = [registry];
  const perEndpoint = (name: string, help: string, aggregator: Aggregator, read: (endpoint: FleetEndpoint) => number): void => {
    new Gauge({
      name,
      help,
      aggregator,
      labelNames: ['pool', 'endpoint'],
      registers,
      collect() {
        // What is gone does not stay behind.
        this.reset();
        for (const pool of fleet.pools.values()) {
          for (const endpoint of pool.endpoints.slice(0, endpointSeriesMax)) this.set({ pool: pool.name, endpoint: endpoint.address }, read(endpoint));
          const others = pool.endpoints.slice(endpointSeriesMax);
          if (others.length > 0) this.set({ pool: pool.name, endpoint: 'other' }, others.reduce((sum, endpoint) => sum + read(endpoint), 0));
        }
      },
    });
  };
  perEndpoint('fairlead_requests_in_flight', 'Requests of this router in flight.', 'sum', ({ own }) => own.requests);
  perEndpoint('fairlead_prompt_tokens_in_flight', "Prompt tokens of this router's requests in flight.", 'sum', ({ own }) => own.promptTokens);
  perEndpoint(
    'fairlead_uncached_tokens_waiting',
    "Prompt tokens of this router's requests that gave no first token yet, less those believed to be cached.",
    'sum',
    ({ own }) => own.uncachedTokensWaiting,
  );
  perEndpoint('fairlead_fleet_requests_in_flight', 'Requests of all routers in flight, as far as this router knows.', 'max', ({ requests }) => requests);

  new Gauge({
    name: 'fairlead_endpoint_state',
    help: '1 for the state that an endpoint is in, 0 for the others.',
    aggregator: 'first',
    labelNames: ['pool', 'endpoint', 'state'],
    registers,
    collect() {
      this.reset();
      for (const pool of fleet.pools.values()) {
        for (const { address, state } of pool.endpoints.slice(0, endpointSeriesMax)) {
          for (const named of endpointStates) this.set({ pool: pool.name, endpoint: address, state: named }, named === state ? 1 : 0);
        }
      }
    },
  });
  const reading = (name: string, help: string, aggregator: Aggregator, read: () => number): void => {
    new Gauge({
      name,
      help,
      aggregator,
      registers,
      collect() {
        this.set(read());
      },
    });
  };
  reading('fairlead_streams_open', 'ext_proc streams open.', 'sum', streamsOpen);
  reading('fairlead_completion_signal_missing', '1 while no request was ever reported as ended although many were sent: load is being guessed.', 'max', () =>
    Number(signalMissing()),
  );
  reading('fairlead_first_tokens_missing', 'Pools whose policy wants first tokens noticed and that gave none: their policy chooses worse.', 'max', firstTokensMissing);
  reading('fairlead_config_last_reload_success', '0 while the configuration that was read last is refused, and the one before it holds.', 'min', () => Number(isReloaded()));
  reading('fairlead_exchange_in_trouble', '1 while what carries state between routers cannot be used as it should.', 'max', () => Number(isInTrouble()));
  reading('fairlead_exchange_snapshots_only', '1 while events are not pushed to other routers as they happen.', 'max', () => Number(!isPushing()));
  new Gauge({
    name: 'fairlead_exchange_snapshot_age_seconds',
    help: 'Age of what is known of the other routers; absent where nothing is shared.',
    aggregator: 'max',
    registers,
    collect() {
      const ageMs = snapshotAgeMs();
      if (ageMs === undefined) this.remove();
      else this.set(ageMs / 1_000);
    },
  });
  new Gauge({
    name: 'fairlead_pool_info',
    aggregator: 'first',
    help: "Always 1; the labels tell Envoy's name of a pool, to join its metrics with, and the policy that chooses in it.",
    labelNames: ['pool', 'cluster', 'policy'],
    registers,
    collect() {
      this.reset();
      for (const { pool } of table().routes.flatMap(targetsOf)) this.set({ pool: pool.name, cluster: pool.cluster, policy: pool.policy.name }, 1);
    },
  });
  new Gauge({ name: 'fairlead_build_info', help: 'Always 1; the label tells what runs.', aggregator: 'first', labelNames: ['version'], registers }).set({ version }, 1);
}

function registerScrapeReadings(registry: Registry, fleet: FleetView, { pools, nowMs }: { readonly pools: () => readonly string[]; readonly nowMs: () => number }): void {
  const perPool = (name: string, help: string, read: (scrapedMs: readonly number[], endpoints: number) => number | undefined): void => {
    new Gauge({
      name,
      help,
      labelNames: ['pool'],
      aggregator: 'max',
      registers: [registry],
      collect() {
        this.reset();
        for (const pool of pools()) {
          const endpoints = fleet.pool(pool)?.endpoints ?? [];
          const value = read(endpoints.flatMap(({ metrics }) => metrics?.scrapedMs ?? []), endpoints.length);
          if (value !== undefined) this.set({ pool }, value);
        }
      },
    });
  };
  perPool('fairlead_engine_metrics_age_seconds', 'Age of the oldest metrics of a model server that decisions go by; absent where there are none.', (scrapedMs) =>
    scrapedMs.length === 0 ? undefined : Math.max(0, nowMs() - Math.min(...scrapedMs)) / 1_000,
  );
  perPool(
    'fairlead_endpoints_without_engine_metrics',
    "Endpoints whose model server's metrics could not be read for so long that decisions go without.",
    (scrapedMs, endpoints) => endpoints - scrapedMs.length,
  );
}

/** Summaries of a delay monitor that is kept from running: see below. */
const delaySummaries = ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'];

/** What prom-client and Node tell of the process. */
export function registerProcessMetrics(registry: Registry): void {
  // prom-client's monitor of event loop delay wakes the process 100 times a second, 1 % of a core in an idle router. With this
  // period it never fires, so its summaries go too; the utilization costs nothing and tells as well when the loop is full.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 3_600_000 });
  for (const summary of delaySummaries) registry.removeSingleMetric(`nodejs_eventloop_lag_${summary}_seconds`);
  // Gauges that are named like counters, and say no more than the ones by type beside them.
  for (const kind of ['handles', 'requests', 'resources']) registry.removeSingleMetric(`nodejs_active_${kind}_total`);
  registerLoopMetrics(registry);
}

function registerLoopMetrics(registry: Registry): void {
  let before = performance.eventLoopUtilization();
  new Gauge({
    name: 'nodejs_eventloop_utilization_ratio',
    // Of several workers, the busiest.
    aggregator: 'max',
    help: 'Share of time since the last scrape that the event loop was busy.',
    registers: [registry],
    collect() {
      const now = performance.eventLoopUtilization();
      this.set(performance.eventLoopUtilization(now, before).utilization);
      before = now;
    },
  });
}
