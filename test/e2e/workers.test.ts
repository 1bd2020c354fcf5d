import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { runFairlead } from '../../lab/child-process.ts';
import { type EnvoyConfig, type EnvoyProcess, envoyBinary, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { startWorkers, type Workers } from '../../src/app/workers/supervisor.ts';
import { loadConfigFile } from '../../src/config/load.ts';
import { until } from '../integration/router-under-test.ts';
import { HttpClient } from './http-client.ts';
import { type HoldingServer, startHoldingServer } from './router-fleet.ts';
import { RunningParts } from './running-parts.ts';

const parts = new RunningParts();
let folder = '';
let servers: readonly HoldingServer[] = [];
let workers: Workers;
let envoy: EnvoyProcess;
let client: HttpClient;

type Cluster = EnvoyConfig['static_resources']['clusters'][number];

/** What the command prints for a configuration. */
async function snippet(config: object, args: readonly string[] = []): Promise<Cluster> {
  const file = path.join(folder, 'snippet.yaml');
  await writeFile(file, stringify(config));
  const child = runFairlead(['envoy-snippet', '--config', file, ...args]);
  expect(await child.ended, child.log()).toBe(0);
  return args.includes('--json') ? (JSON.parse(child.log()) as Cluster) : (parse(child.log()) as [Cluster])[0];
}

function withFairlead(cluster: Cluster, pool: readonly string[]): EnvoyConfig {
  // What a busy machine does to 200 ms is not the question here.
  const config = renderEnvoyConfig({ clusters: { chat: pool }, messageTimeoutMs: 10_000 });
  config.static_resources.clusters = [...config.static_resources.clusters.filter(({ name }) => name !== cluster.name), cluster];
  return config;
}

async function streamsByWorker(): Promise<number[]> {
  const text = await (await fetch(`http://127.0.0.1:${workers.adminPort}/metrics`)).text();
  return [...text.matchAll(/^fairlead_worker_streams_opened_total\{worker="\d"\} (\d+)$/gm)].map(([, count]) => Number(count));
}

/** Sends so many requests, 16 at a time. Returns their statuses with how often each came. */
async function send(count: number): Promise<Record<string, number>> {
  const statuses: Record<string, number> = {};
  let left = count;
  const one = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      const { status } = await client.send({ path: '/v1/chat/completions', method: 'POST', headers: { 'x-model': 'chat', 'x-session-id': `s${left % 50}` }, body: '{}' });
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: 16 }, one));
  return statuses;
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fairlead-workers-'));
  servers = await Promise.all([1, 2, 3].map(() => parts.add(startHoldingServer())));
  const config = {
    // Beside one another whatever else runs on this machine: ports in a row are not to be had for certain.
    listen: { grpc: `unix:${path.join(folder, 'fairlead.sock')}`, admin: '127.0.0.1:0' },
    workers: 2,
    drain: { readinessDelayMs: 0, deadlineMs: 5_000 },
    log: { level: 'fatal' },
    pools: [{ name: 'chat', policy: { preset: 'session-affinity' }, observe: { firstToken: false }, endpoints: servers.map(({ address }) => ({ address })) }],
  };
  const file = path.join(folder, 'fairlead.yaml');
  await writeFile(file, stringify(config));
  const outcome = loadConfigFile(file);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  workers = await startWorkers(outcome.config, { file, warnings: [] }, 2, pino({ level: 'silent' }));
  await parts.add({ stop: () => workers.drain() });
  // One thread of Envoy: with one port for all workers, all but one would go without.
  envoy = await parts.add(startEnvoy({ config: withFairlead(await snippet(config), servers.map(({ address }) => address)), concurrency: 1 }));
  client = await parts.add(new HttpClient(envoy.url, 16, 60_000));
});

afterAll(async () => {
  await parts.stop();
  await rm(folder, { recursive: true });
});

describe("Envoy with the snippet's cluster", () => {
  it('sends each worker its share of the requests', async () => {
    expect(await send(2_000)).toEqual({ 200: 2_000 });
    const streams = await streamsByWorker();
    expect(streams).toHaveLength(2);
    // Health checks are no streams of external processing.
    expect(streams.reduce((sum, count) => sum + count, 0)).toBe(2_000);
    for (const count of streams) expect(Math.abs(count - 1_000)).toBeLessThan(100);
  });

  it("tells them of every request's end, whichever of them it tells", async () => {
    const fleet = async (): Promise<string> => (await fetch(`http://127.0.0.1:${workers.adminPort}/api/v1/fleet`)).text();
    await until(async () => !/"fleetRequestsInFlight":[1-9]/.test(await fleet()), 15_000);
    const text = await (await fetch(`http://127.0.0.1:${workers.adminPort}/metrics`)).text();
    expect(text).toMatch(/^fairlead_foreign_reports_total\{outcome="lost"\} 0$/m);
    const released = [...text.matchAll(/^fairlead_requests_released_total\{.*ending="finished",signal="access-log".*\} (\d+)$/gm)].map(([, count]) => Number(count));
    expect(released.reduce((sum, count) => sum + count, 0)).toBe(2_000);
  });

  it('loses no request while a worker ends and is replaced', async () => {
    const sending = send(3_000);
    await until(async () => ((await streamsByWorker())[0] ?? 0) > 1_300, 60_000);
    await workers.slots[0]!.thread!.terminate();
    expect(await sending).toEqual({ 200: 3_000 });
    await until(() => workers.slots[0]!.state === 'serving', 30_000);
    // It takes part again, as soon as Envoy's health check has found it.
    await until(async () => {
      await send(20);
      return ((await streamsByWorker())[0] ?? 0) > 0;
    }, 30_000);
  });

  it.each([
    ['ports', ['--workers', '4', '--json']],
    ['ports on several hosts, by name', ['--workers', '2', '--host', 'fairlead-a.example', 'fairlead-b.example']],
    ['one worker', ['--workers', '1', '--name', 'fairlead']],
  ])('is valid: %s', async (_, args) => {
    const cluster = await snippet({ listen: { grpc: '127.0.0.1:9002' }, pools: [{ name: 'chat', endpoints: [{ address: '10.0.0.1:80' }] }] }, args);
    const file = path.join(folder, 'envoy.json');
    await writeFile(file, JSON.stringify(withFairlead(cluster, ['10.0.0.1:80'])));
    const { stdout, stderr } = await promisify(execFile)(envoyBinary(), ['--mode', 'validate', '--log-level', 'warning', '-c', file]);
    expect(stdout + stderr).toContain('OK');
  });
});
