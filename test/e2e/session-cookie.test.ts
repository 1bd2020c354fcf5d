import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { expectedChatStream } from './expected-stream.ts';
import { type Answer, type Call, HttpClient, inParallel } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { connectionManager, withListeners } from './shared-envoy.ts';

// Clients that name no session get one in a signed cookie, and keep to its endpoint.
const name = 'fairlead-session';
const secret = 'one per fleet';

const parts = new RunningParts();
let endpoints: string[];
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients = new Map<string, HttpClient>();

/** How Envoy may be set up; in all of them the cookie has to come through. */
const listeners: Readonly<Record<string, EnvoyOptions>> = {
  'asks by mode_override': {},
  'sends bodies buffered': { bodyMode: 'BUFFERED' },
  'sends bodies streamed': { bodyMode: 'STREAMED' },
  'sends everything in full duplex': { bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED' },
  'sends response headers anyway': { responseHeaders: true },
  'streams the response': { responseBodyMode: 'STREAMED', responseHeaders: true },
};

function startRouter(affinitySecret: string): Promise<FairleadProcess> {
  return startFairlead({
    affinity: { secret: affinitySecret, cookie: { secure: false, maxAgeS: 3_600 } },
    pools: [
      {
        name: 'chat',
        // Sessions are to stay at home, however long a busy machine takes to report the ends of requests.
        policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } },
        endpoints: endpoints.map((address) => ({ address })),
      },
      {
        name: 'seen',
        cluster: 'chat',
        policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } },
        observe: { firstToken: true },
        endpoints: endpoints.map((address) => ({ address })),
      },
    ],
    routes: [
      { match: { model: 'seen' }, targets: [{ pool: 'seen' }] },
      { match: { model: 'm' }, targets: [{ pool: 'chat' }] },
    ],
  });
}

