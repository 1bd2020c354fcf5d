import { afterAll, beforeAll, expect, it } from 'vitest';
import { type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { HttpClient } from './http-client.ts';
import { type RecordingServer, startRecordingServer } from './recording-server.ts';
import { RunningParts } from './running-parts.ts';
import { withListeners } from './shared-envoy.ts';

const modes: Readonly<Record<string, EnvoyOptions>> = {
  'none, override allowed': { bodyMode: 'NONE', allowModeOverride: true },
  buffered: { bodyMode: 'BUFFERED' },
  'full duplex': { bodyMode: 'FULL_DUPLEX_STREAMED' },
};
const names = Object.keys(modes);

const parts = new RunningParts();
let blue: RecordingServer;
let green: RecordingServer;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients = new Map<string, HttpClient>();

beforeAll(async () => {
  blue = await parts.add(startRecordingServer());
  green = await parts.add(startRecordingServer());
  fairlead = await parts.add(
    startFairlead({
      pools: [
        { name: 'blue', policy: { preset: 'session-affinity' }, endpoints: [{ address: blue.address }] },
        { name: 'green', policy: { preset: 'session-affinity' }, endpoints: [{ address: green.address }] },
      ],
      routes: [
        { match: { model: 'sized', promptTokens: { max: 100 } }, targets: [{ pool: 'green', model: 'small' }] },
        { match: { model: 'limited', maxTokens: { max: 64 } }, targets: [{ pool: 'green', model: 'small' }] },
        { match: { model: 'of-tenants', tenant: 'acme-*' }, targets: [{ pool: 'green' }] },
        { name: 'moving', match: { model: 'moving' }, targets: [{ pool: 'blue' }], shift: { from: 'blue', to: 'green', start: '2999-01-01T00:00:00Z', durationMinutes: 60 } },
        { name: 'moved', match: { model: 'moved' }, targets: [{ pool: 'blue' }], shift: { from: 'blue', to: 'green', start: '2020-01-01T00:00:00Z', durationMinutes: 60 } },
        { name: 'split', match: { model: 'split' }, targets: [{ pool: 'blue', weight: 100 }, { pool: 'green', weight: 0 }] },
        { targets: [{ pool: 'blue' }] },
      ],
    }),
  );
  const clusters = { blue: [blue.address], green: [green.address] };
  const configs = Object.entries(modes).map(
    ([name, options]) => [name, renderEnvoyConfig({ ...options, messageTimeoutMs: 10_000, fairlead: [fairlead.address], clusters })] as const,
  );
  envoy = await parts.add(startEnvoy({ config: withListeners(Object.fromEntries(configs)) }));
  for (const name of names) clients.set(name, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 8))));
});
afterAll(() => parts.stop());

async function poolOf(mode: string, body: Record<string, unknown>, headers: Readonly<Record<string, string>> = {}, chunkBytes?: number): Promise<string> {
  const call = { path: '/v1/chat/completions', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) };
  const answer = await clients.get(mode)!.send({ ...call, ...(chunkBytes !== undefined && { chunkBytes }) });
  return answer.status !== 200 ? String(answer.status) : answer.servedBy === blue.address ? 'blue' : 'green';
}

const chat = (model: string, chars: number, more: object = {}): Record<string, unknown> => ({ messages: [{ role: 'user', content: 'x'.repeat(chars) }], model, ...more });

it.each(names)('%s: short prompts go to the small model, whether their length is declared or has to be measured', async (mode) => {
  for (const chunkBytes of [undefined, 64]) {
    expect([chunkBytes, await poolOf(mode, chat('sized', 200), {}, chunkBytes)]).toEqual([chunkBytes, 'green']);
    expect([chunkBytes, await poolOf(mode, chat('sized', 2_000), {}, chunkBytes)]).toEqual([chunkBytes, 'blue']);
  }
  await expect.poll(() => green.take().map(({ body }) => (JSON.parse(body.toString()) as { model: string }).model), { timeout: 5_000 }).toEqual(['small', 'small']);
});

it.each(names)('%s: so do requests for short answers, whichever name the limit has', async (mode) => {
  for (const field of ['max_tokens', 'max_completion_tokens']) {
    expect(await poolOf(mode, chat('limited', 10, { [field]: 64 }))).toBe('green');
    expect(await poolOf(mode, chat('limited', 10, { [field]: 65 }))).toBe('blue');
  }
  // The header names the model, and the limit is read all the same.
  expect(await poolOf(mode, chat('limited', 10, { max_tokens: 1 }), { 'x-model': 'limited', 'x-session-id': 's' })).toBe('green');
  expect(await poolOf(mode, chat('limited', 10))).toBe('blue');
});

it.each(names)('%s: tenants have their own route', async (mode) => {
  expect(await poolOf(mode, chat('of-tenants', 10), { 'x-tenant-id': 'acme-1' })).toBe('green');
  expect(await poolOf(mode, chat('of-tenants', 10), { 'x-tenant-id': 'other' })).toBe('blue');
  expect(await poolOf(mode, chat('of-tenants', 10))).toBe('blue');
});

it('an operator moves a route from blue to green, and no session moves twice', async () => {
  const sessions = Array.from({ length: 40 }, (_, i) => `session ${i}`);
  const [mode] = names as [string];
  for (const [route, change] of [
    ['moving', (share: number): object => ({ shiftShare: share })],
    ['split', (share: number): object => ({ targets: [{ pool: 'blue', weight: 100 * (1 - share) }, { pool: 'green', weight: 100 * share }] })],
  ] as const) {
    let before = new Set<string>();
    for (const share of [0, 0.3, 0.7, 1]) {
      await fairlead.put(`/api/v1/routes/${route}/weights`, change(share));
      const now = new Set<string>();
      for (const session of sessions) if ((await poolOf(mode, chat(route, 10), { 'x-session-id': session })) === 'green') now.add(session);
      expect([...before].filter((session) => !now.has(session))).toEqual([]);
      if (share === 0 || share === 1) expect(now.size).toBe(share * sessions.length);
      else expect(now.size).toBeGreaterThan(before.size);
      before = now;
    }
  }
});

it('a shift follows its schedule where nobody has set anything', async () => {
  const [mode] = names as [string];
  for (let i = 0; i < 10; i += 1) expect(await poolOf(mode, chat('moved', 10), { 'x-session-id': `s${i}` })).toBe('green');
});
