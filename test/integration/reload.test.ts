import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { stringify } from 'yaml';
import { runFairlead } from '../../lab/child-process.ts';
import { startFairlead } from '../../lab/fairlead-process.ts';
import type { ConfigReport } from '../../src/admin/config-report.ts';
import { startFakeNameServer } from '../fake-name-server.ts';

const one = '10.0.0.1:80';
const two = '10.0.0.2:80';
const configOf = (...addresses: string[]): Record<string, unknown> => ({
  listen: { grpc: '127.0.0.1:0', admin: '127.0.0.1:0' },
  drain: { readinessDelayMs: 0, deadlineMs: 1_000 },
  pools: [{ name: 'chat', endpoints: addresses.map((address) => ({ address })) }],
});
const soon = { timeout: 10_000 };

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-reload-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

it('follows a configMap as Kubernetes mounts and swaps it, and keeps the last good version', async () => {
  const folder = await temporaryFolder();
  let versions = 0;
  const mount = async (text: string): Promise<void> => {
    versions += 1;
    const version = `..v${versions}`;
    await mkdir(path.join(folder, version));
    await writeFile(path.join(folder, version, 'fairlead.yaml'), text);
    await symlink(version, path.join(folder, '..data_tmp'));
    await rename(path.join(folder, '..data_tmp'), path.join(folder, '..data'));
    if (versions > 1) await rm(path.join(folder, `..v${versions - 1}`), { recursive: true });
  };
  await mount(stringify(configOf(one)));
  await symlink('..data/fairlead.yaml', path.join(folder, 'fairlead.yaml'));
  const child = runFairlead(['serve', '--config', path.join(folder, 'fairlead.yaml')]);
  onTestFinished(async () => {
    await child.stop();
  });
  const port = await child.waitForLine((line) => (line.includes('"msg":"serving"') ? (JSON.parse(line) as { adminPort: number }).adminPort : undefined));
  const read = async <T>(page: string): Promise<T> => (await (await fetch(`http://127.0.0.1:${port}/api/v1/${page}`)).json()) as T;
  const config = (): Promise<ConfigReport> => read<ConfigReport>('config');
  const endpoints = async (): Promise<string[]> =>
    (await read<{ pools: { endpoints: { address: string; state: string }[] }[] }>('fleet')).pools[0]!.endpoints.filter(({ state }) => state !== 'draining').map(({ address }) => address);
  const first = await config();
  expect(first).toMatchObject({ file: path.join(folder, 'fairlead.yaml'), lastReload: null, discoveries: [] });

  await mount(stringify(configOf(one, two)));
  await expect.poll(endpoints, soon).toEqual([one, two]);
  const second = await config();
  expect(second).toMatchObject({ lastReload: { outcome: 'applied', cause: 'file', version: second.version } });
  expect(second.version).not.toBe(first.version);

  await mount(stringify({ ...configOf(one), surprise: true }));
  await expect.poll(async () => (await config()).lastReload?.outcome, soon).toBe('refused');
  expect(await config()).toMatchObject({ version: second.version, loadedAt: second.loadedAt, lastReload: { problems: [{ path: 'surprise', message: 'unknown field' }] } });
  expect(await endpoints()).toEqual([one, two]);

  await rm(path.join(folder, 'fairlead.yaml'));
  await expect.poll(async () => (await config()).lastReload?.problems[0]?.message, soon).toMatch(/^cannot be read: ENOENT/);
  expect(await endpoints()).toEqual([one, two]);
  await symlink('..data/fairlead.yaml', path.join(folder, 'fairlead.yaml'));
  await mount(stringify(configOf(two)));
  await expect.poll(endpoints, soon).toEqual([two]);
});

