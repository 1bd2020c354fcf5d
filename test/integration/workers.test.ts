import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { startWorkers, type Workers } from '../../src/app/workers/supervisor.ts';
import type { FleetReport } from '../../src/admin/fleet-report.ts';
import { loadConfigFile } from '../../src/config/load.ts';
import type { ProcessingResponse } from '../../src/extproc/messages.ts';
import { freePorts } from '../../lab/envoy-process.ts';
import { until } from './router-under-test.ts';
import { headersOf, type Said, WorkerClient } from './worker-client.ts';

const silent = pino({ level: 'silent' });
const endpoint = (host: number): { readonly address: string } => ({ address: `10.0.0.${host}:80` });
const observe = { firstToken: false };
const settings = (spread: number): object => ({
  listen: { grpc: '127.0.0.1:0', admin: '127.0.0.1:0' },
  drain: { readinessDelayMs: 0, deadlineMs: 10_000 },
  log: { level: 'fatal' },
  pools: [
    { name: 'spread', policy: { preset: 'least-requests' }, observe, endpoints: Array.from({ length: spread }, (_, i) => endpoint(i + 1)) },
    { name: 'homes', policy: { preset: 'session-affinity', parameters: { slackRequests: 1_000 } }, observe, endpoints: [11, 12, 13, 14, 15].map(endpoint) },
    { name: 'capped', policy: { preset: 'least-requests' }, observe, endpoints: [21, 22].map((host) => ({ ...endpoint(host), limits: { requests: 3 } })) },
  ],
  routes: ['spread', 'homes', 'capped'].map((pool) => ({ match: { model: pool }, targets: [{ pool }] })),
});

let folder = '';
let file = '';
let workers: Workers;
let clients: [WorkerClient, WorkerClient];

async function start(written: object, count: number): Promise<Workers> {
  await writeFile(file, stringify(written));
  const outcome = loadConfigFile(file);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return startWorkers(outcome.config, { file, warnings: [] }, count, silent);
}

const routed = (said: Said): { address: string; lease: string } => {
  if (said.refused !== undefined) throw new Error(`refused with ${said.refused}`);
  return said;
};

async function admin(pathname: string, init: RequestInit = {}): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://127.0.0.1:${workers.adminPort}${pathname}`, { ...init, signal: AbortSignal.timeout(20_000) });
  return { status: response.status, text: await response.text() };
}

/** The fleet as one worker sees it. */
async function reportOf(worker: number): Promise<FleetReport> {
  const answer = await workers.slots[worker]!.ask('http', { method: 'GET', path: '/api/v1/fleet', headers: [], body: undefined });
  if (answer === undefined) throw new Error(`worker ${worker} does not answer`);
  return JSON.parse(answer.answered.body) as FleetReport;
}

/** What all workers have in flight in a pool, by endpoint, as one of them sees it. */
async function seenBy(worker: number, pool: string): Promise<number[]> {
  const { pools } = await reportOf(worker);
  return pools.find(({ name }) => name === pool)!.endpoints.map(({ fleetRequestsInFlight }) => fleetRequestsInFlight);
}

const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0);
const seesInFlight = (worker: number, pool: string, count: number): Promise<unknown> =>
  until(async () => sum(await seenBy(worker, pool)) === count, 15_000, () => `worker ${worker} does not see ${count} in flight in ${pool}`);

async function metric(name: string, labels = ''): Promise<number> {
  const { text } = await admin('/metrics');
  return sum(text.split('\n').filter((line) => line.startsWith(`${name} `) || (line.startsWith(`${name}{`) && line.includes(labels))).map((line) => Number(line.split(' ').at(-1))));
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fairlead-workers-'));
  file = path.join(folder, 'fairlead.yaml');
  workers = await start(settings(4), 2);
  clients = [new WorkerClient(workers.addresses[0]!), new WorkerClient(workers.addresses[1]!)];
});

afterAll(async () => {
  for (const client of clients) client.close();
  await workers.drain();
  await rm(folder, { recursive: true });
});

