import { rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { HttpClient, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { failuresIn, noteFailures } from './shared-envoy.ts';

const parts = new RunningParts();
const sessions = 80;
let standing: string[];
/** Named by a file, by operators, or not at all, in turn. */
let coming: string[];
let fairlead: FairleadProcess;
let client: HttpClient;
let envoyLog: () => string;

/** A configuration that can be used; each `round` is another one. */
function configOf(round: number): Record<string, unknown> {
  const spare = round % 3 === 1;
  return {
    affinity: { secret: 'of this test' },
    // Changes are told by signal and by call here, so that none is counted twice.
    reload: { watch: false },
    log: { level: round % 2 === 0 ? 'info' : 'debug' },
    facts: { priority: round % 4 === 0 ? [{ header: 'x-class' }] : [] },
    outputs: { endpointsMax: 2 + (round % 5) },
    leases: { assumedDurationMs: 30_000 + round },
    pools: [
      {
        name: 'chat',
        // So much slack that no session is diverted, however long a busy machine takes to report ends.
        policy: { preset: 'session-affinity', parameters: { slackRequests: 1_000 + round } },
        labels: { round: String(round) },
        discovery: { file: 'endpoints.yaml' },
        endpoints: standing.map((address) => ({ address, limits: { contextTokens: 100_000 + round } })),
      },
      ...(spare ? [{ name: 'spare', endpoints: [{ address: standing[0] }] }] : []),
    ],
    routes: [...(spare ? [{ match: { model: 'spare-*' }, targets: [{ pool: 'spare' }] }] : []), { targets: [{ pool: 'chat' }], ...(spare && { fallback: ['spare'] }) }],
  };
}

/** What is wrong with it, and the path that the log has to name. */
const faults: readonly ((config: Record<string, unknown>) => { readonly written: Record<string, unknown> | string; readonly path: string })[] = [
  (config) => ({ written: { ...config, surprise: 1 }, path: 'surprise' }),
  (config) => ({ written: { ...config, pools: [{ name: 'chat', endpoints: [{ address: 'model.example:80' }] }] }, path: 'pools[0].endpoints[0].address' }),
  (config) => ({ written: { ...config, routes: [{ targets: [{ pool: 'nowhere' }] }] }, path: 'routes[0].targets[0].pool' }),
  (config) => ({ written: { ...config, affinity: { secret: 'another one' } }, path: 'affinity.secret' }),
  () => ({ written: 'pools: [', path: '(file)' }),
];

beforeAll(async () => {
  const addresses = (await parts.addModelServers(6)).map(({ address }) => address);
  standing = addresses.slice(0, 4);
  coming = addresses.slice(4);
  fairlead = await parts.add(startFairlead(configOf(0)));
  await nameInFile([coming[0]!]);
  // What is tested is the router; a busy machine's pauses are not.
  const config = renderEnvoyConfig({ clusters: { chat: addresses, spare: [standing[0]!] }, fairlead: [fairlead.address], messageTimeoutMs: 10_000 });
  const envoy = await parts.add(startEnvoy({ config: noteFailures(config), concurrency: 2 }));
  envoyLog = () => envoy.log();
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 32)));
});
afterAll(() => parts.stop());

async function nameInFile(addresses: readonly string[]): Promise<void> {
  const file = path.join(fairlead.folder, 'endpoints.yaml');
  await writeFile(`${file}.new`, stringify(addresses.map((address) => ({ address }))));
  await rename(`${file}.new`, file);
}

async function statesOf(): Promise<ReadonlyMap<string, string>> {
  const { pools } = await fairlead.fleet();
  return new Map(pools.find(({ name }) => name === 'chat')!.endpoints.map(({ address, state }) => [address, state]));
}

/** Whether an endpoint takes new requests; one that leaves does not, and disappears with its last. */
async function expectMember(address: string, isMember: boolean): Promise<void> {
  const states = isMember ? ['ready', 'warming'] : ['draining', undefined];
  await expect.poll(async () => states.includes((await statesOf()).get(address)), { timeout: 10_000, interval: 20 }).toBe(true);
}

async function ask(session: number): Promise<string> {
  const { status, servedBy, body } = await client.send({
    path: '/echo/v1/chat/completions',
    headers: { 'content-type': 'application/json', 'x-session-id': `session-${session}` },
    body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: `words of ${session}` }] }),
  });
  return status === 200 ? (servedBy ?? 'nobody') : `${status} ${body.toString()}`;
}