beforeAll(async () => {
  endpoints = (await parts.addModelServers(5)).map(({ address }) => address);
  fairlead = await parts.add(startRouter(secret));
  const shared: EnvoyOptions = { clusters: { chat: endpoints }, fairlead: [fairlead.address], messageTimeoutMs: 20_000 };
  const withCookie = renderEnvoyConfig(shared);
  // An upstream that sets a cookie of its own.
  for (const route of connectionManager(withCookie).route_config.virtual_hosts[0]!.routes) {
    Object.assign(route, { response_headers_to_add: [{ header: { key: 'set-cookie', value: 'upstream=1; Path=/' }, append_action: 'APPEND_IF_EXISTS_OR_ADD' }] });
  }
  envoy = await parts.add(
    startEnvoy({
      config: withListeners({
        ...Object.fromEntries(Object.entries(listeners).map(([listener, options]) => [listener, renderEnvoyConfig({ ...shared, ...options })])),
        'upstream has a cookie': withCookie,
        'grants no override': renderEnvoyConfig({ ...shared, allowModeOverride: false }),
      }),
    }),
  );
  for (const listener of [...Object.keys(listeners), 'upstream has a cookie', 'grants no override']) {
    clients.set(listener, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(listener)}`, 16))));
  }
});
afterAll(() => parts.stop());

function chat(fields: object = {}, headers: Readonly<Record<string, string>> = {}): Call {
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'hello' }], ...fields });
  return { path: '/v1/chat/completions', headers: { 'content-type': 'application/json', 'x-model': 'm', ...headers }, body };
}
const bare = (headers: Readonly<Record<string, string>> = {}): Call => ({ path: '/headers', headers: { 'x-model': 'm', ...headers } });
const send = (call: Call, listener = 'asks by mode_override'): Promise<Answer> => clients.get(listener)!.send(call);

/** All cookies that an answer sets. */
function cookiesOf({ headers }: Pick<Answer, 'headers'>): string[] {
  return [headers['set-cookie'] ?? []].flat();
}
/** The cookie that comes back with the next request. */
function cookieOf(answer: Pick<Answer, 'headers'>): string {
  const ours = cookiesOf(answer).filter((cookie) => cookie.startsWith(`${name}=`));
  expect(ours).toHaveLength(1);
  expect(ours[0]).toMatch(/^fairlead-session=[A-Za-z0-9_-]{48}; Path=\/; Max-Age=3600; HttpOnly; SameSite=Lax$/);
  return ours[0]!.split(';')[0]!;
}

describe.each(Object.keys(listeners))('an Envoy that %s', (listener) => {
  it.each<[string, () => Call]>([
    ['without a body', bare],
    ['with one that names no session', chat],
  ])('a request %s gets a cookie, and those that bring it back stay on its endpoint', async (_title, call) => {
    const homes = new Set<string>();
    await inParallel(12, 6, async () => {
      const first = await send(call(), listener);
      expect(first.status).toBe(200);
      const cookie = cookieOf(first);
      homes.add(first.servedBy!);
      for (const next of [bare({ cookie }), chat({}, { cookie: `theme=dark; ${cookie}` }), bare({ cookie })]) {
        const answer = await send(next, listener);
        expect(answer.status).toBe(200);
        expect(answer.servedBy).toBe(first.servedBy);
        // It is young: nothing to renew.
        expect(cookiesOf(answer)).toEqual([]);
      }
    });
    // With one chance in fifty million, twelve sessions share one of five endpoints.
    expect(homes.size).toBeGreaterThan(1);
  });

  it('a session that the client names gets none', async () => {
    for (const call of [bare({ 'x-session-id': 's' }), chat({}, { 'x-session-id': 's' }), chat({}, { session_id: 's' })]) {
      const answer = await send(call, listener);
      expect(answer.status).toBe(200);
      expect(cookiesOf(answer)).toEqual([]);
    }
  });
});

it.each(['asks by mode_override', 'sends bodies buffered', 'sends everything in full duplex'])('%s: a session in the body gets none', async (listener) => {
  for (const fields of [{ prompt_cache_key: 'k' }, { conversation: { id: 'c' } }, { metadata: { user_id: 'u' } }, { user: 'u' }]) {
    const answer = await send(chat(fields), listener);
    expect(answer.status).toBe(200);
    expect(cookiesOf(answer)).toEqual([]);
  }
});

it('a forged cookie counts as none, is counted, and is replaced', async () => {
  const before = await fairlead.metric('fairlead_session_cookies_total', { outcome: 'invalid' });
  const real = cookieOf(await send(bare()));
  const forged = [`${name}=mine`, `${name}=${'A'.repeat(48)}`, `${real.slice(0, -1)}${real.endsWith('A') ? 'B' : 'A'}`, `${name}=`];
  for (const cookie of forged) {
    const answer = await send(bare({ cookie }));
    expect(answer.status).toBe(200);
    const replaced = cookieOf(answer);
    expect(replaced).not.toBe(cookie);
    expect((await send(bare({ cookie: replaced }))).servedBy).toBe(answer.servedBy);
  }
  // A session that the client names is not touched by it.
  expect(cookiesOf(await send(bare({ cookie: forged[1]!, 'x-session-id': 's' })))).toEqual([]);
  expect((await fairlead.metric('fairlead_session_cookies_total', { outcome: 'invalid' })) - before).toBe(forged.length + 1);
});

it('comes beside the cookies that the upstream sets', async () => {
  const answer = await send(bare(), 'upstream has a cookie');
  expect(cookiesOf(answer)).toContain('upstream=1; Path=/');
  cookieOf(answer);
  expect(cookiesOf(answer)).toHaveLength(2);
});

it.each([
  ['the first token not looked for', 'm'],
  ['the first token looked for', 'seen'],
])('comes with a stream of tokens, every byte of it: %s', async (_title, model) => {
  const seenBefore = await fairlead.metric('fairlead_time_to_first_token_seconds_count');
  await inParallel(20, 20, async (i) => {
    const request = { model, stream: true, max_tokens: 40, ignore_eos: true, messages: [{ role: 'user', content: `question ${i}` }] };
    const answer = await send({ ...chat(), headers: { 'content-type': 'application/json' }, body: JSON.stringify(request) });
    expect(answer.status).toBe(200);
    cookieOf(answer);
    const received = answer.body.toString();
    expect(received).toBe(expectedChatStream(request, received));
    expect(received.endsWith('data: [DONE]\n\n')).toBe(true);
  });
  expect((await fairlead.metric('fairlead_time_to_first_token_seconds_count')) - seenBefore).toBe(model === 'seen' ? 20 : 0);
});

it('a refusal sets none', async () => {
  const answer = await send({ ...chat(), headers: { 'content-type': 'application/json', 'x-model': 'unknown' } });
  expect(answer.status).toBe(404);
  expect(cookiesOf(answer)).toEqual([]);
});

it('a router with the same secret knows it, one with another replaces it', async () => {
  const first = await send(bare());
  const cookie = cookieOf(first);
  const own = new RunningParts();
  try {
    const [same, other] = await Promise.all([own.add(startRouter(secret)), own.add(startRouter('of another fleet'))]);
    const shared = { clusters: { chat: endpoints }, messageTimeoutMs: 20_000 };
    const second = await own.add(
      startEnvoy({
        config: withListeners({ same: renderEnvoyConfig({ ...shared, fairlead: [same.address] }) }),
      }),
    );
    const third = await own.add(startEnvoy({ config: renderEnvoyConfig({ ...shared, fairlead: [other.address] }) }));
    const toSame = await own.add(Promise.resolve(new HttpClient(second.url, 1)));
    const toOther = await own.add(Promise.resolve(new HttpClient(third.url, 1)));
    const known = await toSame.send(bare({ cookie }));
    expect(known.servedBy).toBe(first.servedBy);
    expect(cookiesOf(known)).toEqual([]);
    const unknown = await toOther.send(bare({ cookie }));
    expect(cookieOf(unknown)).not.toBe(cookie);
  } finally {
    await own.stop();
  }
});

it('an Envoy that grants no mode_override goes on without, and that is counted', async () => {
  const before = await fairlead.metric('fairlead_session_cookies_total', { outcome: 'unsent' });
  const answer = await send(bare(), 'grants no override');
  expect(answer.status).toBe(200);
  expect(cookiesOf(answer)).toEqual([]);
  await expect.poll(async () => (await fairlead.metric('fairlead_session_cookies_total', { outcome: 'unsent' })) - before, { timeout: 5_000 }).toBe(1);
});

it('left every stream clean and no request counted', async () => {
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
  const stats = await envoy.stats('ext_proc');
  const sum = (suffix: string): number => Object.entries(stats).reduce((all, [stat, count]) => (stat.endsWith(suffix) ? all + count : all), 0);
  expect(sum('.streams_started')).toBeGreaterThan(200);
  expect(sum('.streams_failed')).toBe(0);
  expect(sum('.spurious_msgs_received')).toBe(0);
  expect(sum('.rejected_header_mutations')).toBe(0);
  expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
});
