import { gzipSync } from 'node:zlib';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { type Answer, HttpClient, sha256 } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

// No route takes every model: what tells none cannot be routed. Pool `tight` takes one request at a time.
const parts = new RunningParts();
let chat: ModelServer[];
let tight: ModelServer;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
let client: HttpClient;
let openai: OpenAI;

beforeAll(async () => {
  chat = await parts.addModelServers(3);
  [tight] = (await parts.addModelServers(1)) as [ModelServer];
  const endpoints = chat.map(({ address }) => address);
  fairlead = await parts.add(
    startFairlead({
      pools: [
        {
          name: 'chat',
          policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } },
          endpoints: endpoints.map((address) => ({ address })),
        },
        { name: 'tight', endpoints: [{ address: tight.address, limits: { requests: 1 } }] },
      ],
      routes: [
        { match: { model: 'chat-*' }, targets: [{ pool: 'chat' }] },
        { match: { model: 'tight' }, targets: [{ pool: 'tight' }] },
      ],
    }),
  );
  const clusters = { chat: endpoints, tight: [tight.address] };
  envoy = await parts.add(startEnvoy({ config: renderEnvoyConfig({ clusters, fairlead: [fairlead.address], messageTimeoutMs: 10_000 }) }));
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 16)));
  openai = new OpenAI({ baseURL: `${envoy.url}/v1`, apiKey: 'none', maxRetries: 0, timeout: 20_000 });
});
afterAll(() => parts.stop());

const messages = [{ role: 'user' as const, content: 'hello' }];
const path = '/echo/v1/chat/completions';
const json = { 'content-type': 'application/json' };

/** What a call rejects with. */
async function failureOf(call: PromiseLike<unknown>): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error('the call succeeded');
}

describe('the official client', () => {
  it('gets an answer, plain and streamed', async () => {
    const plain = await openai.chat.completions.create({ model: 'chat-a', messages, max_completion_tokens: 8 });
    expect(plain.choices[0]?.message.content).toContain('simulated');
    const stream = await openai.chat.completions.create({ model: 'chat-a', messages, max_completion_tokens: 8, stream: true, stream_options: { include_usage: true } });
    let text = '';
    let usage: number | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage?.completion_tokens ?? usage;
    }
    expect(text).toBe(plain.choices[0]?.message.content);
    expect(usage).toBe(8);
  });

  it.each([false, true])('is told that a model is not there (streaming: %s)', async (stream) => {
    const error = await failureOf(openai.chat.completions.create({ model: 'no-such-model', messages, stream }));
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error).toMatchObject({ status: 404, code: 'model_not_found', type: 'invalid_request_error', param: 'model' });
    // What a client sent does not come back.
    expect(String(error)).not.toContain('no-such-model');
    expect(await fairlead.metric('fairlead_refusals_total', { code: 'model_not_found' })).toBe(stream ? 2 : 1);
  });

  it('is told that it named no model', async () => {
    const error = await failureOf(openai.post('/chat/completions', { body: { messages } }));
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, code: 'model_required', type: 'invalid_request_error', param: 'model' });
  });

  it('is told to come back when all are busy, and succeeds when it does', async () => {
    await tight.control.set({ slowFactor: 3_000 });
    const abort = new AbortController();
    const first = failureOf(openai.chat.completions.create({ model: 'tight', messages }, { signal: abort.signal }));
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(1);

    const error = await failureOf(openai.chat.completions.create({ model: 'tight', messages }));
    expect(error).toBeInstanceOf(OpenAI.RateLimitError);
    expect(error).toMatchObject({ status: 429, code: 'overloaded', type: 'rate_limit_error' });
    expect((error as InstanceType<typeof OpenAI.RateLimitError>).headers.get('retry-after')).toBe('1');
    expect(tight.control.stats().requests).toBe(1);

    // The client keeps to Retry-After by itself.
    const refusals = await fairlead.metric('fairlead_refusals_total', { code: 'overloaded' });
    const patient = openai.chat.completions.create({ model: 'tight', messages, max_completion_tokens: 2 }, { maxRetries: 5 });
    await expect.poll(() => fairlead.metric('fairlead_refusals_total', { code: 'overloaded' }), { timeout: 5_000 }).toBe(refusals + 1);
    await tight.control.set({ slowFactor: 1 });
    abort.abort();
    expect(await first).toBeInstanceOf(OpenAI.APIUserAbortError);
    expect((await patient).choices).toHaveLength(1);
  });
});

