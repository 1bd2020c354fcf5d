import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { type EnvoyProcess, freePorts, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { HttpClient, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { failuresIn, noteFailures } from './shared-envoy.ts';

const parts = new RunningParts();
const readinessDelayMs = 1_000;
let ports: number[];
let endpoints: string[];
let envoy: EnvoyProcess;
let client: HttpClient;
let fairleads: [FairleadProcess, FairleadProcess];

function start(port: number): Promise<FairleadProcess> {
  return parts.add(
    startFairlead({
      listen: { grpc: `127.0.0.1:${port}`, admin: '127.0.0.1:0' },
      affinity: { secret: 'the same in both' },
      drain: { readinessDelayMs, deadlineMs: 15_000 },
      pools: [{ name: 'chat', policy: { preset: 'least-requests' }, endpoints: endpoints.map((address) => ({ address })) }],
      // The catch-all needs no model: what has none in its headers is asked for its body.
      routes: [{ match: { model: 'm' }, targets: [{ pool: 'chat' }] }, { targets: [{ pool: 'chat' }] }],
    }),
  );
}

const healthy = async (): Promise<number> => (await envoy.stats('^cluster\\.fairlead\\.membership_healthy'))['cluster.fairlead.membership_healthy'] ?? 0;

beforeAll(async () => {
  endpoints = (await parts.addModelServers(2)).map(({ address }) => address);
  ports = await freePorts(2);
  fairleads = (await Promise.all(ports.map(start))) as [FairleadProcess, FairleadProcess];
  const config = renderEnvoyConfig({
    clusters: { chat: endpoints },
    fairlead: ports.map((port) => `127.0.0.1:${port}`),
    // What is tested is the drain; a busy machine's pauses are not.
    messageTimeoutMs: 10_000,
  });
  envoy = await parts.add(startEnvoy({ config: noteFailures(config), concurrency: 2 }));
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 32)));
});
afterAll(() => parts.stop());

const path = '/echo/v1/chat/completions';
const body = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hello' }] });

/** Keeps requests coming until told to stop; resolves with what became of them. */
function startLoad(): { stop(): Promise<Record<string, number>> } {
  const outcomes: string[] = [];
  let on = true;
  const send = async (i: number): Promise<string> => {
    const known: Record<string, string> = i % 2 === 0 ? { 'x-model': 'm' } : {};
    const { status, servedBy, body: answer } = await client.send({ path, headers: { 'content-type': 'application/json', ...known }, body });
    return servedBy === undefined ? `${status} ${answer.toString()}` : String(status);
  };
  const workers = Array.from({ length: 12 }, async (_, worker) => {
    for (let i = worker; on; i += 1) outcomes.push(await send(i).catch(String));
  });
  return {
    stop: async () => {
      on = false;
      await Promise.all(workers);
      return tally(outcomes);
    },
  };
}

/** A request whose body takes so long that its exchange with the processor spans the drain. */
async function sendSlowly(pauseMs: number): Promise<string> {
  const half = body.length >> 1;
  const pieces = Readable.from(
    (async function* halves() {
      yield Buffer.from(body.slice(0, half));
      await sleep(pauseMs);
      yield Buffer.from(body.slice(half));
    })(),
  );
  const response = await fetch(envoy.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: Readable.toWeb(pieces),
    duplex: 'half',
    signal: AbortSignal.timeout(20_000),
  });
  const answer = await response.text();
  return answer === body ? String(response.status) : `${response.status} ${answer}`;
}

it.each([
  ['one', 0, 1],
  ['and, when that came back, the other', 1, 0],
] as const)('%s of two leaves under load: no request fails', async (_title, leaving, staying) => {
  await expect.poll(healthy, { timeout: 10_000 }).toBe(2);
  const load = startLoad();
  onTestFinished(async () => {
    await load.stop();
  });
  const slow = Array.from({ length: 8 }, () => sendSlowly(readinessDelayMs + 1_500).catch(String));
  const going = fairleads[leaving];
  // It does take part before it leaves, with exchanges open.
  await expect.poll(() => going.metric('fairlead_decisions_total'), { timeout: 10_000 }).toBeGreaterThan(50);
  await expect.poll(() => going.metric('fairlead_streams_open'), { timeout: 10_000 }).toBeGreaterThan(0);

  going.signal('SIGTERM');
  const asked = performance.now();
  await expect.poll(async () => (await going.get('/readyz')).status, { timeout: readinessDelayMs }).toBe(503);
  await expect.poll(healthy, { timeout: 5_000 }).toBe(1);
  expect(await going.ended).toBe(0);
  expect(performance.now() - asked).toBeGreaterThanOrEqual(readinessDelayMs);
  expect(going.log()).toContain('"msg":"stopped"');

  const before = await fairleads[staying].metric('fairlead_decisions_total');
  await expect.poll(() => fairleads[staying].metric('fairlead_decisions_total'), { timeout: 10_000 }).toBeGreaterThan(before + 50);
  const outcomes = await load.stop();
  expect(outcomes, failuresIn(envoy.log())).toEqual({ '200': outcomes['200'] });
  expect(outcomes['200']).toBeGreaterThan(200);
  expect(tally(await Promise.all(slow)), failuresIn(envoy.log())).toEqual({ '200': slow.length });

  fairleads[leaving] = await start(ports[leaving]!);
});