describe('two workers', () => {
  it('each have an address of their own, and are ready together', async () => {
    expect(new Set(workers.addresses).size).toBe(2);
    const { status, text } = await admin('/readyz');
    const { parts } = JSON.parse(text) as { parts: { name: string; ready: boolean; reason: string }[] };
    expect([status, parts.slice(0, 2)]).toEqual([200, workers.addresses.map((address, worker) => ({ name: `worker:${worker}`, ready: true, reason: `serving at ${address}` }))]);
    expect(parts.map(({ name }) => name)).toEqual(['worker:0', 'worker:1', 'state', 'pool:spread', 'pool:homes', 'pool:capped']);
  });

  it('see what the other has in flight, and choose by it', async () => {
    for (let round = 1; round <= 5; round += 1) {
      // Two endpoints of four have one request less: the other worker's choice is to be those, which it cannot know by itself.
      const first = [routed(await clients[0].decide({ 'x-model': 'spread' })), routed(await clients[0].decide({ 'x-model': 'spread' }))];
      await seesInFlight(1, 'spread', 4 * round - 2);
      const second = [routed(await clients[1].decide({ 'x-model': 'spread' })), routed(await clients[1].decide({ 'x-model': 'spread' }))];
      await seesInFlight(0, 'spread', 4 * round);
      expect(new Set([...first, ...second].map(({ address }) => address)).size).toBe(4);
      expect(await seenBy(0, 'spread')).toEqual([round, round, round, round]);
    }
    expect(JSON.parse((await admin('/api/v1/fleet')).text)).toMatchObject({
      sharing: { kind: 'workers', connected: true },
      pools: [{ endpoints: Array.from({ length: 4 }, () => ({ requestsInFlight: 5 })) }, {}, {}],
    });
  });

  it('release a request whose end is reported to the other one', async () => {
    const before = await metric('fairlead_foreign_reports_total', 'outcome="forwarded"');
    const held = await Promise.all(Array.from({ length: 10 }, () => clients[0].decide({ 'x-model': 'homes' })));
    await seesInFlight(1, 'homes', 10);
    clients[1].report(held.map((said) => routed(said).lease));
    await seesInFlight(0, 'homes', 0);
    await seesInFlight(1, 'homes', 0);
    expect((await metric('fairlead_foreign_reports_total', 'outcome="forwarded"')) - before).toBe(10);
    expect(await metric('fairlead_foreign_reports_total', 'outcome="lost"')).toBe(0);
  });

  it("agree on every session's home, though the secret was made up at the start", async () => {
    const sessions = Array.from({ length: 40 }, (_, i) => ({ 'x-model': 'homes', 'x-session-id': `session-${i}` }));
    const [ones, others] = await Promise.all(clients.map((client) => Promise.all(sessions.map(async (headers) => routed(await client.decide(headers))))));
    expect(ones!.map(({ address }) => address)).toEqual(others!.map(({ address }) => address));
    expect(new Set(ones!.map(({ address }) => address)).size).toBeGreaterThan(1);
    clients[0].report([...ones!, ...others!].map(({ lease }) => lease));
    await seesInFlight(0, 'homes', 0);
  });

  it('keep an exact limit together, however many ask at once', async () => {
    const ask = (): Promise<Said[]> => Promise.all(Array.from({ length: 30 }, (_, i) => clients[i % 2]!.decide({ 'x-model': 'capped' })));
    for (let round = 1; round <= 2; round += 1) {
      const said = await ask();
      const held = said.filter(({ refused }) => refused === undefined).map(routed);
      expect(held.map(({ address }) => address).sort()).toEqual(['10.0.0.21:80', '10.0.0.21:80', '10.0.0.21:80', '10.0.0.22:80', '10.0.0.22:80', '10.0.0.22:80']);
      clients[0].report(held.map(({ lease }) => lease));
      await seesInFlight(0, 'capped', 0);
      await seesInFlight(1, 'capped', 0);
    }
  });

  it('are one to whoever asks: a change goes to both, and the last decisions come from both', async () => {
    const host = `127.0.0.1:${workers.adminPort}`;
    const changed = await admin('/api/v1/pools/spread/endpoints', { method: 'POST', headers: { 'content-type': 'application/json', host }, body: JSON.stringify(endpoint(9)) });
    expect(changed.status).toBe(200);
    for (const worker of [0, 1]) expect(await seenBy(worker, 'spread')).toHaveLength(5);
    const { decisions } = JSON.parse((await admin('/api/v1/decisions?limit=100')).text) as { decisions: { lease: string | null; time: string }[] };
    expect(decisions).toHaveLength(100);
    expect(new Set(decisions.flatMap(({ lease }) => lease?.replace(/\.\d+$/, '').slice(-2) ?? []))).toEqual(new Set(['w0', 'w1']));
    expect(decisions.map(({ time }) => time)).toEqual(decisions.map(({ time }) => time).sort().reverse());
    expect((await admin('/api/v1/decisions?limit=0')).status).toBe(400);
    expect((await admin('/api/v1/pools/none/endpoints', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })).status).toBe(404);
    expect((await admin('/', { method: 'PATCH' })).status).toBe(405);
    expect((await admin('/api/v1/reload', { method: 'POST', body: 'x'.repeat(70_000) })).status).toBe(413);
  });

  it('count as one', async () => {
    const [all, ...each] = await Promise.all([
      metric('fairlead_streams_opened_total'),
      metric('fairlead_worker_streams_opened_total', 'worker="0"'),
      metric('fairlead_worker_streams_opened_total', 'worker="1"'),
    ]);
    expect(Math.min(...each)).toBeGreaterThan(0);
    expect(all).toBe(sum(each));
    // What each knows of the whole fleet is not added up.
    expect(await metric('fairlead_fleet_requests_in_flight', 'pool="spread"')).toBe(20);
    expect(await metric('fairlead_requests_in_flight', 'pool="spread"')).toBe(20);
    expect(await metric('fairlead_build_info')).toBe(1);
  });

  it('reload as one', async () => {
    await writeFile(file, stringify(settings(6)));
    workers.reload('signal');
    for (const worker of [0, 1]) await until(async () => (await seenBy(worker, 'spread')).length === 7, 15_000);
    // So does what leads them: as loud as the configuration says.
    expect(silent.level).toBe('fatal');
  });

  it('replace one that ends, at its address, while the other serves; nothing of it is left behind', async () => {
    const before = await metric('fairlead_decisions_total');
    // What no file says any more, the one that takes its place still has.
    await writeFile(file, 'pools: broken');
    const [slot] = workers.slots;
    const { routerId } = slot!;
    await slot!.thread!.terminate();
    expect(slot!.state).toBe('restarting');
    expect((await admin('/readyz')).status).toBe(503);
    routed(await clients[1].decide({ 'x-model': 'spread' }));
    await until(() => slot!.state === 'serving', 30_000);
    expect(slot!.routerId).not.toBe(routerId);
    expect((await admin('/readyz')).status).toBe(200);
    // Ten of twenty requests were the lost worker's, and one came to the other meanwhile.
    for (const worker of [0, 1]) await seesInFlight(worker, 'spread', 11);
    expect((await reportOf(1)).routers.map(({ id }) => id).sort()).toEqual([slot!.routerId, workers.slots[1]!.routerId].sort());
    // The configuration in force, and what was changed by hand.
    await until(async () => (await seenBy(0, 'spread')).length === 7, 15_000);
    expect(await metric('fairlead_worker_restarts_total')).toBe(1);
    expect(await metric('fairlead_decisions_total')).toBe(before + 1);
    const successor = new WorkerClient(workers.addresses[0]!);
    const { lease } = routed(await successor.decide({ 'x-model': 'spread' }));
    successor.close();
    expect(lease.startsWith(`${slot!.routerId}.`)).toBe(true);
  });

  it('drain as one: what is open is answered first', async () => {
    const open = clients.map((client) => {
      const call = client.open();
      const answers: ProcessingResponse[] = [];
      call.on('data', (answer: ProcessingResponse) => answers.push(answer));
      call.on('error', () => {});
      call.write(headersOf({ 'content-length': '20' }, true));
      return { call, answers };
    });
    await until(() => open.every(({ answers }) => answers.length === 1), 15_000);
    const draining = workers.drain();
    await until(async () => (await admin('/readyz')).status === 503, 15_000);
    for (const { call } of open) {
      call.write({ request_body: { body: Buffer.from('{"model": "spread" }'), end_of_stream: true } });
      call.end();
    }
    await draining;
    expect(open.map(({ answers }) => answers.map(({ response }) => response))).toEqual([['request_headers', 'request_body'], ['request_headers', 'request_body']]);
    expect(workers.slots.map(({ state, thread }) => ({ state, thread }))).toEqual([{ state: 'ended', thread: undefined }, { state: 'ended', thread: undefined }]);
    await expect(admin('/healthz')).rejects.toThrow();
  });
});

describe('a worker that cannot start', () => {
  it('keeps all from starting, and says why', async () => {
    const [port = 0] = await freePorts(1);
    const blocker = createServer();
    await new Promise<void>((resolve) => blocker.listen(port, '127.0.0.1', resolve));
    try {
      await expect(start({ ...settings(1), listen: { grpc: `127.0.0.1:${port}`, admin: '127.0.0.1:0' } }, 2)).rejects.toThrow(`cannot listen on 127.0.0.1:${port} (listen.grpc)`);
    } finally {
      blocker.close();
    }
  });
});
