import { register as globalRegistry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import { noFacts } from '../core/request-facts.ts';
import { createAccount, type ShadowComparison } from '../core/explain.ts';
import type { Policy } from '../core/policy.ts';
import type { EndpointChange } from '../fleet/endpoint-change.ts';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import type { Routed } from '../router/routed.ts';
import type { RoutedPool, RoutingTable } from '../router/routing-table.ts';
import { createMetrics, type Metrics, type MetricsOptions } from './metrics.ts';
import { Observations, Series } from './tallies.ts';

const first = '10.0.0.1:80';
const second = '10.0.0.2:80';

function createFleet(): FleetView {
  return new FleetView([{ name: 'chat', endpoints: [first, second].map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) }]);
}

const pool: RoutedPool = { name: 'chat', cluster: 'chat-cluster', policy: { name: 'session-affinity' } as Policy, observeFirstToken: true };
const table: RoutingTable = {
  routes: [{ name: '* *', matchesModel: undefined, matchesPath: undefined, targets: [{ pool, weight: 1 }], needs: new Set() }],
  needs: new Set(),
};

function create(options: Partial<MetricsOptions> = {}): Metrics & { lines: () => Promise<string[]>; value: (series: string) => Promise<number | undefined> } {
  const metrics = createMetrics({ fleet: createFleet(), table, version: '1.2.3', processMetrics: 'none', ...options });
  const lines = async (): Promise<string[]> => (await metrics.registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const value = async (series: string): Promise<number | undefined> => {
    const line = (await lines()).find((text) => text.startsWith(`${series} `));
    return line === undefined ? undefined : Number(line.slice(series.length + 1));
  };
  return { ...metrics, lines, value };
}

function routedTo(address: string, { name = 'chat', reason = 'affinity-home', filter = 'ready', why = 'draining' } = {}): Routed {
  return {
    kind: 'route',
    lease: 'a.1',
    pool: { ...pool, name },
    addresses: [address],
    decision: {
      kind: 'route',
      addresses: [address],
      reason,
      home: undefined,
      trace: { policy: 'p', candidates: [address], rejections: [{ address: second, filter, reason: why }], scores: [] },
    },
    account: createAccount('* *', noFacts, undefined),
    route: '* *',
    model: undefined,
    isFallback: false,
    promptTokens: 100,
    uncachedTokens: 100,
    streams: undefined,
    needsPlace: false,
    decisionMs: 0.02,
    chance: { draw: 0, sequences: [] },
  };
}

const at = `pool="chat",endpoint="${first}"`;

const define = (address: string): EndpointDefinition => ({ address, weight: 1, labels: {}, requestsMax: undefined });

describe('createMetrics', () => {
  it('drops the series of endpoints, pools and routes that are gone, and has them for those that came', async () => {
    const fleet = createFleet();
    const metrics = create({ fleet });
    for (const address of [first, second]) {
      metrics.decided(routedTo(address));
      metrics.firstToken('chat', address, 100);
    }
    const text = async (): Promise<string> => (await metrics.lines()).join('\n');
    expect(await text()).toContain(second);
    fleet.update([{ name: 'chat', endpoints: [define(first), define('10.0.0.3:80')] }], 0);
    fleet.sweep(1, 0);
    metrics.follow();
    expect(await text()).not.toContain(second);
    expect(await metrics.value(`fairlead_decisions_total{${at},reason="affinity-home"}`)).toBe(1);
    metrics.decided(routedTo('10.0.0.3:80'));
    expect(await metrics.value('fairlead_decisions_total{pool="chat",endpoint="10.0.0.3:80",reason="affinity-home"}')).toBe(1);
    // What still ends there counts, without a series of its own.
    metrics.released('chat', second, { ending: 'finished', signal: 'access-log' }, 5);
    expect(await metrics.value('fairlead_requests_released_total{pool="chat",endpoint="other",ending="finished",signal="access-log"}')).toBe(1);
    expect(await text()).not.toContain(second);

    const batch = { ...pool, name: 'batch', cluster: 'batch-cluster' };
    fleet.update([{ name: 'batch', endpoints: [define(first)] }], 10);
    for (const nowMs of [11, 12, 60_000]) fleet.sweep(nowMs, 0);
    metrics.follow({ table: { ...table, routes: table.routes.map((route) => ({ ...route, name: 'new', targets: [{ pool: batch, weight: 1 }] })) }, scrapedPools: ['batch'] });
    expect(await text()).not.toMatch(/pool="chat"|10\.0\.0\.3/);
    expect(await metrics.value('fairlead_pool_info{pool="batch",cluster="batch-cluster",policy="session-affinity"}')).toBe(1);
    expect(await metrics.value('fairlead_engine_scrapes_total{pool="batch",outcome="ok"}')).toBe(0);
    // An endpoint that comes again begins at nothing.
    fleet.update([{ name: 'chat', endpoints: [define(second)] }], 70_000);
    metrics.follow();
    metrics.decided(routedTo(second));
    expect(await metrics.value(`fairlead_decisions_total{pool="chat",endpoint="${second}",reason="affinity-home"}`)).toBe(1);
  });

  it('bounds the endpoints of a pool that have series of their own', async () => {
    const addresses = Array.from({ length: 1_100 }, (_, i) => `10.0.${Math.floor(i / 250)}.${i % 250}:80`);
    const fleet = new FleetView([{ name: 'chat', endpoints: addresses.map(define) }]);
    const metrics = create({ fleet });
    for (const endpoint of fleet.pool('chat')!.endpoints) {
      endpoint.own.requests = 1;
      metrics.decided(routedTo(endpoint.address));
    }
    const countOf = async (name: string): Promise<number> => (await metrics.lines()).filter((line) => line.startsWith(`${name}{`)).length;
    expect(await countOf('fairlead_decisions_total')).toBe(1_001);
    expect(await countOf('fairlead_requests_in_flight')).toBe(1_001);
    expect(await metrics.value('fairlead_decisions_total{pool="chat",endpoint="other",reason="affinity-home"}')).toBe(100);
    expect(await metrics.value('fairlead_requests_in_flight{pool="chat",endpoint="other"}')).toBe(100);
  });

  it('counts reloads and looks for endpoints by what came of them', async () => {
    const metrics = create();
    const reload = (outcome: 'applied' | 'unchanged' | 'refused'): void => metrics.configReloaded({ outcome, cause: 'file', file: 'f', version: undefined, problems: [] });
    const success = (): Promise<number | undefined> => metrics.value('fairlead_config_last_reload_success');
    expect(await success()).toBe(1);
    reload('refused');
    expect(await success()).toBe(0);
    reload('refused');
    reload('unchanged');
    expect(await success()).toBe(1);
    expect(await metrics.value('fairlead_config_reloads_total{outcome="refused"}')).toBe(2);
    expect(await metrics.value('fairlead_config_reloads_total{outcome="applied"}')).toBe(0);
    metrics.discovered('chat', 'dns', 3);
    metrics.discoveryFailed('chat', 'dns', { source: 's', causes: [] });
    metrics.discoveryFailed('of-no-configuration', 'dns', { source: 's', causes: [] });
    expect(await metrics.value('fairlead_discovery_reads_total{pool="chat",source="dns",outcome="ok"}')).toBe(1);
    expect(await metrics.value('fairlead_discovery_reads_total{pool="chat",source="dns",outcome="failed"}')).toBe(1);
    expect((await metrics.lines()).join('\n')).not.toContain('of-no-configuration');
  });

  it('counts scrapes by outcome, and tells how old the oldest metrics are', async () => {
    const fleet = createFleet();
    let nowMs = 10_000;
    const metrics = create({ fleet, scraped: { pools: ['chat'], nowMs: () => nowMs } });
    expect(await metrics.value('fairlead_engine_scrapes_total{pool="chat",outcome="ok"}')).toBe(0);
    expect(await metrics.value('fairlead_engine_metrics_age_seconds{pool="chat"}')).toBeUndefined();
    expect(await metrics.value('fairlead_endpoints_without_engine_metrics{pool="chat"}')).toBe(2);
    metrics.metricsScraped('chat', first);
    metrics.metricsScraped('chat', first);
    metrics.scrapeFailed('chat', second, 'timeout', 'too late');
    metrics.scrapeFailed('of-no-configuration', second, 'timeout', 'too late');
    expect(await metrics.value('fairlead_engine_scrapes_total{pool="chat",outcome="ok"}')).toBe(2);
    expect(await metrics.value('fairlead_engine_scrapes_total{pool="chat",outcome="timeout"}')).toBe(1);
    expect((await metrics.lines()).join('\n')).not.toContain('of-no-configuration');
    const told = { requestsRunning: 1, requestsQueued: 0, kvUsage: 0, kvTokensMax: undefined, adapters: undefined, adaptersMax: undefined };
    fleet.pool('chat')!.endpoint(first)!.metrics = { ...told, scrapedMs: 8_000 };
    fleet.pool('chat')!.endpoint(second)!.metrics = { ...told, scrapedMs: 9_500 };
    expect(await metrics.value('fairlead_engine_metrics_age_seconds{pool="chat"}')).toBe(2);
    expect(await metrics.value('fairlead_endpoints_without_engine_metrics{pool="chat"}')).toBe(0);
    nowMs = 10_500;
    fleet.pool('chat')!.endpoint(first)!.metrics = undefined;
    expect(await metrics.value('fairlead_engine_metrics_age_seconds{pool="chat"}')).toBe(1);
    expect((await create().lines()).join('\n')).not.toMatch(/scrape|engine_metrics/);
  });

  it('counts changes of endpoints by the new state and its cause', async () => {
    const metrics = create();
    const change: EndpointChange = { pool: 'chat', address: first, from: 'ready', to: 'ejected', cause: 'failures', detail: 'x', by: undefined, atMs: 0, untilMs: 1 };
    metrics.endpointChanged(change);
    metrics.endpointChanged(change);
    metrics.endpointChanged({ ...change, to: undefined, cause: 'removed' });
    metrics.endpointChanged({ ...change, to: 'of-no-code' as 'ready', cause: 'neither' as 'calm' });
    expect(await metrics.value(`fairlead_endpoint_changes_total{${at},to="ejected",cause="failures"}`)).toBe(2);
    expect(await metrics.value(`fairlead_endpoint_changes_total{${at},to="gone",cause="removed"}`)).toBe(1);
    expect(await metrics.value(`fairlead_endpoint_changes_total{${at},to="other",cause="other"}`)).toBe(1);
  });

  it('counts the times that an endpoint should have been left out and stayed', async () => {
    const metrics = create();
    metrics.ejectionWithheld('chat', first, 'failures: last: status 500');
    metrics.ejectionWithheld('chat', second, 'failures: last: status 500');
    expect(await metrics.value('fairlead_ejections_withheld_total{pool="chat"}')).toBe(2);
  });

  it('counts probes by outcome, and how long those took that passed', async () => {
    const metrics = create();
    expect((await metrics.lines()).join('\n')).not.toMatch(/^fairlead_probe/m);
    metrics.probePassed('chat', first, 4);
    metrics.probePassed('chat', second, 30);
    metrics.probeFailed('chat', second, 'timeout', 'too late');
    metrics.probeFailed('of-no-configuration', second, 'timeout', 'too late');
    expect(await metrics.value('fairlead_probes_total{pool="chat",outcome="passed"}')).toBe(2);
    expect(await metrics.value('fairlead_probes_total{pool="chat",outcome="timeout"}')).toBe(1);
    expect(await metrics.value('fairlead_probes_total{pool="chat",outcome="model-missing"}')).toBe(0);
    expect(await metrics.value('fairlead_probe_duration_seconds_bucket{pool="chat",le="0.005"}')).toBe(1);
    expect(await metrics.value('fairlead_probe_duration_seconds_count{pool="chat"}')).toBe(2);
    expect(await metrics.value('fairlead_probe_duration_seconds_sum{pool="chat"}')).toBeCloseTo(0.034);
    expect((await metrics.lines()).join('\n')).not.toContain('of-no-configuration');
  });

  it('scores shadow policies: how often they agree, and how much sooner the better choice would have been', async () => {
    const shadowed = { ...pool, shadow: { policy: { name: 'other' } as Policy, sample: 1 } };
    const metrics = create({ table: { ...table, routes: table.routes.map((route) => ({ ...route, targets: [{ pool: shadowed, weight: 1 }] })) } });
    const tell = (shadow: Partial<ShadowComparison>, name = 'chat'): void => {
      const account = createAccount('* *', noFacts, undefined);
      const { decision } = routedTo(first);
      const comparison = { policy: 'other', outcome: 'differ' as const, address: second, reason: 'r', expectedTtftMs: undefined, ...shadow };
      account.considered.push({ pool: name, decision, promptTokens: 1, cachedTokens: new Map(), shadow: comparison });
      metrics.decisions.decided({ ...routedTo(first), account });
    };
    tell({ outcome: 'agree', expectedTtftMs: { live: 70, shadow: 70 } });
    tell({ expectedTtftMs: { live: 90, shadow: 30 } });
    tell({ expectedTtftMs: { live: 40, shadow: 20 } });
    tell({ expectedTtftMs: { live: 10, shadow: 15 } });
    tell({ outcome: 'failed' });
    tell({ outcome: 'differ' }, 'of-no-configuration');
    const of = (outcome: string): Promise<number | undefined> => metrics.value(`fairlead_shadow_decisions_total{pool="chat",policy="other",outcome="${outcome}"}`);
    expect([await of('agree'), await of('differ'), await of('failed'), await of('only-live')]).toEqual([1, 3, 1, 0]);
    const regret = (better: string, what: string): Promise<number | undefined> => metrics.value(`fairlead_shadow_regret_seconds_${what}{pool="chat",policy="other",better="${better}"}`);
    expect(await regret('shadow', 'sum')).toBeCloseTo(0.08, 12);
    expect(await regret('shadow', 'count')).toBe(2);
    expect(await regret('live', 'sum')).toBeCloseTo(0.005, 12);
    expect((await metrics.lines()).join('\n')).not.toContain('of-no-configuration');
  });

  it('counts lines that the decision log lost', async () => {
    const metrics = create();
    expect(await metrics.value('fairlead_decision_log_dropped_total')).toBe(0);
    metrics.decisionLineDropped();
    expect(await metrics.value('fairlead_decision_log_dropped_total')).toBe(1);
  });

  it('counts decisions, their time, prompt tokens and rejections', async () => {
    const metrics = create();
    metrics.decided(routedTo(first));
    metrics.decided(routedTo(first));
    metrics.decided(routedTo(second, { reason: 'affinity-diverted' }));
    expect(await metrics.value(`fairlead_decisions_total{${at},reason="affinity-home"}`)).toBe(2);
    expect(await metrics.value(`fairlead_decisions_total{pool="chat",endpoint="${second}",reason="affinity-diverted"}`)).toBe(1);
    expect(await metrics.value(`fairlead_prompt_tokens_total{${at}}`)).toBe(200);
    expect(await metrics.value('fairlead_endpoint_rejections_total{pool="chat",filter="ready",reason="draining"}')).toBe(3);
    expect(await metrics.value('fairlead_decision_duration_seconds_bucket{pool="chat",le="0.00001"}')).toBe(0);
    expect(await metrics.value('fairlead_decision_duration_seconds_bucket{pool="chat",le="0.000025"}')).toBe(3);
    expect(await metrics.value('fairlead_decision_duration_seconds_count{pool="chat"}')).toBe(3);
    expect(await metrics.value('fairlead_decision_duration_seconds_sum{pool="chat"}')).toBeCloseTo(6e-5, 12);
  });

  it('counts releases by ending and signal, statuses by class, and who really answered', async () => {
    const metrics = create();
    metrics.released('chat', first, { ending: 'finished', signal: 'access-log', status: 200, firstByteMs: 40, servedBy: first }, 2_500);
    metrics.released('chat', first, { ending: 'finished', signal: 'access-log', status: 204, servedBy: second }, 900);
    metrics.released('chat', first, { ending: 'upstream-failure', signal: 'access-log', status: 503 }, 10);
    metrics.released('chat', first, { ending: 'client-abort', signal: 'ext-proc', status: 0 }, 10);
    metrics.released('chat', first, { ending: 'expired', signal: 'timer' }, 1_800_000);
    metrics.released('chat', first, { ending: 'not-proxied', signal: 'timer' }, 5_100);
    expect(await metrics.value(`fairlead_requests_released_total{${at},ending="finished",signal="access-log"}`)).toBe(2);
    expect(await metrics.value(`fairlead_requests_released_total{${at},ending="upstream-failure",signal="access-log"}`)).toBe(1);
    expect(await metrics.value(`fairlead_requests_released_total{${at},ending="expired",signal="timer"}`)).toBe(1);
    expect(await metrics.value(`fairlead_responses_total{${at},status_class="2xx"}`)).toBe(2);
    expect(await metrics.value(`fairlead_responses_total{${at},status_class="5xx"}`)).toBe(1);
    expect(await metrics.value(`fairlead_responses_total{${at},status_class="other"}`)).toBe(1);
    expect(await metrics.value(`fairlead_served_elsewhere_total{${at}}`)).toBe(1);
    expect(await metrics.value(`fairlead_upstream_first_byte_seconds_bucket{${at},le="0.05"}`)).toBe(1);
    // What the clock ended was never observed to take any time.
    expect(await metrics.value(`fairlead_request_duration_seconds_count{${at}}`)).toBe(4);
    expect(await metrics.value(`fairlead_request_duration_seconds_bucket{${at},le="1"}`)).toBe(3);
    expect(await metrics.value(`fairlead_request_duration_seconds_bucket{${at},le="5"}`)).toBe(4);
    expect(await metrics.value(`fairlead_request_duration_seconds_sum{${at}}`)).toBeCloseTo(3.42, 9);
  });

  it('measures the first token and the answer, in buckets that fit', async () => {
    const metrics = create();
    metrics.firstToken('chat', first, 120);
    metrics.firstToken('chat', first, 61_000);
    metrics.answered('headers', 0.06);
    metrics.answered('body', 3);
    expect(await metrics.value(`fairlead_time_to_first_token_seconds_bucket{${at},le="0.1"}`)).toBe(0);
    expect(await metrics.value(`fairlead_time_to_first_token_seconds_bucket{${at},le="0.2"}`)).toBe(1);
    expect(await metrics.value(`fairlead_time_to_first_token_seconds_bucket{${at},le="60"}`)).toBe(1);
    expect(await metrics.value(`fairlead_time_to_first_token_seconds_bucket{${at},le="+Inf"}`)).toBe(2);
    expect(await metrics.value('fairlead_answer_latency_seconds_bucket{phase="headers",le="0.00005"}')).toBe(0);
    expect(await metrics.value('fairlead_answer_latency_seconds_bucket{phase="headers",le="0.0001"}')).toBe(1);
    expect(await metrics.value('fairlead_answer_latency_seconds_bucket{phase="body",le="0.005"}')).toBe(1);
  });

  it('counts requests that went to a fallback, by route; routes that nobody configured count as one', async () => {
    const metrics = create();
    metrics.decided(routedTo(first));
    metrics.decided({ ...routedTo(first), isFallback: true });
    metrics.decided({ ...routedTo(first), isFallback: true, route: 'made up' });
    expect(await metrics.value('fairlead_fallbacks_total{route="* *",pool="chat"}')).toBe(1);
    expect(await metrics.value('fairlead_fallbacks_total{route="other",pool="chat"}')).toBe(1);
  });

  it('counts what happens on streams', async () => {
    const metrics = create();
    metrics.streamOpened();
    metrics.streamOpened();
    metrics.streamOpened();
    metrics.streamClosed('let-go');
    metrics.message('request_headers');
    metrics.message('unknown');
    metrics.refused('overloaded', 'chat');
    metrics.refused('route_not_found', undefined);
    metrics.refused('overloaded', 'of-no-configuration');
    metrics.bodyUnusable('compressed');
    metrics.sessionCookie('unsent');
    metrics.failed(new Error('x'));
    metrics.accessLogRecords(5, 2);
    metrics.unknownLease();
    metrics.foreignReport('b', true);
    metrics.foreignReport('b', false);
    metrics.foreignReport('c', false);
    const expected = {
      fairlead_streams_opened_total: 3,
      fairlead_streams_open: 2,
      'fairlead_streams_closed_total{ending="let-go"}': 1,
      'fairlead_stream_messages_total{phase="request_headers"}': 1,
      'fairlead_stream_messages_total{phase="other"}': 1,
      'fairlead_refusals_total{pool="chat",code="overloaded"}': 1,
      'fairlead_refusals_total{pool="",code="route_not_found"}': 1,
      'fairlead_refusals_total{pool="other",code="overloaded"}': 1,
      'fairlead_bodies_unusable_total{cause="compressed"}': 1,
      fairlead_internal_errors_total: 1,
      fairlead_access_log_records_total: 5,
      fairlead_access_log_records_without_lease_total: 2,
      fairlead_unknown_leases_total: 1,
      'fairlead_foreign_reports_total{outcome="forwarded"}': 1,
      'fairlead_foreign_reports_total{outcome="lost"}': 2,
    };
    for (const [series, count] of Object.entries(expected)) expect([series, await metrics.value(series)]).toEqual([series, count]);
  });

  it('shows what can happen at 0 before it happens', async () => {
    const metrics = create();
    expect(await metrics.value('fairlead_refusals_total{pool="chat",code="overloaded"}')).toBe(0);
    expect(await metrics.value('fairlead_foreign_reports_total{outcome="lost"}')).toBe(0);
    expect(await metrics.value('fairlead_streams_closed_total{ending="internal-error"}')).toBe(0);
    expect(await metrics.value('fairlead_internal_errors_total')).toBe(0);
  });

  it('reads load and state off the fleet when it is scraped', async () => {
    const fleet = createFleet();
    const metrics = create({ fleet });
    expect(await metrics.value(`fairlead_requests_in_flight{${at}}`)).toBe(0);
    const endpoint = fleet.pool('chat')!.endpoint(first)!;
    Object.assign(endpoint.own, { requests: 2, promptTokens: 30, requestsWaiting: 1, uncachedTokensWaiting: 10 });
    Object.assign(endpoint.foreign, { requests: 5, promptTokens: 70, requestsWaiting: 0, uncachedTokensWaiting: 0 });
    endpoint.state = 'ejected';
    expect(await metrics.value(`fairlead_requests_in_flight{${at}}`)).toBe(2);
    expect(await metrics.value(`fairlead_prompt_tokens_in_flight{${at}}`)).toBe(30);
    expect(await metrics.value(`fairlead_uncached_tokens_waiting{${at}}`)).toBe(10);
    expect(await metrics.value(`fairlead_fleet_requests_in_flight{${at}}`)).toBe(7);
    expect(await metrics.value(`fairlead_endpoint_state{${at},state="ejected"}`)).toBe(1);
    expect(await metrics.value(`fairlead_endpoint_state{${at},state="ready"}`)).toBe(0);
  });

  it('says how many pools miss their first tokens, until one comes or the pool is gone', async () => {
    const fleet = createFleet();
    const metrics = create({ fleet });
    expect(await metrics.value('fairlead_first_tokens_missing')).toBe(0);
    metrics.noFirstToken('chat', 50);
    metrics.noFirstToken('chat', 50);
    expect(await metrics.value('fairlead_first_tokens_missing')).toBe(1);
    metrics.firstToken('chat', first, 100);
    expect(await metrics.value('fairlead_first_tokens_missing')).toBe(0);

    metrics.released('chat', first, { ending: 'finished', signal: 'access-log' }, 5);
    metrics.noFirstToken('chat', 50);
    fleet.update([], 0);
    for (const nowMs of [1, 2, 60_000]) fleet.sweep(nowMs, 0);
    metrics.follow();
    expect(await metrics.value('fairlead_first_tokens_missing')).toBe(0);
  });

  it('says that no end is reported, until one is', async () => {
    const metrics = create();
    expect(await metrics.value('fairlead_completion_signal_missing')).toBe(0);
    metrics.noCompletionSignal(50);
    expect(await metrics.value('fairlead_completion_signal_missing')).toBe(1);
    metrics.released('chat', first, { ending: 'expired', signal: 'timer' }, 1);
    expect(await metrics.value('fairlead_completion_signal_missing')).toBe(1);
    metrics.released('chat', first, { ending: 'finished', signal: 'access-log' }, 1);
    expect(await metrics.value('fairlead_completion_signal_missing')).toBe(0);
  });

  it('shows the age of shared state only where state is shared', async () => {
    let ageMs: number | undefined;
    const metrics = create({ snapshotAgeMs: () => ageMs });
    expect(await metrics.value('fairlead_exchange_snapshot_age_seconds')).toBeUndefined();
    ageMs = 250;
    expect(await metrics.value('fairlead_exchange_snapshot_age_seconds')).toBe(0.25);
    ageMs = undefined;
    expect(await metrics.value('fairlead_exchange_snapshot_age_seconds')).toBeUndefined();
  });

  it('tells how the exchange with other routers stands', async () => {
    const metrics = create();
    const trouble = { code: 'unreachable', message: 'Nobody answers.', permanent: false };
    metrics.exchangeTrouble(trouble);
    metrics.exchangeDropped();
    metrics.exchangeDropped();
    metrics.pushingChanged(false);
    expect(await metrics.value('fairlead_exchange_troubles_total{code="unreachable"}')).toBe(1);
    expect(await metrics.value('fairlead_exchange_in_trouble')).toBe(1);
    expect(await metrics.value('fairlead_exchange_dropped_total')).toBe(2);
    expect(await metrics.value('fairlead_exchange_snapshots_only')).toBe(1);
    metrics.exchangeRecovered();
    metrics.pushingChanged(true);
    expect(await metrics.value('fairlead_exchange_in_trouble')).toBe(0);
    expect(await metrics.value('fairlead_exchange_snapshots_only')).toBe(0);
  });

  it('tells version, clusters and policies', async () => {
    const metrics = create();
    expect(await metrics.value('fairlead_build_info{version="1.2.3"}')).toBe(1);
    expect(await metrics.value('fairlead_pool_info{pool="chat",cluster="chat-cluster",policy="session-affinity"}')).toBe(1);
  });

  it('grows by no input: unknown names share `other`, made-up codes are counted out', async () => {
    const metrics = create();
    for (let i = 0; i < 5_000; i += 1) {
      const name = `made-up-${i}`;
      metrics.decided(routedTo(first, { reason: name }));
      metrics.decided(routedTo(first, { filter: name, why: name }));
      metrics.decided(routedTo(name));
      metrics.decided(routedTo(first, { name }));
      metrics.released(name, name, { ending: 'finished', signal: 'access-log', status: i }, 1);
      metrics.released('chat', first, { ending: name as 'finished', signal: name as 'timer' }, 1);
      metrics.firstToken('chat', name, 1);
      metrics.refused(name as 'overloaded', undefined);
      metrics.message(name);
      metrics.answered(name as 'body', 1);
      metrics.bodyUnusable(name);
      metrics.sessionCookie(name as 'set');
      metrics.streamClosed(name as 'completed');
      metrics.foreignReport(name, false);
    }
    const lines = await metrics.lines();
    expect(lines.length).toBeLessThan(700);
    expect(await metrics.value(`fairlead_decisions_total{${at},reason="other"}`)).toBe(5_000 - 64 + 1);
    expect(await metrics.value('fairlead_refusals_total{pool="",code="other"}')).toBe(5_000);
    expect(await metrics.value('fairlead_decisions_total{pool="chat",endpoint="other",reason="affinity-home"}')).toBe(5_000);
  });

  it('follows the naming conventions, with help on every metric and no metric twice', async () => {
    const { registry } = create();
    const text = await registry.metrics();
    const types = new Map([...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name!, type!]));
    expect(types.size).toBeGreaterThan(20);
    expect(text.match(/^# TYPE /gm)).toHaveLength(types.size);
    for (const [name, type] of types) {
      expect(name).toMatch(/^fairlead_[a-z_]+$/);
      if (type === 'counter') expect(name).toMatch(/_total$/);
      else expect(name).not.toMatch(/_total$/);
      if (type === 'histogram') expect(name).toMatch(/_(seconds|bytes)$/);
      expect(text).toMatch(new RegExp(`^# HELP ${name} \\S.+\\.$`, 'm'));
    }
  });

  it('writes histograms whose buckets rise and end in the count', async () => {
    const metrics = create();
    for (const ms of [1, 50, 700, 5_000, 1e9, Number.NaN, -1, Number.POSITIVE_INFINITY]) metrics.firstToken('chat', first, ms);
    const buckets = (await metrics.lines()).filter((line) => line.startsWith(`fairlead_time_to_first_token_seconds_bucket{${at}`)).map((line) => Number(line.split(' ').at(-1)));
    expect(buckets).toEqual([...buckets].sort((a, b) => a - b));
    expect(buckets.at(-1)).toBe(5);
    expect(await metrics.value(`fairlead_time_to_first_token_seconds_count{${at}}`)).toBe(5);
  });

  it('keeps to its own registry, and adds what the process tells', async () => {
    const metrics = create({ processMetrics: 'all' });
    create({ processMetrics: 'all' });
    expect(globalRegistry.getMetricsAsArray()).toEqual([]);
    const text = await metrics.registry.metrics();
    expect(text).toMatch(/^process_resident_memory_bytes \d+/m);
    expect(text).toMatch(/^nodejs_eventloop_utilization_ratio [\d.e-]+$/m);
    expect(text).not.toContain('nodejs_eventloop_lag_p99_seconds');
    // A second scrape reads counters that were set by the first.
    expect(await metrics.registry.metrics()).toMatch(/^process_cpu_seconds_total [\d.]+$/m);
  });
});

describe('Observations', () => {
  it.each([
    [0, [1, 0, 0]],
    [1, [1, 0, 0]],
    [1.0001, [0, 1, 0]],
    [2, [0, 1, 0]],
    [2.0001, [0, 0, 1]],
  ])('%d falls into the first bucket that is no less', (value, counts) => {
    const observations = new Observations([1, 2]);
    observations.observe(value);
    expect(observations.counts).toEqual(counts);
  });
});

describe('Series', () => {
  it('makes each once', () => {
    const made: string[] = [];
    const series = new Series((value) => made.push(value), ['a', 'b'], 1);
    for (const value of ['a', 'x', 'y', 'other', 'a', 'x', 'z', 'b', 'y']) series.of(value);
    expect(made).toEqual(['a', 'x', 'other', 'b']);
  });
});
