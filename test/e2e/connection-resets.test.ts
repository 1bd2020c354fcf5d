import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { HttpClient, inParallel, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { failuresIn, noteFailures } from './shared-envoy.ts';

// Envoy resets each ext_proc stream. HTTP/2 servers count resets and cut a connection with too many (Node: 1000, then 33 a second), and
// with it the requests on it: nothing below some thousand requests on one connection shows that.
const requests = 6_000;
const concurrency = 48;

describe.each([
  ['half-closes streams (graceful guard on)', true],
  ['resets streams (graceful guard off)', false],
])('one ext_proc connection of an Envoy that %s', (_title, gracefulClose) => {
  const parts = new RunningParts();
  let servers: ModelServer[];
  let fairlead: FairleadProcess;
  let envoy: EnvoyProcess;
  let client: HttpClient;

  beforeAll(async () => {
    servers = await parts.addModelServers(2);
    const endpoints = servers.map(({ address }) => address);
    fairlead = await parts.add(
      startFairlead({ pools: [{ name: 'chat', policy: { preset: 'session-affinity' }, endpoints: endpoints.map((address) => ({ address })) }] }),
    );
    // What is tested is the connection; a busy machine's pauses are not.
    const config = renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [fairlead.address], gracefulClose, messageTimeoutMs: 10_000 });
    envoy = await parts.add(startEnvoy({ config: noteFailures(config), concurrency: 1 }));
    client = await parts.add(Promise.resolve(new HttpClient(envoy.url, concurrency)));
  });
  afterAll(() => parts.stop());

  it(`carries ${requests} requests without a failure`, async () => {
    const outcomes: string[] = [];
    const body = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hello' }] });
    await inParallel(requests, concurrency, async (i) => {
      // Half are decided on headers, half ask for the body by mode_override first.
      const headers: Record<string, string> = { 'content-type': 'application/json' };
      if (i % 2 === 0) headers['x-session-id'] = `s${i % 64}`;
      const answer = await client.send({ path: '/echo/v1/chat/completions', headers, body });
      outcomes.push(answer.servedBy === undefined ? `${answer.status} ${answer.body.toString()}` : String(answer.status));
    });
    expect(tally(outcomes), failuresIn(envoy.log())).toEqual({ '200': requests });

    const stats = await envoy.stats('^cluster\\.fairlead\\.|ext_proc');
    // One connection, still the first, for processing and access log together.
    expect(stats).toMatchObject({
      'cluster.fairlead.upstream_cx_total': 1,
      'cluster.fairlead.upstream_cx_active': 1,
      'cluster.fairlead.upstream_rq_retry': 0,
      'cluster.fairlead.upstream_cx_destroy': 0,
      'http.llm.ext_proc.streams_started': requests,
      'http.llm.ext_proc.streams_failed': 0,
      'http.llm.ext_proc.failure_mode_allowed': 0,
      'http.llm.ext_proc.message_timeouts': 0,
      'http.llm.ext_proc.spurious_msgs_received': 0,
      'http.llm.ext_proc.rejected_header_mutations': 0,
    });
    expect(await fairlead.metric('fairlead_decisions_total')).toBe(requests);
    expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
    expect(await fairlead.metric('fairlead_requests_released_total', { ending: 'finished', signal: 'access-log' })).toBe(requests);
    expect(servers.reduce((sum, { control }) => sum + control.stats().otherRequests, 0)).toBe(requests);
  });
});