/** Bodies that tell nothing that can be trusted, with the headers they come with. */
const unusable: Readonly<Record<string, readonly [headers: Record<string, string>, body: Buffer]>> = {
  compressed: [{ ...json, 'content-encoding': 'gzip' }, gzipSync(JSON.stringify({ model: 'chat-a', messages }))],
  'said to be compressed': [{ ...json, 'content-encoding': 'br' }, Buffer.from('{"model":"chat-a","messages":[]}')],
  'of another type': [{ 'content-type': 'multipart/form-data; boundary=x' }, Buffer.from('--x\r\n\r\n{"model":"chat-a"}\r\n--x--')],
  'no JSON': [json, Buffer.from('model: chat-a')],
  'an array': [json, Buffer.from('[{"model":"chat-a"}]')],
  'a string': [json, Buffer.from('"{\\"model\\":\\"chat-a\\"}"')],
  truncated: [json, Buffer.from('{"model":"chat-a","messages":[{"role":"user","content":"hel')],
  'with the model twice': [json, Buffer.from('{"model":"chat-a","model":"chat-b","messages":[]}')],
  'with the model as an object': [json, Buffer.from('{"model":{"toString":"chat-a"},"messages":[]}')],
  'with the model elsewhere': [json, Buffer.from('{"__proto__":{"model":"chat-a"},"constructor":{"model":"chat-a"},"messages":[{"model":"chat-a"}]}')],
  'deeply nested': [json, Buffer.from(`{"messages":${'['.repeat(100_000)}${']'.repeat(100_000)},"model":"chat-a"}`)],
  'of a huge key': [json, Buffer.from(`{"${'k'.repeat(1_100_000)}":1,"model":"chat-a"}`)],
  'with bytes that are no UTF-8 in the model': [json, Buffer.concat([Buffer.from('{"model":"chat-'), Buffer.from([0xff, 0xfe, 0x80]), Buffer.from('","messages":[]}')])],
  'with an endless model': [json, Buffer.from(`{"model":"chat-${'a'.repeat(5_000)}","messages":[]}`)],
  empty: [json, Buffer.alloc(0)],
};

describe.each(Object.keys(unusable))('a body %s', (name) => {
  const [headers, body] = unusable[name]!;

  it('is routed on what the headers say, and arrives as it was', async () => {
    const session = `session of ${name}`;
    const home = await client.send({ path: '/echo', headers: { 'x-model': 'chat-a', 'x-session-id': session } });
    const send = (more: Record<string, string>): Promise<Answer> => client.send({ path, headers: { ...headers, 'x-model': 'chat-a', ...more }, body });
    const withSession = await send({ 'x-session-id': session });
    expect([withSession.status, withSession.servedBy, withSession.headers['x-body-sha256']]).toEqual([200, home.servedBy, sha256(body)]);
    // Without a session in the headers, it is looked for in the body, in vain.
    const withModel = await send({});
    expect([withModel.status, withModel.headers['x-body-sha256']]).toEqual([200, sha256(body)]);
    expect(chat.map(({ address }) => address)).toContain(withModel.servedBy);
  });

  it('is refused when they say too little', async () => {
    const before = chat.map(({ control }) => control.stats().otherRequests);
    const refused = await client.send({ path, headers: { ...headers, 'x-session-id': 's' }, body });
    expect([refused.status, refused.servedBy]).toEqual([400, undefined]);
    expect(refused.headers).toMatchObject({ 'content-type': 'application/json', 'x-fairlead-refusal': 'model_required' });
    expect(JSON.parse(refused.body.toString())).toEqual({
      error: { message: expect.stringContaining('names no model') as string, type: 'invalid_request_error', param: 'model', code: 'model_required' },
    });
    expect(chat.map(({ control }) => control.stats().otherRequests)).toEqual(before);
  });
});

it('refusals count nothing in flight, and hurt nobody', async () => {
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 2_000 }).toBe(0);
  expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
  expect(await fairlead.metric('fairlead_streams_closed_total', { ending: 'internal-error' })).toBe(0);
  expect(await fairlead.metric('fairlead_streams_closed_total', { ending: 'protocol-error' })).toBe(0);
  expect(await fairlead.metric('fairlead_refusals_total', { code: 'model_required' })).toBeGreaterThanOrEqual(Object.keys(unusable).length);
  const stats = await envoy.stats('ext_proc\\.(streams_failed|message_timeouts|spurious_msgs_received|rejected_header_mutations)$');
  expect(Object.values(stats)).toEqual([0, 0, 0, 0]);
});
