import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { type Call, HttpClient, inParallel, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { withListeners } from './shared-envoy.ts';

// Endpoints with several data-parallel ranks: each rank is chosen like an endpoint, and told in a header.
const rankHeader = 'x-data-parallel-rank';

const parts = new RunningParts();
let servers: ModelServer[];
/** Four ranks, two ranks, none. */
let four: string;
let two: string;
let none: string;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients: HttpClient[] = [];

beforeAll(async () => {
  servers = await parts.addModelServers(3);
  [four, two, none] = servers.map(({ address }) => address) as [string, string, string];
  const endpoints = [{ address: four, dpSize: 4 }, { address: two, dpSize: 2 }, { address: none }];
  fairlead = await parts.add(
    startFairlead({
      affinity: { secret: 'one per fleet' },
      pools: [
        // What Envoy retries is looked at request by request: nobody is to be ejected meanwhile.
        { name: 'in-turn', cluster: 'all', policy: { preset: 'round-robin' }, health: { passive: false }, endpoints },
        { name: 'by-session', cluster: 'all', policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } }, endpoints },
        { name: 'capped', cluster: 'all', policy: { preset: 'round-robin' }, endpoints: [{ address: two, dpSize: 2, limits: { requests: 1 } }] },
      ],
      routes: ['in-turn', 'by-session', 'capped'].map((pool) => ({ match: { model: pool }, targets: [{ pool }] })),
    }),
  );
  const shared = { clusters: { all: [four, two, none] }, fairlead: [fairlead.address], messageTimeoutMs: 20_000 };
  envoy = await parts.add(
    startEnvoy({
      config: withListeners({
        'asks by mode_override': renderEnvoyConfig(shared),
        'sends everything in full duplex': renderEnvoyConfig({ ...shared, bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED' }),
        // Then the processor alone keeps the client's copies away.
        'strips nothing': renderEnvoyConfig({ ...shared, strip: false }),
      }),
    }),
  );
  for (const listener of ['asks by mode_override', 'sends everything in full duplex', 'strips nothing']) {
    clients.push(await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(listener)}`, 16))));
  }
});
afterAll(() => parts.stop());

/** Where a request went: the endpoint that answered, and the rank that it was told. */
async function where(client: HttpClient, headers: NonNullable<Call['headers']>): Promise<string> {
  const answer = await client.send({ path: '/headers', headers });
  expect(answer.status).toBe(200);
  const received = JSON.parse(answer.body.toString()) as Record<string, string>;
  const told = received['x-gateway-destination-endpoint']?.split(',') ?? [];
  expect(told[0]).toBe(answer.servedBy);
  // Envoy is told `ip:port`, none twice.
  for (const address of told) expect([four, two, none]).toContain(address);
  expect(new Set(told).size).toBe(told.length);
  const rank = received[rankHeader];
  return rank === undefined ? answer.servedBy! : `${answer.servedBy!}#${rank}`;
}

const allRanks = (): string[] => [...[0, 1, 2, 3].map((rank) => `${four}#${rank}`), `${two}#0`, `${two}#1`, none];

/** A rank that the client would like to have, in several spellings. */
const spoofs: Readonly<Record<string, readonly (readonly [string, string])[]>> = {
  none: [],
  'a valid one': [[rankHeader, '1']],
  'in capitals': [['X-Data-Parallel-Rank', '1']],
  twice: [
    [rankHeader, '1'],
    [rankHeader, '2'],
  ],
  'one that no endpoint has': [[rankHeader, '99']],
};

describe.each([0, 1, 2])('through listener %i', (listener) => {
  it('requests go to every rank alike, and to an endpoint without ranks with no rank told', async () => {
    const client = clients[listener]!;
    const seen: string[] = [];
    await inParallel(70, 4, async () => {
      seen.push(await where(client, { 'x-model': 'in-turn' }));
    });
    expect(tally(seen)).toEqual(Object.fromEntries(allRanks().map((place) => [place, 10])));
  });

  it.each(Object.keys(spoofs))('what the client says of ranks does not count: %s', async (spoof) => {
    const client = clients[listener]!;
    const seen: string[] = [];
    for (let i = 0; i < 14; i += 1) seen.push(await where(client, [['x-model', 'in-turn'], ...spoofs[spoof]!]));
    expect(tally(seen)).toEqual(Object.fromEntries(allRanks().map((place) => [place, 2])));
  });

  it('a session stays on its rank', async () => {
    const client = clients[listener]!;
    const homes = new Set<string>();
    await inParallel(60, 4, async (session) => {
      const headers = { 'x-model': 'by-session', 'x-session-id': `session ${session}` };
      const home = await where(client, headers);
      homes.add(home);
      expect(await where(client, headers)).toBe(home);
      expect(await where(client, { ...headers, [rankHeader]: '0' })).toBe(home);
    });
    // Of seven places; with one chance in a thousand million it is fewer than four.
    expect(homes.size).toBeGreaterThanOrEqual(4);
  });
});

it('tells of each rank by itself, under an id that bears its number', async () => {
  const [pool] = (await fairlead.fleet()).pools;
  expect(pool!.endpoints.map(({ address }) => address).sort()).toEqual(allRanks().sort());
  for (const place of allRanks()) expect(await fairlead.metric('fairlead_decisions_total', { pool: 'in-turn', endpoint: place })).toBe(3 * (10 + 5 * 2));
  // The access log names ip:port: that is where they were sent.
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
  expect(await fairlead.metric('fairlead_served_elsewhere_total')).toBe(0);
});

it('a retry goes where the rank told exists, and nowhere else', async () => {
  const server = servers[0]!;
  await server.control.set({ mode: 'refuse' });
  onTestFinished(() => server.control.set({ mode: 'ok' }));
  const client = clients[0]!;
  const outcomes: string[] = [];
  for (let i = 0; i < 70; i += 1) {
    const answer = await client.send({ path: '/headers', headers: { 'x-model': 'in-turn' } });
    if (answer.status !== 200) {
      outcomes.push('failed');
      continue;
    }
    const received = JSON.parse(answer.body.toString()) as Record<string, string>;
    const told = received['x-gateway-destination-endpoint']!.split(',');
    const rank = received[rankHeader];
    outcomes.push(answer.servedBy === told[0] ? 'chosen' : 'retried');
    const ranks = { [four]: 4, [two]: 2, [none]: 1 };
    for (const address of told) expect(Number(rank ?? 0), `${told.join()} with rank ${rank ?? 'none'}`).toBeLessThan(ranks[address]!);
  }
  // Ranks 0 and 1 of the endpoint that is gone are served elsewhere; of ranks 2 and 3 Envoy's fall-back policy has to find another.
  expect(outcomes.filter((outcome) => outcome === 'chosen').length).toBe(30);
  expect(outcomes.filter((outcome) => outcome === 'retried').length).toBeGreaterThanOrEqual(20);
});

it('a limit of requests is that of one rank', async () => {
  const client = clients[0]!;
  const server = servers[1]!;
  await server.control.set({ mode: 'hang' });
  const abort = new AbortController();
  const open = (): Promise<unknown> => fetch(`${envoy.url}/v1/chat/completions`, { method: 'POST', headers: { 'x-model': 'capped' }, body: '{}', signal: abort.signal }).catch(() => undefined);
  const inFlight = async (): Promise<Record<string, number>> => {
    const pool = (await fairlead.fleet()).pools.find(({ name }) => name === 'capped')!;
    return Object.fromEntries(pool.endpoints.map(({ address, requestsInFlight }) => [address, requestsInFlight]));
  };
  const held = [open(), open()];
  await expect.poll(inFlight, { timeout: 5_000 }).toEqual({ [`${two}#0`]: 1, [`${two}#1`]: 1 });
  const third = await client.send({ path: '/headers', headers: { 'x-model': 'capped' } });
  expect(third.status).toBe(429);
  abort.abort();
  await Promise.all(held);
  await server.control.set({ mode: 'ok' });
  await expect.poll(inFlight, { timeout: 5_000 }).toEqual({ [`${two}#0`]: 0, [`${two}#1`]: 0 });
});
