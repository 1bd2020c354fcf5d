import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { HttpClient, inParallel, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

const sessions = 100;
const turns = 10;
const secret = 'one per fleet';

/** Where a session key is told. */
const places: readonly ((key: string) => { headers?: Record<string, string>; fields?: Record<string, string> })[] = [
  (key) => ({ headers: { 'x-session-id': key } }),
  (key) => ({ headers: { cookie: `theme=dark; fairlead-session=${key}; lang=en` } }),
  (key) => ({ fields: { prompt_cache_key: key } }),
  (key) => ({ fields: { user: key } }),
];

interface Gateway {
  readonly fairlead: FairleadProcess;
  readonly envoy: EnvoyProcess;
  readonly client: HttpClient;
}

const parts = new RunningParts();
let servers: ModelServer[];
let addresses: string[];

beforeAll(async () => {
  servers = await parts.addModelServers(5);
  addresses = servers.map(({ address }) => address);
});
afterAll(() => parts.stop());

/** Fairlead and Envoy of their own, for the running test alone. */
async function startGateway(endpoints: readonly string[], affinitySecret: string, parameters: object): Promise<Gateway> {
  const own = new RunningParts();
  onTestFinished(() => own.stop());
  const fairlead = await own.add(
    startFairlead({
      affinity: { secret: affinitySecret },
      pools: [{ name: 'chat', policy: { preset: 'session-affinity', parameters }, endpoints: endpoints.map((address) => ({ address })) }],
    }),
  );
  const config = renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [fairlead.address], messageTimeoutMs: 10_000 });
  const envoy = await own.add(startEnvoy({ config }));
  return { fairlead, envoy, client: await own.add(Promise.resolve(new HttpClient(envoy.url, 32))) };
}

async function sendTurn({ client }: Gateway, session: number, turn: number): Promise<string> {
  const { headers = {}, fields = {} } = places[session % places.length]!(`session-${session}`);
  // Conversations grow.
  const messages = Array.from({ length: 1 + 2 * turn }, (_, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content: `words of turn ${i} in session ${session}` }));
  const body = JSON.stringify({ model: 'm', ...fields, messages });
  const answer = await client.send({ path: '/echo/v1/chat/completions', headers: { 'content-type': 'application/json', ...headers }, body });
  expect(answer.status).toBe(200);
  return answer.servedBy ?? 'nobody';
}

/** The endpoints that each session was on, turns one after the other, `concurrency` sessions at a time. */
async function play(gateway: Gateway, turnsEach: number, concurrency: number): Promise<string[][]> {
  const seen: string[][] = Array.from({ length: sessions }, () => []);
  await inParallel(sessions, concurrency, async (session) => {
    for (let turn = 0; turn < turnsEach; turn += 1) seen[session]!.push(await sendTurn(gateway, session, turn));
  });
  return seen;
}

