import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeSubsetHint, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { expectedChatStream } from './expected-stream.ts';
import { type Answer, HttpClient, sha256 } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

// An Envoy as the gateways of the Gateway API Inference Extension configure theirs: the bodies pass through the processor both ways, its
// choice is read from dynamic metadata alone, the route names the pool.
const subsetHeader = 'x-stands-for-gateway-logic';
const parts = new RunningParts();
let servers: ModelServer[];
/** Endpoints of the pool, all on one IP address. */
let pool: string[];
/** An endpoint that Envoy has and Fairlead has not. */
let outside: ModelServer;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
let client: HttpClient;

beforeAll(async () => {
  servers = await parts.addModelServers(4);
  outside = servers[3]!;
  pool = servers.slice(0, 3).map(({ address }) => address);
  fairlead = await parts.add(
    startFairlead({
      pools: [
        { name: 'chat', policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } }, endpoints: pool.map((address) => ({ address })) },
      ],
    }),
  );
  const clusters = { chat: [...pool, outside.address] };
  envoy = await parts.add(
    startEnvoy({ config: renderEnvoyConfig({ file: 'envoy-inference-gateway.yaml', subsetHeader, clusters, fairlead: [fairlead.address] }) }),
  );
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 16)));
});
afterAll(() => parts.stop());

const json = { 'content-type': 'application/json' };

function hint(...endpoints: string[]): Record<string, string> {
  return { [subsetHeader]: encodeSubsetHint(endpoints) };
}

/** A request that shows what the model server was told. */
async function ask(session: string, headers: Readonly<Record<string, string>> = {}): Promise<{ answer: Answer; told: string[] }> {
  const answer = await client.send({ path: '/headers', headers: { 'x-session-id': session, ...headers } });
  const received = answer.status === 200 ? (JSON.parse(answer.body.toString()) as Record<string, string>) : {};
  return { answer, told: received['x-gateway-destination-endpoint']?.split(',') ?? [] };
}

const sessions = Array.from({ length: 24 }, (_, i) => `session-${i}`);

describe('the pick', () => {
  it('is followed, over the whole pool and nothing else', async () => {
    const served = new Set<string>();
    for (const session of sessions) {
      const { answer, told } = await ask(session);
      expect(answer.status).toBe(200);
      expect(told[0]).toBe(answer.servedBy);
      expect([...told].sort()).toEqual([...pool].sort());
      served.add(answer.servedBy ?? 'nobody');
    }
    expect([...served].sort()).toEqual([...pool].sort());
  });

  it('is the same when only the body tells the session', async () => {
    for (const session of sessions.slice(0, 8)) {
      const body = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'x'.repeat(50_000) }], prompt_cache_key: session });
      const answer = await client.send({ path: '/echo/v1/chat/completions', headers: json, body });
      expect(answer.body.toString()).toBe(body);
      expect(answer.servedBy).toBe((await ask(session)).answer.servedBy);
    }
  });

  it('goes to the next of the list where the first cannot be reached, and that is noticed', async () => {
    const session = sessions[0]!;
    const { told } = await ask(session);
    const home = servers.find(({ address }) => address === told[0])!;
    const before = await fairlead.metric('fairlead_served_elsewhere_total');
    expect(before).toBe(0);
    await home.control.set({ mode: 'refuse' });
    const { answer } = await ask(session);
    await home.control.set({ mode: 'ok' });
    expect(answer.status).toBe(200);
    expect(answer.servedBy).toBe(told[1]);
    await expect.poll(() => fairlead.metric('fairlead_served_elsewhere_total', { endpoint: home.address }), { timeout: 2_000 }).toBe(1);
  });
});

