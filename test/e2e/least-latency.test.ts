import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import type { EndpointReport } from '../../src/admin/fleet-report.ts';
import { HttpClient, inParallel, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

// Three servers: one in order, one several times slower, one that fails at once.
let parts: RunningParts;
let fast: ModelServer;
let slow: ModelServer;
let broken: ModelServer;
let fairlead: FairleadProcess;
let client: HttpClient;

// A router of their own for each test: what one measured would help the next.
beforeEach(async () => {
  parts = new RunningParts();
  const servers = await parts.addModelServers(3, { timeScale: 2 });
  [fast, slow, broken] = servers as [ModelServer, ModelServer, ModelServer];
  await slow.control.set({ slowFactor: 8 });
  const addresses = servers.map(({ address }) => address);
  fairlead = await parts.add(
    startFairlead({ pools: [{ name: 'chat', policy: { preset: 'least-latency' }, endpoints: addresses.map((address) => ({ address })) }] }),
  );
  const config = renderEnvoyConfig({ clusters: { chat: addresses }, fairlead: [fairlead.address], messageTimeoutMs: 10_000 });
  const envoy = await parts.add(startEnvoy({ config }));
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 8)));
});
afterEach(() => parts.stop());

/** Statuses, and which servers answered, of so many streamed requests, two at a time. */
async function send(count: number): Promise<{ statuses: Record<string, number>; servedBy: Record<string, number> }> {
  const statuses: string[] = [];
  const servedBy: string[] = [];
  await inParallel(count, 2, async (i) => {
    const body = JSON.stringify({ model: 'm', stream: true, max_tokens: 40, ignore_eos: true, messages: [{ role: 'user', content: `question ${i} ${'word '.repeat(200)}` }] });
    const answer = await client.send({ path: '/v1/chat/completions', headers: { 'content-type': 'application/json', 'x-model': 'm' }, body });
    statuses.push(String(answer.status));
    servedBy.push(answer.servedBy ?? 'nobody');
  });
  return { statuses: tally(statuses), servedBy: tally(servedBy) };
}

async function latency(server: ModelServer): Promise<EndpointReport['latency']> {
  const { pools } = (await fairlead.fleet()) as unknown as { pools: { endpoints: EndpointReport[] }[] };
  return pools[0]?.endpoints.find(({ address }) => address === server.address)?.latency ?? null;
}

describe.each([
  // Envoy tries 500, 502 and 503 again elsewhere: clients never see the failure, and only the count of attempts tells of it.
  ['503, which Envoy retries', 503, { '200': 60 }],
  ['504, which it does not', 504, undefined],
])('least-latency, with an endpoint that fails at once with %s', (_, failStatus, statuses) => {
  it('measures what is, avoids the slow one, and does not take the broken one for fast', async () => {
    await broken.control.set({ mode: 'fail', failStatus });
    const first = await send(60);
    if (statuses === undefined) expect(first.statuses['504']).toBeGreaterThan(0);
    else expect(first.statuses).toEqual(statuses);
    await expect.poll(async () => (await latency(broken))?.failureShare, { timeout: 10_000 }).toBe(1);
    expect((await latency(broken))?.ttftMs ?? null).toBeNull();

    const [ofFast, ofSlow] = [await latency(fast), await latency(slow)];
    expect([ofFast?.failureShare, ofSlow?.failureShare]).toEqual([0, 0]);
    expect(ofSlow!.ttftMs!.mean).toBeGreaterThan(2 * ofFast!.ttftMs!.mean);
    // 40 tokens at about 4 ms, at twice the speed; of the slow one eight times that. Measured from bytes, so only roughly.
    expect(ofFast!.tpotMs!.mean).toBeGreaterThan(0.5);
    expect(ofSlow!.tpotMs!.mean).toBeGreaterThan(2 * ofFast!.tpotMs!.mean);

    const { statuses: later, servedBy } = await send(60);
    expect(later).toEqual({ '200': 60 });
    expect(servedBy[fast.address] ?? 0).toBeGreaterThan(40);
  });
});