describe(`${sessions} sessions of ${turns} turns over 5 endpoints`, () => {
  // So much slack that all stay within the bound, however long a busy machine takes to report their ends.
  const within = { slackRequests: 1_000 };
  let homes: string[];

  it('each stays on one endpoint, and every endpoint has its share', async () => {
    const first = await startGateway(addresses, secret, within);
    const seen = await play(first, turns, 8);
    const moved = seen.flatMap((endpoints, session) => (new Set(endpoints).size === 1 ? [] : [`session ${session}: ${endpoints.join(' ')}`]));
    expect(moved).toEqual([]);
    homes = seen.map(([home]) => home!);
    const shares = tally(homes);
    expect(Object.keys(shares).sort()).toEqual([...addresses].sort());
    // 20 are expected; with one chance in a million it is fewer than 4 or more than 42.
    for (const share of Object.values(shares)) {
      expect(share).toBeGreaterThanOrEqual(4);
      expect(share).toBeLessThanOrEqual(42);
    }
    expect(await first.fairlead.metric('fairlead_decisions_total', { reason: 'affinity-home' })).toBeGreaterThan(0);
    expect(await first.fairlead.metric('fairlead_decisions_total', { reason: 'affinity-diverted' })).toBe(0);
    expect(await first.fairlead.metric('fairlead_decisions_total', { reason: 'no-session' })).toBe(0);
    expect(await first.fairlead.metric('fairlead_decisions_total')).toBe(sessions * turns);
    await expect.poll(() => first.fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
  });

  it('another Fairlead with the same secret puts each on the same endpoint; with another secret it does not', async () => {
    const [same, other] = await Promise.all([startGateway(addresses, secret, within), startGateway(addresses, 'of another fleet', within)]);
    expect((await play(same, 1, 8)).map(([home]) => home)).toEqual(homes);
    const elsewhere = (await play(other, 1, 8)).filter(([home], session) => home !== homes[session]);
    // Four of five are expected.
    expect(elsewhere.length).toBeGreaterThan(sessions / 2);
  });

  it('without one endpoint, only its sessions move, and to all the others', async () => {
    const removed = addresses[2]!;
    const left = addresses.filter((address) => address !== removed);
    const smaller = await startGateway(left, secret, within);
    const after = await play(smaller, 2, 8);
    const staying = homes.flatMap((home, session) => (home === removed ? [] : [session]));
    expect(staying.map((session) => after[session])).toEqual(staying.map((session) => [homes[session], homes[session]]));
    const moved = homes.flatMap((home, session) => (home === removed ? [after[session]!] : []));
    expect(moved.length).toBeGreaterThan(0);
    for (const [to, again] of moved) {
      expect(left).toContain(to);
      expect(again).toBe(to);
    }
    expect(new Set(moved.map(([to]) => to)).size).toBeGreaterThan(1);
  });
});

it('a session whose endpoint is gone is served by the next of its preference, in one request', async () => {
  const gateway = await startGateway(addresses, secret, {});
  const ask = async (): Promise<{ servedBy: string | undefined; told: string[] }> => {
    const answer = await gateway.client.send({ path: '/headers', headers: { 'x-session-id': 'one' } });
    expect(answer.status).toBe(200);
    const told = (JSON.parse(answer.body.toString()) as Record<string, string>)['x-gateway-destination-endpoint'] ?? '';
    return { servedBy: answer.servedBy, told: told.split(',') };
  };
  const { servedBy, told } = await ask();
  expect(servedBy).toBe(told[0]);
  expect([...told].sort()).toEqual([...addresses].sort());
  const home = servers.find(({ address }) => address === told[0])!;
  await home.control.set({ mode: 'refuse' });
  expect(await ask()).toEqual({ servedBy: told[1], told });
  await home.control.set({ mode: 'ok' });
  await expect.poll(() => gateway.fairlead.metric('fairlead_served_elsewhere_total'), { timeout: 5_000 }).toBe(1);
});

it('requests of one session spread when its home is at the bound, and no endpoint goes above it', async () => {
  const gateway = await startGateway(addresses, secret, { load: 'requests', bound: 1.25, slackRequests: 2 });
  const headers = { 'x-session-id': 'a busy one', 'content-type': 'application/json' };
  const inFlight = async (): Promise<number[]> => (await gateway.fairlead.fleet()).pools[0]!.endpoints.map(({ requestsInFlight }) => requestsInFlight);
  const call = { path: '/v1/chat/completions', headers, body: '{"messages":[{"role":"user","content":"hello"}]}' };
  await Promise.all(servers.map(({ control }) => control.set({ mode: 'hang' })));
  const abort = new AbortController();
  const held: Promise<unknown>[] = [];
  for (let i = 1; i <= 20; i += 1) {
    held.push(fetch(gateway.envoy.url + call.path, { method: 'POST', headers, body: call.body, signal: abort.signal }).catch(() => undefined));
    await expect.poll(async () => (await inFlight()).reduce((sum, count) => sum + count, 0), { timeout: 5_000, interval: 10 }).toBe(i);
    const mean = i / 5;
    expect(Math.max(...(await inFlight()))).toBeLessThanOrEqual(Math.max(1.25 * mean, mean + 2));
  }
  // Of 20, an endpoint may carry 6.
  expect((await inFlight()).filter((count) => count > 0).length).toBeGreaterThanOrEqual(4);
  expect(await gateway.fairlead.metric('fairlead_decisions_total', { reason: 'affinity-diverted' })).toBeGreaterThan(0);
  abort.abort();
  await Promise.all(held);
  await Promise.all(servers.map(({ control }) => control.set({ mode: 'ok' })));
  await expect.poll(() => gateway.fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
});