it('says what may not change while it runs, and what operators did stays', async () => {
  const fairlead = await startFairlead(configOf(one, two));
  onTestFinished(() => fairlead.stop());
  const states = async (): Promise<Record<string, string>> => Object.fromEntries((await fairlead.fleet()).pools[0]!.endpoints.map(({ address, state }) => [address, state]));
  await fairlead.put(`/api/v1/pools/chat/endpoints/${one}/state`, { state: 'draining' });
  expect(await fairlead.send('POST', '/api/v1/pools/chat/endpoints', { address: '10.0.0.3:80', weight: 2 })).toMatchObject({ status: 200 });
  await fairlead.rewrite({ ...configOf(one, two, '10.0.0.4:80'), reload: { watch: false } });
  await expect.poll(async () => Object.keys(await states()), soon).toEqual([one, two, '10.0.0.3:80', '10.0.0.4:80']);
  expect((await states())[one]).toBe('draining');

  await fairlead.rewrite({ ...configOf(one), limits: { messageBytesMax: 1_000_000 }, state: { kind: 'redis' }, affinity: { secret: 's' } });
  const refused = await fairlead.send('POST', '/api/v1/reload');
  const message = 'cannot change while the router runs: restart it to have this, or change it back';
  expect(refused).toMatchObject({ status: 422, json: { outcome: 'refused' } });
  const paths = (refused.json as { problems: { path: string; message: string }[] }).problems;
  expect(paths.map(({ path: at }) => at).sort()).toEqual(expect.arrayContaining(['affinity.secret', 'limits.messageBytesMax', 'state.kind']));
  for (const problem of paths) expect(problem.message).toBe(message);
  expect(Object.keys(await states())).toHaveLength(4);
});

it('finds endpoints by name and in a file beside the configuration, and says of each how it stands', async () => {
  const names = await startFakeNameServer({ 'chat.example': { A: [{ data: '10.0.0.7', ttl: 1 }] } });
  onTestFinished(() => names.stop());
  const discovery = { file: 'endpoints.yaml', dns: { name: 'chat.example', port: 8000, intervalMs: 1_000, server: names.address } };
  const fairlead = await startFairlead({ pools: [{ name: 'chat', discovery }] });
  onTestFinished(() => fairlead.stop());
  const endpoints = async (): Promise<string[]> => (await fairlead.fleet()).pools[0]!.endpoints.filter(({ state }) => state !== 'draining').map(({ address }) => address);
  const status = async (): Promise<ConfigReport['discoveries']> => (JSON.parse((await fairlead.get('/api/v1/config')).text) as ConfigReport).discoveries;
  // Found before the first request comes; the file is not there yet.
  expect(await endpoints()).toEqual(['10.0.0.7:8000']);
  expect(await status()).toMatchObject([
    { pool: 'chat', source: 'file', endpoints: null, problems: [{ path: '', message: expect.stringContaining('ENOENT') as string }] },
    { pool: 'chat', source: 'dns', from: 'chat.example A', endpoints: 1, problems: [] },
  ]);

  const file = path.join(fairlead.folder, 'endpoints.yaml');
  const write = async (text: string): Promise<void> => {
    await writeFile(`${file}.new`, text);
    await rename(`${file}.new`, file);
  };
  await write(`[{ address: ${one} }]`);
  await expect.poll(endpoints, soon).toEqual([one, '10.0.0.7:8000']);
  await write(`[{ address: ${one} }, { address: ${two}, limits: { requests: 0 } }]`);
  await expect.poll(async () => (await status())[0]?.problems[0]?.path, soon).toBe('[1].limits.requests');
  names.zone = {};
  await expect.poll(async () => (await status())[1]?.problems[0]?.message, soon).toBe('there is no such name (NXDOMAIN)');
  // What they said last holds.
  expect(await endpoints()).toEqual([one, '10.0.0.7:8000']);
  expect(fairlead.log()).toContain('"event":"discovery_failed"');
  expect(await fairlead.metric('fairlead_discovery_reads_total', { source: 'file', outcome: 'failed' })).toBeGreaterThanOrEqual(2);

  names.zone = { 'chat.example': { A: [{ data: '10.0.0.8', ttl: 1 }] } };
  await write(`[{ address: ${two} }]`);
  await expect.poll(endpoints, { timeout: 20_000 }).toEqual([two, '10.0.0.8:8000']);
  expect(await status()).toMatchObject([{ problems: [] }, { problems: [] }]);
});
