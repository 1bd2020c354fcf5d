import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { type Answer, HttpClient } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { withListeners } from './shared-envoy.ts';

// Pool `eu` first, then `us`, then the smaller model of `small`, which is in the EU as well. Route `resident` must stay there.
const modes: Readonly<Record<string, EnvoyOptions>> = {
  'none, override allowed': { bodyMode: 'NONE', allowModeOverride: true },
  buffered: { bodyMode: 'BUFFERED' },
  'full duplex both ways': { bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED' },
};
const names = Object.keys(modes);

const parts = new RunningParts();
let eu: ModelServer[];
let us: ModelServer;
let small: ModelServer;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients = new Map<string, HttpClient>();

beforeAll(async () => {
  eu = await parts.addModelServers(2);
  [us, small] = (await parts.addModelServers(2)) as [ModelServer, ModelServer];
  const fallback = ['us', { pool: 'small', model: 'small-model' }];
  fairlead = await parts.add(
    startFairlead({
      pools: [
        { name: 'eu', labels: { region: 'eu' }, endpoints: eu.map(({ address }) => ({ address, limits: { requests: 1 } })) },
        { name: 'us', labels: { region: 'us' }, endpoints: [{ address: us.address }] },
        { name: 'small', endpoints: [{ address: small.address, labels: { region: 'eu' } }] },
      ],
      routes: [
        { name: 'chat', match: { model: 'chat' }, targets: [{ pool: 'eu' }], fallback },
        { name: 'resident', match: { model: 'resident' }, targets: [{ pool: 'eu' }], fallback, residency: { label: 'region', values: ['eu'] } },
        { name: 'by-tenant', match: { model: 'tenants' }, targets: [{ pool: 'eu' }], fallback, residency: { label: 'region', tenants: { 'acme-*': ['eu'] } } },
      ],
    }),
  );
  const clusters = { eu: eu.map(({ address }) => address), us: [us.address], small: [small.address] };
  const configs = Object.entries(modes).map(
    ([name, options]) => [name, renderEnvoyConfig({ ...options, messageTimeoutMs: 10_000, fairlead: [fairlead.address], clusters })] as const,
  );
  envoy = await parts.add(startEnvoy({ config: withListeners(Object.fromEntries(configs)) }));
  for (const name of names) clients.set(name, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 8))));
});
afterAll(() => parts.stop());
afterEach(async () => {
  for (const pool of ['eu', 'us', 'small']) await setAll(pool, 'ready');
  // What the access log has yet to report still holds its place on an endpoint that takes one at a time.
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 10_000 }).toBe(0);
});

async function setAll(pool: string, state: 'ready' | 'draining' | 'not-ready'): Promise<void> {
  const servers = { eu, us: [us], small: [small] }[pool] ?? [];
  for (const { address } of servers) await fairlead.put(`/api/v1/pools/${pool}/endpoints/${address}/state`, { state });
}

function ask(mode: string, model: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
  const body = `{"messages":[{"role":"user","content":"hello"}],"model":"${model}","user":"u"}`;
  return clients.get(mode)!.send({ path: '/echo/v1/chat/completions', headers: { 'content-type': 'application/json', ...headers }, body });
}

/** Who answered, under which model, and what the client was told. */
function fateOf(answer: Answer): Record<string, unknown> {
  const model = answer.status === 200 ? (JSON.parse(answer.body.toString()) as { model: string }).model : undefined;
  const pool = [...eu.map(({ address }) => ['eu', address]), ['us', us.address], ['small', small.address]].find(([, address]) => address === answer.servedBy)?.[0];
  return { status: answer.status, pool, model, fallback: answer.headers['x-fairlead-fallback'], refusal: answer.headers['x-fairlead-refusal'] };
}

function served(pool: string, model: string, fallback?: string): Record<string, unknown> {
  return { status: 200, pool, model, fallback, refusal: undefined };
}

function refused(status: number, refusal: string): Record<string, unknown> {
  return { status, pool: undefined, model: undefined, fallback: undefined, refusal };
}

