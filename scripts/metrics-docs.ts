// docs/metrics.md, made from the registry: `npm run docs` writes it, `npm run check` fails while it is stale.
// Everything that can be counted happens once here, so that every metric shows which labels its series have; one that shows none is an error.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { createAccount, type DecisionAccount } from '../src/core/explain.ts';
import type { Policy } from '../src/core/policy.ts';
import { noFacts } from '../src/core/request-facts.ts';
import { FleetView } from '../src/fleet/fleet-view.ts';
import type { Routed } from '../src/router/routed.ts';
import type { RoutedPool, RoutingTable } from '../src/router/routing-table.ts';
import type { PoolScaling } from '../src/router/scaling-watch.ts';
import type { TelemetryEvents } from '../src/telemetry/event-log.ts';
import { createMetrics, type Metrics } from '../src/telemetry/metrics.ts';
import { createWorkerMetrics } from '../src/telemetry/worker-metrics.ts';
import { writeOrCheck } from './generated-page.ts';

const address = '10.0.0.1:8000';

/** One metric, as the registry tells of it. */
export interface MetricRow {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly labels: readonly string[];
}

/** All metrics of Fairlead's own, sorted by name. */
export async function listMetrics(): Promise<MetricRow[]> {
  const metrics = exercise();
  const workers = createWorkerMetrics({ workers: 1, serving: () => 1, latest: () => [{ name: 'nodejs_eventloop_utilization_ratio', type: 'gauge', values: [{ labels: {}, value: 0 }] }] });
  const ofWorkers = (await workers.read()).filter(({ name }) => name.startsWith('fairlead_'));
  const told = [...(await metrics.registry.getMetricsAsJSON()), ...ofWorkers] as unknown as readonly {
    readonly name: string;
    readonly type: string;
    readonly help: string;
    readonly values: readonly { readonly labels: Readonly<Record<string, unknown>> }[];
  }[];
  return told
    .map(({ name, type, help, values }) => {
      if (values.length === 0) throw new Error(`${name} has no series: let happen what it counts in scripts/metrics-docs.ts`);
      return { name, type, help, labels: [...new Set(values.flatMap(({ labels }) => Object.keys(labels)))].filter((label) => label !== 'le') };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The whole page. */
export function renderMetricDocs(rows: readonly MetricRow[]): string {
  const lines = [
    '# Metrics',
    '',
    '<!-- Generated from the registry by `npm run docs`. Do not edit. -->',
    '',
    '`GET /metrics` on the admin address gives all of them in Prometheus\' text form. Rules, alerts with runbooks, and a dashboard stand in `deploy/prometheus` and `deploy/grafana`.',
    '',
    '- Labels hold what the configuration, discovery or the code names, never what came with a request. What is named nowhere counts as `other`, and so do',
    '  endpoints of a pool beyond the first 1000. Series of pools and endpoints that are gone are dropped.',
    '- Counters and histograms are of this router alone: sum them over all. Gauges that say "all routers" are what this router knows of the fleet: take the',
    '  highest, or one; do not sum.',
    '- Times are in seconds, shares from 0 to 1. A gauge that has nothing to say is absent, not 0.',
    '- Beside these there are the usual `process_*` and `nodejs_*` metrics.',
    '',
    '| metric | type | unit | labels | what it is |',
    '| --- | --- | --- | --- | --- |',
    ...rows.map(({ name, type, help, labels }) => `| \`${name}\` | ${type} | ${unitOf(name)} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${cell(help)} |`),
  ];
  return `${lines.join('\n')}\n`;
}

/** Units as Prometheus' naming conventions put them into names. */
function unitOf(name: string): string {
  const bare = name.replace(/_total$/, '');
  if (bare.endsWith('_tokens_per_second')) return 'tokens/s';
  if (bare.endsWith('_seconds')) return 'seconds';
  if (bare.endsWith('_ratio')) return '0 to 1';
  if (/_info$|_(missing|trouble|only|exhausted|state|success)$/.test(bare) && bare !== 'fairlead_first_tokens_missing') return '0 or 1';
  if (/tokens(_in_flight|_waiting)?$/.test(bare) && bare !== 'fairlead_first_tokens_missing') return 'tokens';
  return 'count';
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ');
}

/** A router's metrics after everything that can happen has happened. */
function exercise(): Metrics {
  const policy = { name: 'sticky' } as Policy;
  const pool: RoutedPool = { name: 'chat', cluster: 'chat', policy, observeFirstToken: true, shadow: { policy, sample: 1 } };
  const table: RoutingTable = {
    routes: [{ name: 'all', matchesModel: undefined, matchesPath: undefined, targets: [{ pool, weight: 1 }], needs: new Set() }],
    needs: new Set(),
  };
  const fleet = new FleetView([{ name: 'chat', endpoints: [{ address, weight: 1, labels: {}, requestsMax: undefined }] }]);
  for (const endpoint of fleet.pool('chat')?.endpoints ?? []) {
    endpoint.metrics = { scrapedMs: 0, requestsRunning: 1, requestsQueued: 0, kvUsage: 0, kvTokensMax: 1, adapters: undefined, adaptersMax: undefined };
  }
  const scaling: PoolScaling = {
    load: {
      weight: 1,
      servers: 1,
      waitMs: 0,
      inFlightShare: 0,
      waitingTokens: 0,
      requests: 0,
      requestsPerS: 0,
      promptTokensPerS: 0,
      prefillTokensPerS: 0,
      capacityTokensPerS: 1,
    },
    advice: { desiredReplicas: 1, reason: 'minimum' },
    standby: { waiting: 1, active: 0, exhausted: false },
  };
  const metrics = createMetrics({
    fleet,
    table,
    version: '0',
    snapshotAgeMs: () => 0,
    scraped: { pools: ['chat'], nowMs: () => 0 },
    scaling: () => scaling,
    processMetrics: 'none',
  });
  const routed = routedTo(pool);
  const all: { readonly [K in keyof TelemetryEvents]: Parameters<TelemetryEvents[K]> } = {
    decided: [routed],
    refused: ['overloaded', 'chat'],
    endpointChanged: [{ pool: 'chat', address, from: 'ready', to: 'ejected', cause: 'failures', detail: undefined, by: undefined, atMs: 0, untilMs: 1 }],
    ejectionWithheld: ['chat', address, ''],
    firstToken: ['chat', address, 1],
    released: ['chat', address, { ending: 'finished', signal: 'access-log', status: 200, firstByteMs: 1, servedBy: '10.0.0.2:8000' }, 1],
    foreignReport: ['other', true],
    unknownLease: [],
    noCompletionSignal: [1],
    noFirstToken: ['chat', 1],
    streamOpened: [],
    streamClosed: ['completed'],
    message: ['request_headers'],
    answered: ['headers', 1],
    bodyUnusable: ['malformed'],
    sessionCookie: ['set'],
    failed: [new Error('x')],
    accessLogRecords: [1, 1],
    exchangeTrouble: [{ code: 'unreachable', message: '', permanent: false }],
    exchangeRecovered: [],
    exchangeDropped: [],
    pushingChanged: [true],
    metricsScraped: ['chat', address],
    scrapeFailed: ['chat', address, 'timeout', ''],
    probePassed: ['chat', address, 1],
    probeFailed: ['chat', address, 'timeout', ''],
    configReloaded: [{ outcome: 'applied', cause: 'signal', file: '', version: undefined, problems: [] }],
    discovered: ['chat', 'file', 1],
    discoveryFailed: ['chat', 'dns', { source: '', causes: [] }],
  };
  for (const [event, args] of Object.entries(all)) (metrics[event as keyof TelemetryEvents] as (...told: readonly unknown[]) => void)(...args);
  metrics.decisions.decided(routed);
  metrics.decisionLineDropped();
  return metrics;
}

function routedTo(pool: RoutedPool): Routed {
  const trace = { policy: 'sticky', candidates: [address], rejections: [{ address, filter: 'ready', reason: 'draining' }], scores: [] };
  const decision = { kind: 'route' as const, addresses: [address], reason: 'shortest-wait', home: undefined, trace };
  const account: DecisionAccount = {
    ...createAccount('all', noFacts, undefined),
    considered: [
      {
        pool: 'chat',
        decision,
        promptTokens: 1,
        cachedTokens: new Map(),
        shadow: { policy: 'sticky', outcome: 'differ', choice: { live: address, shadow: address }, expectedTtftMs: { live: 2, shadow: 1 } },
      },
    ],
  } as unknown as DecisionAccount;
  return {
    kind: 'route',
    lease: 'a.1',
    route: 'all',
    pool,
    isFallback: true,
    model: undefined,
    addresses: [address],
    decision,
    account,
    promptTokens: 1,
    uncachedTokens: 1,
    streams: undefined,
    needsPlace: false,
    decisionMs: 0,
    chance: { draw: 0, sequences: [] },
  };
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) writeOrCheck('docs/metrics.md', renderMetricDocs(await listMetrics()));