it('50 reloads, 20 of them refused, and 50 joins and leaves under load: no request fails, and no session of an endpoint that stays moves', async () => {
  await fairlead.send('POST', '/api/v1/pools/chat/endpoints', { address: coming[1]! });
  for (const address of coming) await expectMember(address, true);
  // Homes with all six there. Slow start lets the sessions of those that have just joined in one by one: these are not the question.
  const homes = await Promise.all(Array.from({ length: sessions }, (_, session) => ask(session)));
  await nameInFile([]);
  await expectMember(coming[0]!, false);
  const staying = homes.flatMap((home, session) => (standing.includes(home) ? [{ home, session }] : []));

  let on = true;
  const outcomes: string[] = [];
  const moved: string[] = [];
  const workers = Array.from({ length: 8 }, async (_, worker) => {
    for (let i = worker; on; i += 1) {
      const servedBy = await ask(i % sessions).catch(String);
      outcomes.push(standing.includes(servedBy) || coming.includes(servedBy) ? 'ok' : servedBy);
      const home = homes[i % sessions]!;
      if (servedBy !== home && staying.some(({ session }) => session === i % sessions)) moved.push(`session ${i % sessions}: ${home} to ${servedBy}`);
    }
  });

  const refusedPaths: string[] = [];
  let applied = 0;
  const changes = async (): Promise<void> => {
    for (let round = 1; round <= 50; round += 1) {
      const fault = round % 5 === 2 || round % 5 === 4 ? faults[refusedPaths.length % faults.length]!(configOf(round)) : undefined;
      await fairlead.rewrite(fault?.written ?? configOf(round));
      if (fault === undefined) applied += 1;
      else refusedPaths.push(fault.path);
      if (round % 2 === 0) {
        expect(await fairlead.send('POST', '/api/v1/reload')).toMatchObject({ status: fault === undefined ? 200 : 422, json: { outcome: fault === undefined ? 'applied' : 'refused' } });
      } else {
        fairlead.signal('SIGHUP');
      }
      await expect.poll(() => fairlead.metric('fairlead_config_reloads_total', { outcome: 'applied' }), { timeout: 10_000, interval: 20 }).toBe(applied);
      await expect.poll(() => fairlead.metric('fairlead_config_reloads_total', { outcome: 'refused' }), { timeout: 10_000, interval: 20 }).toBe(refusedPaths.length);
      expect(await fairlead.metric('fairlead_config_last_reload_success')).toBe(fault === undefined ? 1 : 0);

      const joins = round % 4 >= 2;
      const address = coming[round % 2]!;
      if (round % 2 === 0) await nameInFile(joins ? [address] : []);
      else if (joins) await fairlead.send('POST', '/api/v1/pools/chat/endpoints', { address });
      else await fairlead.send('DELETE', `/api/v1/pools/chat/endpoints/${address}`);
      await expectMember(address, joins);
    }
  };
  try {
    await changes();
  } finally {
    on = false;
    await Promise.all(workers);
  }

  expect(tally(outcomes), failuresIn(envoyLog())).toEqual({ ok: outcomes.length });
  expect(outcomes.length).toBeGreaterThan(500);
  expect(moved).toEqual([]);
  expect(staying.length).toBeGreaterThan(sessions / 3);
  expect([applied, refusedPaths.length]).toEqual([30, 20]);

  const refusals = fairlead
    .log()
    .split('\n')
    .filter((line) => line.includes('"event":"config_refused"'))
    .map((line) => JSON.parse(line) as { path: string; problem: string; file: string });
  expect(refusals.map((refusal) => refusal.path)).toEqual(refusedPaths);
  for (const { problem, file } of refusals) {
    expect(problem).not.toBe('');
    expect(file).toBe(path.join(fairlead.folder, 'fairlead.yaml'));
  }
  // Nothing is left counted, and what is gone leaves no series behind.
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 10_000 }).toBe(0);
  await expect.poll(async () => [...(await statesOf()).keys()].filter((address) => coming.includes(address)), { timeout: 10_000 }).toEqual([...coming].filter((_, i) => i === 0));
}, 120_000);
