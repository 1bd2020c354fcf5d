import { afterAll, beforeAll, it } from 'vitest';
import { renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import type { EndpointReport } from '../../src/admin/fleet-report.ts';
import { HttpClient, inParallel, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

// Envoy tries 500, 502 and 503 again elsewhere: clients never see the failure, and only the count of attempts tells of it.
const cases = [
  { pool: 'fails-503', about: '503, which Envoy retries', failStatus: 503, statuses: { '200': 60 } },
  { pool: 'fails-504', about: '504, which it does not', failStatus: 504, statuses: undefined },
] as const;
type PoolName = (typeof cases)[number]['pool'];

const parts = new RunningParts();
/** Of each pool: one in order, one several times slower, one that fails at once. */
const servers = {} as Record<PoolName, [fast: ModelServer, slow: ModelServer, broken: ModelServer]>;
let fairlead: FairleadProcess;
let client: HttpClient;

beforeAll(async () => {
  for (const { pool, failStatus } of cases) {
    servers[pool] = (await parts.addModelServers(3, { timeScale: 2 })) as (typeof servers)[PoolName];
    const [, slow, broken] = servers[pool];
    await slow.control.set({ slowFactor: 8 });
    await broken.control.set({ mode: 'fail', failStatus });
  }
  const names = cases.map(({ pool }) => pool);
  fairlead = await parts.add(
    startFairlead({
      pools: names.map((name) => ({ name, policy: { preset: 'least-latency' }, endpoints: servers[name].map(({ address }) => ({ address })) })),
      routes: names.map((name) => ({ match: { model: name }, targets: [{ pool: name }] })),
    }),
  );
  const clusters = Object.fromEntries(names.map((name) => [name, servers[name].map(({ address }) => address)]));
  const envoy = await parts.add(startEnvoy({ config: renderEnvoyConfig({ clusters, fairlead: [fairlead.address], messageTimeoutMs: 10_000 }) }));
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 12)));
});
afterAll(() => parts.stop());

/** Statuses, and which servers answered, of so many streamed requests to a pool, some at a time. */
async function send(pool: PoolName, count: number, atOnce: number): Promise<{ statuses: Record<string, number>; servedBy: Record<string, number> }> {
  const statuses: string[] = [];
  const servedBy: string[] = [];
  await inParallel(count, atOnce, async (i) => {
    const body = JSON.stringify({ model: pool, stream: true, max_tokens: 40, ignore_eos: true, messages: [{ role: 'user', content: `question ${i} ${'word '.repeat(200)}` }] });
    const answer = await client.send({ path: '/v1/chat/completions', headers: { 'content-type': 'application/json', 'x-model': pool }, body });
    statuses.push(String(answer.status));
    servedBy.push(answer.servedBy ?? 'nobody');
  });
  return { statuses: tally(statuses), servedBy: tally(servedBy) };
}

async function latency(server: ModelServer): Promise<EndpointReport['latency']> {
  const { pools } = (await fairlead.fleet()) as unknown as { pools: { endpoints: EndpointReport[] }[] };
  return pools.flatMap(({ endpoints }) => endpoints).find(({ address }) => address === server.address)?.latency ?? null;
}

// Each in a pool of its own, at the same time.
it.concurrent.for(cases)('least-latency measures what is, avoids the slow one, and does not take one for fast that fails at once with $about', async ({ pool, statuses }, { expect }) => {
  const [fast, slow, broken] = servers[pool];
  // Two for each server: who is not known counts as typical, and is not asked while the fast one has nobody waiting.
  const first = await send(pool, 60, 6);
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

  const { statuses: later, servedBy } = await send(pool, 60, 2);
  expect(later).toEqual({ '200': 60 });
  expect(servedBy[fast.address] ?? 0).toBeGreaterThan(40);
});