describe('a subset hint', () => {
  it('of one ip:port is obeyed, though others have the same address', async () => {
    for (const only of pool) {
      for (const session of sessions.slice(0, 4)) {
        const { answer, told } = await ask(session, hint(only));
        expect([answer.status, answer.servedBy, told]).toEqual([200, only, [only]]);
      }
    }
  });

  it('of several leaves the choice among them to the session', async () => {
    const allowed = pool.slice(1);
    const served = new Map<string, string>();
    for (const session of [...sessions, ...sessions]) {
      const { answer } = await ask(session, hint(outside.address, ...allowed));
      expect(allowed).toContain(answer.servedBy);
      expect(served.get(session) ?? answer.servedBy).toBe(answer.servedBy);
      served.set(session, answer.servedBy!);
    }
    expect(new Set(served.values()).size).toBe(2);
  });

  it('holds for requests that are decided in the body', async () => {
    const body = Buffer.concat([Buffer.from('{"model":"m","messages":"'), Buffer.alloc(5_000_000, 'x'), Buffer.from('","user":"u"}')]);
    const answer = await client.send({ path: '/echo/v1/chat/completions', headers: { ...json, ...hint(pool[2]!) }, body });
    expect([answer.status, answer.servedBy, answer.headers['x-body-sha256'], sha256(answer.body)]).toEqual([200, pool[2], sha256(body), sha256(body)]);
  });

  it.each([
    ['an empty one', (): string[] => []],
    ['of an endpoint that is not in the pool', (): string[] => [outside.address]],
    ['of a known address with an unknown port', (): string[] => ['127.0.0.1:1']],
    ['of an address without a port', (): string[] => ['127.0.0.1']],
    ['of nonsense', (): string[] => ['', ' ', 'localhost', '[::1', randomBytes(40).toString('latin1')]],
  ])('%s leaves nobody: 503', async (_title, endpoints) => {
    const requestsBefore = servers.map(({ control }) => control.stats().otherRequests);
    for (const call of [
      { path: '/headers', headers: { 'x-session-id': 's', ...hint(...endpoints()) } },
      { path: '/echo/v1/chat/completions', headers: { ...json, ...hint(...endpoints()) }, body: '{"model":"m","user":"u","messages":[]}' },
    ]) {
      const answer = await client.send(call);
      expect(answer.status).toBe(503);
      expect(JSON.parse(answer.body.toString())).toMatchObject({ error: { code: 'subset_unavailable' } });
      expect(answer.headers).toMatchObject({ 'content-type': 'application/json', 'retry-after': '1', 'x-fairlead-refusal': 'subset_unavailable' });
    }
    expect(servers.map(({ control }) => control.stats().otherRequests)).toEqual(requestsBefore);
  });

  it('given by a client counts for nothing, nor does anything else that it claims', async () => {
    const { answer: honest } = await ask('one that is steered');
    for (const target of [...pool, outside.address]) {
      const { answer, told } = await ask('one that is steered', {
        'x-gateway-destination-endpoint': target,
        'x-gateway-destination-endpoint-subset': target,
        'X-Gateway-Destination-Endpoint-Served': target,
        'x-fairlead-cluster': 'fairlead',
      });
      expect(answer.servedBy).toBe(honest.servedBy);
      expect(told[0]).toBe(honest.servedBy);
    }
    expect(outside.control.stats()).toMatchObject({ requests: 0, otherRequests: 0 });
  });
});

describe('the response', () => {
  it('passes unchanged, streamed and plain, while many run', async () => {
    await Promise.all(
      Array.from({ length: 24 }, async (_, i) => {
        const request = { model: 'm', stream: true, max_tokens: 120, ignore_eos: true, user: `u${i}`, messages: [{ role: 'user', content: `question ${i}` }] };
        const answer = await client.send({ path: '/v1/chat/completions', headers: json, body: JSON.stringify(request) });
        expect(answer.body.toString()).toBe(expectedChatStream(request, answer.body.toString()));
      }),
    );
  });

  it('ends each request in the counts, whoever ended it', async () => {
    const [slow] = servers;
    await slow!.control.set({ slowFactor: 2_000 });
    const open = await Promise.all(
      Array.from({ length: 4 }, () =>
        client.open({ path: '/v1/chat/completions', headers: { ...json, ...hint(pool[0]!) }, body: '{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}' }),
      ),
    );
    expect(await fairlead.requestsInFlight()).toBeGreaterThanOrEqual(4);
    for (const { body } of open) body.on('error', () => undefined).destroy();
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 2_000 }).toBe(0);
    await slow!.control.set({ slowFactor: 1 });
    expect(await fairlead.metric('fairlead_requests_released_total')).toBe(await fairlead.metric('fairlead_decisions_total'));
    expect(await fairlead.metric('fairlead_requests_released_total', { signal: 'response-phases', ending: 'finished' })).toBeGreaterThan(100);
    expect(await fairlead.metric('fairlead_requests_released_total', { ending: 'client-abort' })).toBe(4);
    expect(await fairlead.metric('fairlead_requests_released_total', { signal: 'timer' })).toBe(0);
    // The one retry above is the only request that another endpoint answered than the first of its list.
    expect(await fairlead.metric('fairlead_served_elsewhere_total')).toBe(1);
    expect(await envoy.stats('ext_proc\\.(streams_failed|message_timeouts|spurious_msgs_received|rejected_header_mutations)$')).toEqual({
      'http.llm.ext_proc.streams_failed': 0,
      'http.llm.ext_proc.message_timeouts': 0,
      'http.llm.ext_proc.spurious_msgs_received': 0,
      'http.llm.ext_proc.rejected_header_mutations': 0,
    });
  });
});

it('without Fairlead no request passes, whatever it claims', async () => {
  const before = servers.map(({ control }) => control.stats().otherRequests);
  fairlead.signal('SIGKILL');
  await fairlead.ended;
  for (let i = 0; i < 3; i += 1) {
    const { answer } = await ask('s', { 'x-gateway-destination-endpoint': pool[0]!, ...hint(pool[0]!) });
    expect(answer.status).toBeGreaterThanOrEqual(500);
  }
  expect(servers.map(({ control }) => control.stats().otherRequests)).toEqual(before);
});
