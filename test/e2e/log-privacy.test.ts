import { connect } from 'node:http2';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { HttpClient } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { withListeners } from './shared-envoy.ts';

// Whatever a client can send carries a mark. None may show in what Fairlead writes or tells, at the most talkative log level.
const mark = 'm4rk3d';
const parts = new RunningParts();
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const listeners = ['none', 'buffered', 'duplex', 'partial'];

beforeAll(async () => {
  const endpoints = (await parts.addModelServers(2)).map(({ address }) => address);
  fairlead = await parts.add(
    startFairlead({
      log: { level: 'trace' },
      pools: [{ name: 'chat', observe: { firstToken: true }, endpoints: endpoints.map((address) => ({ address })) }],
      routes: [{ match: { model: 'chat-*' }, targets: [{ pool: 'chat' }] }],
    }),
  );
  const shared = { clusters: { chat: endpoints }, fairlead: [fairlead.address], messageTimeoutMs: 10_000 };
  envoy = await parts.add(
    startEnvoy({
      config: withListeners({
        none: renderEnvoyConfig(shared),
        buffered: renderEnvoyConfig({ ...shared, bodyMode: 'BUFFERED' }),
        duplex: renderEnvoyConfig({ ...shared, bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED' }),
        partial: renderEnvoyConfig({ ...shared, bodyMode: 'BUFFERED_PARTIAL', responseBodyMode: 'STREAMED', responseHeaders: true }),
      }),
    }),
  );
});
afterAll(() => parts.stop());

/** Bytes to the gRPC port that are no message of any protocol. */
function sendGarbage(): Promise<void> {
  return new Promise((resolve) => {
    const session = connect(`http://${fairlead.address}`);
    session.on('error', () => resolve());
    const stream = session.request({
      ':method': 'POST',
      ':path': '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
      'content-type': 'application/grpc',
      te: 'trailers',
      authorization: `Bearer ${mark}`,
    });
    const text = Buffer.from(`\xff\xff${mark} is no message`, 'latin1');
    const frame = Buffer.concat([Buffer.from([0, 0, 0, 0, text.length]), text]);
    stream.on('error', () => undefined);
    stream.resume();
    stream.once('close', () => session.close(() => resolve()));
    stream.setTimeout(5_000, () => stream.close());
    stream.end(frame);
  });
}

it('nothing that a client sent is written down or told', async () => {
  const headers = {
    'content-type': 'application/json',
    authorization: `Bearer ${mark}-authorization`,
    'api-key': `${mark}-key`,
    cookie: `fairlead-session=${mark}-cookie; other=${mark}`,
    'x-tenant-id': `${mark}-tenant`,
    'x-custom': `${mark}-custom`,
  };
  const messages = [{ role: 'user', content: `${mark}-prompt` }];
  const bodies = [
    JSON.stringify({ model: 'chat-a', messages, user: `${mark}-user`, prompt_cache_key: `${mark}-cache-key`, max_tokens: 4 }),
    JSON.stringify({ model: 'chat-a', messages, stream: true, max_tokens: 4 }),
    JSON.stringify({ model: `${mark}-model`, messages }),
    JSON.stringify({ messages }),
    `{"model":"chat-a","messages":[{"content":"${mark}-truncated`,
    `${mark} is no JSON`,
    `{"${mark}":${'['.repeat(2_000)}`,
  ];
  const statuses = new Set<number>();
  for (const name of listeners) {
    const client = await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 4)));
    for (const body of bodies) {
      for (const more of [{}, { 'x-session-id': `${mark}-session` }, { 'x-model': `${mark}-header-model` }, { 'content-encoding': mark }] as Record<string, string>[]) {
        const answer = await client.send({ path: `/v1/chat/completions?key=${mark}-query`, headers: { ...headers, ...more }, body });
        statuses.add(answer.status);
        if (answer.servedBy === undefined) expect(answer.body.toString()).not.toContain(mark);
        for (const [header, value] of Object.entries(answer.headers)) expect(`${header}: ${String(value)}`).not.toContain(mark);
      }
    }
    // A client that leaves in the middle.
    const { body } = await client.open({ path: '/v1/chat/completions', headers, body: bodies[1]! });
    body.on('error', () => undefined).destroy();
  }
  await sendGarbage();
  // All kinds of outcomes were there: answers, refusals, a model server's own errors.
  expect([...statuses].sort()).toEqual(expect.arrayContaining([200, 400, 404]));
  // On each listener: two bodies, with and without a session in a header, and the client that left.
  expect(await fairlead.metric('fairlead_decisions_total')).toBeGreaterThanOrEqual(listeners.length * 5);
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);

  for (const page of ['/metrics', '/api/v1/fleet', '/readyz', '/']) expect((await fairlead.get(page)).text).not.toContain(mark);
  // Which model was asked for is what an operator looks for there: names that look like one, and nothing else.
  const decisions = (await fairlead.get('/api/v1/decisions?limit=256')).text;
  expect(decisions).toContain(`"model":"${mark}-model"`);
  expect(decisions.replaceAll(`"model":"${mark}-model"`, '').replaceAll(`"model":"${mark}-header-model"`, '')).not.toContain(mark);
  fairlead.signal('SIGTERM');
  expect(await fairlead.ended).toBe(0);
  const log = fairlead.log();
  expect(log).toContain('"msg":"serving"');
  expect(log).toContain('"msg":"stopped"');
  expect(log.split('\n').filter((line) => line.includes(mark))).toEqual([]);
  // Nor in another spelling.
  for (const encoding of ['base64', 'hex'] as const) expect(log).not.toContain(Buffer.from(`${mark}-prompt`).toString(encoding).slice(0, 12));
});