describe.each(names)('%s', (mode) => {
  // Both where the headers tell everything, and where the body is waited for.
  const tellings: [title: string, headers: (model: string) => Record<string, string>][] = [
    ['told by headers', (model) => ({ 'x-model': model, 'x-session-id': 's' })],
    ['told by the body', () => ({})],
  ];

  it.each(tellings)('%s: the target, then each fallback in order, then a refusal', async (_title, headersOf) => {
    const chat = async (): Promise<unknown> => fateOf(await ask(mode, 'chat', headersOf('chat')));
    expect(await chat()).toEqual(served('eu', 'chat'));
    await setAll('eu', 'not-ready');
    const before = await fairlead.metric('fairlead_fallbacks_total', { route: 'chat', pool: 'us' });
    expect(await chat()).toEqual(served('us', 'chat', 'us'));
    expect(await fairlead.metric('fairlead_fallbacks_total', { route: 'chat', pool: 'us' })).toBe(before + 1);
    await setAll('us', 'draining');
    expect(await chat()).toEqual(served('small', 'small-model', 'small'));
    await setAll('small', 'not-ready');
    const none = await ask(mode, 'chat', headersOf('chat'));
    expect(fateOf(none)).toEqual(refused(503, 'no_ready_endpoint'));
    expect(none.headers['retry-after']).toBe('1');
    await setAll('eu', 'ready');
    expect(await chat()).toEqual(served('eu', 'chat'));
  });

  it.each(tellings)('%s: residency holds in the target and in every fallback', async (_title, headersOf) => {
    const resident = async (): Promise<unknown> => fateOf(await ask(mode, 'resident', headersOf('resident')));
    expect(await resident()).toEqual(served('eu', 'resident'));
    await setAll('eu', 'not-ready');
    expect(await resident()).toEqual(served('small', 'small-model', 'small'));
    await setAll('small', 'not-ready');
    expect(await resident()).toEqual(refused(503, 'residency_unavailable'));
    // There was somebody who would have taken it.
    expect(fateOf(await ask(mode, 'chat', headersOf('chat')))).toEqual(served('us', 'chat', 'us'));
  });

  it('residency by tenant binds those tenants alone', async () => {
    await setAll('eu', 'not-ready');
    await setAll('small', 'not-ready');
    expect(fateOf(await ask(mode, 'tenants', { 'x-tenant-id': 'acme-1' }))).toEqual(refused(503, 'residency_unavailable'));
    expect(fateOf(await ask(mode, 'tenants', { 'x-tenant-id': 'other' }))).toEqual(served('us', 'tenants', 'us'));
  });

  it('a target whose endpoints are all at their limit is left for the fallback', async () => {
    const slow = { 'x-model': 'chat', 'x-session-id': 's', 'content-type': 'application/json' };
    for (const { control } of eu) await control.set({ slowFactor: 3_000 });
    const client = clients.get(mode)!;
    const open: Promise<unknown>[] = [];
    const aborts: (() => void)[] = [];
    for (let i = 1; i <= 2; i += 1) {
      const call = client.open({ path: '/v1/chat/completions', headers: slow, body: '{"model":"chat","stream":true,"messages":[{"role":"user","content":"hi"}]}' });
      open.push(call.then(({ body }) => aborts.push(() => body.on('error', () => undefined).destroy())));
      await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(i);
    }
    expect(fateOf(await ask(mode, 'chat', { 'x-model': 'chat', 'x-session-id': 's' }))).toEqual(served('us', 'chat', 'us'));
    await setAll('us', 'not-ready');
    await setAll('small', 'not-ready');
    expect(fateOf(await ask(mode, 'chat', { 'x-model': 'chat', 'x-session-id': 's' }))).toEqual(refused(429, 'overloaded'));
    await Promise.all(open);
    for (const abort of aborts) abort();
    for (const { control } of eu) await control.set({ slowFactor: 1 });
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 10_000 }).toBe(0);
  });
});

it('the fleet page shows the routes, and what an operator set', async () => {
  await fairlead.put('/api/v1/routes/chat/weights', { targets: [{ pool: 'eu', weight: 7 }] });
  const { routes } = JSON.parse((await fairlead.get('/api/v1/fleet')).text) as { routes: unknown[] };
  expect(routes[0]).toEqual({
    name: 'chat',
    targets: [{ pool: 'eu', model: null, weight: 7, configuredWeight: 100 }],
    shift: null,
    fallback: [
      { pool: 'us', model: null },
      { pool: 'small', model: 'small-model' },
    ],
  });
});

it('no answer failed', async () => {
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
  expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
  expect(await fairlead.metric('fairlead_streams_closed_total', { ending: 'protocol-error' })).toBe(0);
  const stats = await envoy.stats('ext_proc\\.(streams_failed|message_timeouts|spurious_msgs_received|rejected_header_mutations|failure_mode_allowed)$');
  expect(Object.entries(stats).filter(([, value]) => value !== 0)).toEqual([]);
});
