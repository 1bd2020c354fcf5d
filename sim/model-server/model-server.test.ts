import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import OpenAI from 'openai';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import type { EngineProfile } from '../engine/engine-profiles.ts';
import { type ModelServer, type ModelServerGroup, type ModelServerOptions, simulatedHeader, startModelServer } from './model-server.ts';
import { createRealtimeEcho } from './realtime-echo.ts';

const running: ModelServer[] = [];

/** A server 50 times faster than the clock: an answer takes a few milliseconds. */
async function start(options: ModelServerOptions = {}): Promise<ModelServer> {
  const server = await startModelServer({ timeScale: 50, ...options });
  running.push(server);
  return server;
}

afterEach(async () => {
  await Promise.all(running.splice(0).map((server) => server.close()));
});

function post(server: ModelServer, path: string, body: unknown, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
  const init = { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) };
  return fetch(server.url + path, signal === undefined ? init : { ...init, signal });
}

const hello = { model: 'any', messages: [{ role: 'user', content: 'Hello there, how are you?' }], max_tokens: 5 };
const chat = (server: ModelServer, change: object = {}, headers: Record<string, string> = {}): Promise<Response> =>
  post(server, '/v1/chat/completions', { ...hello, ...change }, headers);

interface ChatBody {
  readonly choices: { readonly message: { readonly content: string }; readonly finish_reason: string }[];
  readonly usage: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly prompt_tokens_details: { readonly cached_tokens: number };
  };
}

async function json<T>(response: Response): Promise<T> {
  expect(response.headers.get('content-type')).toBe('application/json');
  return (await response.json()) as T;
}

/** The data of every server-sent event. */
function eventData(stream: string): string[] {
  return stream
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event) => event.replace(/^event: .*\n/, '').replace(/^data: /, ''));
}

async function until(what: () => boolean): Promise<void> {
  for (let tries = 0; tries < 1000 && !what(); tries += 1) await new Promise((resolve) => setTimeout(resolve, 5));
  expect(what()).toBe(true);
}

describe('what it says it is', () => {
  it('shows on the front page and in every response that it is simulated, and who served it', async () => {
    const server = await start();
    expect(await (await fetch(server.url)).text()).toContain('simulated model server: no model, no GPU');
    const paths = ['/', '/health', '/metrics', '/v1/models', '/echo', '/nowhere', '/_sim/stats'];
    const others = await Promise.all(paths.map((path) => fetch(server.url + path)));
    for (const response of [await chat(server), await chat(server, { stream: true }), ...others]) {
      expect(response.headers.get(simulatedHeader)).toBe('true');
      expect(response.headers.get('x-served-by')).toBe(server.address);
      await response.body?.cancel();
    }
  });

  it('answers 404 and 405 in JSON', async () => {
    const server = await start();
    const missing = await fetch(`${server.url}/v1/embeddings`);
    expect(missing.status).toBe(404);
    expect(await json(missing)).toMatchObject({ error: { code: 'not_found' } });
    const wrong = await fetch(`${server.url}/v1/chat/completions`);
    expect([wrong.status, wrong.headers.get('allow')]).toEqual([405, 'POST']);
    expect((await fetch(`${server.url}/constructor`)).status).toBe(404);
  });
});

describe('plain answers', () => {
  it('completes a chat and counts its tokens', async () => {
    const server = await start();
    const response = await chat(server);
    expect(response.status).toBe(200);
    expect(await json(response)).toMatchObject({
      object: 'chat.completion',
      model: 'any',
      choices: [{ index: 0, message: { role: 'assistant', content: expect.stringMatching(/^\[simulated\] /) as string }, finish_reason: 'length' }],
      usage: { prompt_tokens: 12, completion_tokens: 5, total_tokens: 17, prompt_tokens_details: { cached_tokens: 0 } },
    });
  });

  it('finds the earlier turns cached, and its own answer', async () => {
    const server = await start();
    const messages = [{ role: 'user', content: 'word '.repeat(400) }];
    const first = await json<ChatBody>(await chat(server, { messages, max_tokens: 40, ignore_eos: true }));
    expect(first.usage).toMatchObject({ completion_tokens: 40, prompt_tokens_details: { cached_tokens: 0 } });
    const turns = [...messages, { role: 'assistant', content: first.choices[0]!.message.content }, { role: 'user', content: 'And?' }];
    const second = await json<ChatBody>(await chat(server, { messages: turns }));
    const firstTurnTokens = first.usage.prompt_tokens + 40 - 1;
    expect(second.usage.prompt_tokens_details.cached_tokens).toBe(Math.floor(firstTurnTokens / 16) * 16);
    expect(server.control.stats()).toMatchObject({
      promptTokens: first.usage.prompt_tokens + second.usage.prompt_tokens,
      cachedTokens: second.usage.prompt_tokens_details.cached_tokens,
    });
  });

  it('stops by itself, the same for the same prompt', async () => {
    const server = await start();
    const [one, two] = await Promise.all([chat(server, { max_tokens: 4000 }), chat(server, { max_tokens: undefined })]);
    const [first, second] = [await json<ChatBody>(one), await json<ChatBody>(two)];
    expect(first.choices).toEqual(second.choices);
    expect(first.choices[0]!.finish_reason).toBe('stop');
    expect(first.usage.completion_tokens).toBeGreaterThanOrEqual(32);
  });

  it('speaks the other APIs', async () => {
    const server = await start();
    expect(await json(await post(server, '/v1/completions', { prompt: 'Once upon a time', max_tokens: 2 }))).toMatchObject({
      object: 'text_completion',
      choices: [{ text: '[simulat', finish_reason: 'length' }],
      usage: { prompt_tokens: 4, completion_tokens: 2 },
    });
    const numbers = { prompt: [[1, 2, 3], [4]], max_tokens: 1 };
    expect(await json(await post(server, '/v1/completions', numbers))).toMatchObject({ usage: { prompt_tokens: 4 } });
    expect(await json(await post(server, '/v1/responses', { model: 'm', input: 'Hello', max_output_tokens: 3 }))).toMatchObject({
      object: 'response',
      status: 'incomplete',
      output: [{ type: 'message', content: [{ type: 'output_text', text: '[simulated] ' }] }],
      usage: { output_tokens: 3, input_tokens_details: { cached_tokens: 0 } },
    });
    const messages = { model: 'm', max_tokens: 3, system: 'Be brief.', messages: [{ role: 'user', content: [{ type: 'text', text: 'Hello' }] }] };
    expect(await json(await post(server, '/v1/messages', messages))).toMatchObject({
      type: 'message',
      content: [{ type: 'text', text: '[simulated] ' }],
      stop_reason: 'max_tokens',
      usage: { output_tokens: 3, cache_read_input_tokens: 0 },
    });
  });

  it.each([
    ['/v1/chat/completions', '{', 400, 'invalid_json'],
    ['/v1/chat/completions', '{}', 400, 'invalid_request'],
    ['/v1/chat/completions', '{"messages":[{"role":"user","content":"x"}],"max_tokens":0}', 400, 'invalid_request'],
    ['/v1/completions', '{"prompt":"x","max_tokens":1000000,"ignore_eos":true}', 400, 'context_length_exceeded'],
    ['/v1/chat/completions', '{"model":"other","messages":[{"role":"user","content":"x"}]}', 404, 'model_not_found'],
  ])('%s refuses %s', async (path, body, status, code) => {
    const server = await start({ model: 'mine' });
    const response = await fetch(server.url + path, { method: 'POST', body });
    expect(response.status).toBe(status);
    expect(await json(response)).toMatchObject({ error: { code, message: expect.any(String) as string } });
  });

  it('writes errors as the API spoken does', async () => {
    const server = await start();
    const response = await post(server, '/v1/messages', { messages: [{ role: 'user', content: 'x' }] });
    expect(response.status).toBe(400);
    const error = { type: 'invalid_request_error', message: expect.stringContaining('max_tokens') as string };
    expect(await json(response)).toMatchObject({ type: 'error', error });
  });
});

describe('streams', () => {
  it('sends a chunk per token, then the usage, then [DONE]', async () => {
    const server = await start();
    const response = await chat(server, { stream: true, stream_options: { include_usage: true } });
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    const events = eventData(await response.text());
    expect(events.at(-1)).toBe('[DONE]');
    interface Chunk {
      readonly choices: { readonly delta: { readonly role?: string; readonly content: string }; readonly finish_reason: string | null }[];
      readonly usage: unknown;
    }
    const chunks = events.slice(0, -1).map((data) => JSON.parse(data) as Chunk);
    const text: unknown = expect.any(String);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content)).toEqual(['[sim', 'ulat', 'ed] ', text, text, undefined]);
    expect(chunks.map(({ choices }) => choices[0]?.delta.role)).toEqual(['assistant', ...new Array<undefined>(5).fill(undefined)]);
    expect(chunks.map(({ choices }) => choices[0]?.finish_reason)).toEqual([null, null, null, null, 'length', undefined]);
    const usageOfAll: unknown = expect.objectContaining({ prompt_tokens: 12, completion_tokens: 5 });
    expect(chunks.map(({ usage }) => usage)).toEqual([null, null, null, null, null, usageOfAll]);
  });

  it('sends no usage that was not asked for', async () => {
    const server = await start();
    const events = eventData(await (await chat(server, { stream: true })).text());
    expect(events).toHaveLength(6);
    expect(events.join()).not.toContain('usage');
  });

  it('sends headers on acceptance, long before the first token', async () => {
    const server = await start({ timeScale: 1, switches: { slowFactor: 10_000 } });
    const controller = new AbortController();
    // The first token is minutes away; that the response is here at all is the point.
    const response = await post(server, '/v1/chat/completions', { ...hello, stream: true }, {}, controller.signal);
    expect(response.status).toBe(200);
    expect(server.control.stats()).toMatchObject({ inFlight: 1, ttftMs: [] });
    controller.abort();
  });

  it('keeps the pace of its profile', async () => {
    const server = await start({ timeScale: 20 });
    await (await post(server, '/v1/completions', { prompt: 'x'.repeat(8000), max_tokens: 3, stream: true })).text();
    expect(server.control.stats().ttftMs).toHaveLength(1);
    expect(server.control.stats().ttftMs[0]).toBeCloseTo(150, 3);
  });

  it('speaks the event streams of the other APIs', async () => {
    const server = await start();
    const completion = eventData(await (await post(server, '/v1/completions', { prompt: 'x', max_tokens: 2, stream: true })).text());
    expect(completion.at(-1)).toBe('[DONE]');
    const parts = completion.slice(0, -1).map((data) => JSON.parse(data) as { choices: { text: string }[] });
    expect(parts.map(({ choices }) => choices[0]!.text)).toEqual(['[sim', 'ulat']);

    const anthropic = { max_tokens: 2, stream: true, messages: [{ role: 'user', content: 'Hello' }] };
    const messageEvents = eventData(await (await post(server, '/v1/messages', anthropic)).text());
    expect(messageEvents.map((data) => (JSON.parse(data) as { type: string }).type)).toEqual([
      'message_start', 'content_block_start', 'content_block_delta', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop',
    ]);

    const response = eventData(await (await post(server, '/v1/responses', { input: 'Hello', max_output_tokens: 2, stream: true })).text());
    const events = response.map((data) => JSON.parse(data) as { type: string; sequence_number: number });
    expect(events.map(({ sequence_number: number }) => number)).toEqual(events.map((_, index) => index));
    expect(events.map(({ type }) => type)).toEqual([
      'response.created', 'response.output_item.added', 'response.content_part.added', 'response.output_text.delta', 'response.output_text.delta',
      'response.output_text.done', 'response.content_part.done', 'response.output_item.done', 'response.incomplete',
    ]);
  });

  it('is understood by the OpenAI client, both APIs', async () => {
    const server = await start();
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
    const stream = client.chat.completions.stream({
      model: 'm', messages: [{ role: 'user', content: 'Hello' }], max_tokens: 6, stream_options: { include_usage: true },
    });
    const completion = await stream.finalChatCompletion();
    expect(completion.choices[0]!.message.content).toMatch(/^\[simulated\] /);
    expect(completion.usage?.completion_tokens).toBe(6);

    const response = await client.responses.stream({ model: 'm', input: 'Hello', max_output_tokens: 6 }).finalResponse();
    expect(response.output_text).toMatch(/^\[simulated\] /);
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['simulated-model']);
  });

  it('gives the sequence up when the client leaves', async () => {
    const server = await start({ switches: { slowFactor: 100 } });
    const controller = new AbortController();
    const long = { ...hello, max_tokens: 5000, ignore_eos: true, stream: true };
    const response = await post(server, '/v1/chat/completions', long, {}, controller.signal);
    await response.body!.getReader().read();
    expect(await (await fetch(`${server.url}/metrics`)).text()).toMatch(/^vllm:num_requests_running\{.*\} 1$/m);
    controller.abort();
    await until(() => server.control.stats().inFlight === 0);
    expect(server.control.stats()).toMatchObject({ cancelled: 1, succeeded: 0, outputTokens: 0 });
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/^vllm:num_requests_running\{.*\} 0$/m);
    expect(metrics).toMatch(/^vllm:kv_cache_usage_perc\{.*\} 0$/m);
  });
});

describe('load', () => {
  const oneByOne: EngineProfile = {
    name: 'one-by-one',
    source: 'test',
    prefill: { quadratic: 0, linear: 0, constant: 60_000 },
    decode: { constant: 60_000, linear: 0, quadratic: 0 },
    stepTokensMax: 64,
    sequencesMax: 1,
    queueMax: 1,
    blockTokens: 16,
    blocks: 100,
  };

  it('refuses what does not fit in the queue', async () => {
    const server = await start({ profile: oneByOne, timeScale: 1, queueFullStatus: 503 });
    const controller = new AbortController();
    const accepted = [1, 2].map(() => post(server, '/v1/chat/completions', { ...hello, stream: true }, {}, controller.signal));
    await Promise.all(accepted);
    const refused = await chat(server);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await json(refused)).toMatchObject({ error: { code: 'queue_full' } });
    expect(server.control.stats()).toMatchObject({ inFlight: 2, rejected: 1 });
    controller.abort();
  });

  it('says 429 unless told otherwise', async () => {
    const server = await start({ profile: { ...oneByOne, queueMax: 0 }, timeScale: 1 });
    const controller = new AbortController();
    await post(server, '/v1/chat/completions', { ...hello, stream: true }, {}, controller.signal);
    expect((await chat(server)).status).toBe(429);
    controller.abort();
  });

  it('shows its state in metrics under the names of vLLM, unless told otherwise', async () => {
    const server = await start({ model: 'mine' });
    const body = { messages: [{ role: 'user', content: 'word '.repeat(100) }], model: 'mine' };
    await json(await chat(server, body));
    const { usage } = await json<ChatBody>(await chat(server, body));
    const response = await fetch(`${server.url}/metrics`);
    expect(response.headers.get('content-type')).toContain('text/plain; version=0.0.4');
    const metrics = await response.text();
    const value = (name: string): number => Number(new RegExp(`^${name}\\{[^}]*model_name="mine"[^}]*\\} (.*)$`, 'm').exec(metrics)?.[1]);
    expect(value('vllm:num_requests_running')).toBe(0);
    expect(value('vllm:num_requests_waiting')).toBe(0);
    expect(value('vllm:kv_cache_usage_perc')).toBe(0);
    expect(value('vllm:prefix_cache_queries_total')).toBe(2 * usage.prompt_tokens);
    expect(usage.prompt_tokens_details.cached_tokens).toBe(Math.floor((usage.prompt_tokens - 1) / 16) * 16);
    expect(value('vllm:prefix_cache_hits_total')).toBe(usage.prompt_tokens_details.cached_tokens);
    expect(value('vllm:generation_tokens_total')).toBe(10);
    expect(value('vllm:time_to_first_token_seconds_count')).toBe(2);
    expect(value('vllm:request_success_total')).toBe(2);
    expect(metrics).toMatch(/^vllm:cache_config_info\{.*num_gpu_blocks="3750".*\} 1$/m);
  });

  it.each([
    ['sglang', '/metrics', /^sglang:num_running_reqs\{.*tp_rank="1".*\} 1$/m, /^sglang:max_total_num_tokens\{.*\} 60000$/m],
    ['trtllm', '/prometheus/metrics', /^trtllm_num_requests_running\{.*\} 1$/m, /^trtllm_kv_cache_max_blocks\{.*\} 3750$/m],
    ['triton', '/metrics', /^nv_trt_llm_request_metrics\{request_type="scheduled".*\} 1$/m, /^nv_trt_llm_kv_cache_block_metrics\{kv_cache_block_type="tokens_per".*\} 16$/m],
  ] as const)('shows its state as %s does', async (metrics, path, load, size) => {
    const server = await start({ metrics, timeScale: 0.1 });
    // Held: a response that nobody holds is cancelled when it is collected.
    const open = await post(server, '/v1/chat/completions', { ...hello, stream: true });
    const page = async (): Promise<string> => (await fetch(server.url + path)).text();
    // It waits for the engine's next step before it runs.
    await expect.poll(page, { interval: 5, timeout: 5_000 }).toMatch(load);
    expect(await page()).toMatch(size);
    expect(await (await fetch(server.url)).text()).toContain(path);
    await open.body?.cancel();
  });

  it('tells which LoRA adapters have requests, the newest last, and serves them beside its model', async () => {
    const server = await start({ model: 'base', lora: { adapters: ['sql', 'legal'], max: 2 }, timeScale: 0.1 });
    const tell = async (): Promise<[string, number][]> => {
      const page = await (await fetch(`${server.url}/metrics`)).text();
      return [...page.matchAll(/^vllm:lora_requests_info\{max_lora="2",running_lora_adapters="([^"]*)".*\} (.*)$/gm)].map(([, names, at]) => [names!, Number(at)]);
    };
    expect((await tell()).map(([names]) => names)).toEqual(['']);
    const open = await Promise.all(['sql', 'legal'].map((model) => post(server, '/v1/chat/completions', { ...hello, model, stream: true })));
    const told = await tell();
    // What was told before stays, with its time, as vLLM leaves it.
    expect(told.map(([names]) => names)).toEqual(['', 'legal,sql']);
    expect(told[1]![1]).toBeGreaterThan(told[0]![1]);
    expect((await post(server, '/v1/chat/completions', { ...hello, model: 'unknown' })).status).toBe(404);
    for (const response of open) await response.body?.cancel();
  });

  it('keeps statistics with the sessions it saw', async () => {
    const server = await start();
    await json(await chat(server, { prompt_cache_key: 'from-body' }));
    await json(await chat(server, { prompt_cache_key: 'overridden' }, { 'x-session-id': 'from-header' }));
    await json(await chat(server, {}, { 'x-session-id': 'from-header' }));
    await json(await chat(server));
    const stats = await json(await fetch(`${server.url}/_sim/stats`));
    expect(stats).toEqual(server.control.stats());
    expect(stats).toMatchObject({
      requests: 4, succeeded: 4, failed: 0, inFlight: 0, otherRequests: 0, promptTokens: 4 * 12, outputTokens: 20,
      sessions: { 'from-body': 1, 'from-header': 2 },
    });
    expect(server.control.stats().ttftMs).toHaveLength(4);
  });
});

describe('echo and headers', () => {
  it('gives 1.2 MB back byte for byte', async () => {
    const server = await start();
    const bytes = randomBytes(1_200_000);
    const response = await fetch(`${server.url}/echo/deep?x=1`, { method: 'PUT', body: bytes, headers: { 'content-type': 'application/x-thing' } });
    expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true);
    expect(response.headers.get('content-type')).toBe('application/x-thing');
    expect(response.headers.get('x-body-bytes')).toBe('1200000');
    expect(response.headers.get('x-body-sha256')).toBe(createHash('sha256').update(bytes).digest('hex'));
  });

  it('echoes nothing for nothing', async () => {
    const server = await start();
    const response = await fetch(`${server.url}/echo`);
    expect([response.status, response.headers.get('x-body-bytes'), await response.text()]).toEqual([200, '0', '']);
  });

  it('refuses a body beyond its limit with an answer, not a broken connection', async () => {
    const server = await start();
    const request = http.request(`${server.url}/echo`, { method: 'POST' });
    const [response] = await Promise.all([
      once(request, 'response').then(([message]) => message as http.IncomingMessage),
      new Promise<void>((resolve) => {
        const chunk = Buffer.alloc(8 * 1024 * 1024);
        for (let count = 0; count < 9; count += 1) request.write(chunk);
        resolve();
      }),
    ]);
    expect(response.statusCode).toBe(413);
    response.resume();
    request.on('error', () => undefined);
    request.destroy();
  });

  it('shows every header it received, also those that came twice', async () => {
    const server = await start();
    const headers = ['Host', 'x', 'X-Twice', 'a', 'X-Twice', 'b', 'Content-Type', 'c', 'Content-Type', 'd'];
    const request = http.request(`${server.url}/headers`, { method: 'POST', headers });
    request.end();
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    const body = JSON.parse(Buffer.concat(await response.toArray() as Buffer[]).toString()) as Record<string, string>;
    expect(body).toMatchObject({ 'x-twice': 'a, b', 'content-type': 'c, d', host: 'x' });
  });
});

describe('switches', () => {
  const set = (server: ModelServer, change: object): Promise<Response> => post(server, '/_sim', change);

  it('shows and changes them over HTTP, and refuses nonsense', async () => {
    const server = await start();
    const now = await json(await fetch(`${server.url}/_sim`));
    expect(now).toMatchObject({ simulated: true, port: server.port, switches: { mode: 'ok', healthOk: true } });
    const bad = await set(server, { mode: 'explode', wrong: 1 });
    expect(bad.status).toBe(400);
    expect(await json(bad)).toMatchObject({ error: { code: 'invalid_switches', message: expect.stringContaining('wrong') as string } });
    expect((await fetch(`${server.url}/_sim`, { method: 'POST', body: '[]' })).status).toBe(400);
    expect(server.control.switches.mode).toBe('ok');
    expect(await json(await set(server, { failRatio: 0.5 }))).toMatchObject({ switches: { mode: 'ok', failRatio: 0.5 } });
  });

  it('fails with the status it is told, and recovers', async () => {
    const server = await start();
    await set(server, { mode: 'fail', failStatus: 500 });
    const response = await chat(server);
    expect(response.status).toBe(500);
    expect(await json(response)).toMatchObject({ error: { code: 'simulated_failure' } });
    expect((await fetch(`${server.url}/echo`)).status).toBe(500);
    // Health says what it was told, not the truth.
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    await set(server, { mode: 'ok' });
    expect((await chat(server)).status).toBe(200);
    expect(server.control.stats()).toMatchObject({ failed: 2, succeeded: 1 });
  });

  it('fails the share it is told, evenly', async () => {
    const server = await start({ switches: { failRatio: 0.1, failStatus: 503 } });
    const statuses: number[] = [];
    for (let count = 0; count < 20; count += 1) statuses.push((await fetch(`${server.url}/echo`)).status);
    expect(statuses.flatMap((status, index) => (status === 503 ? [index] : []))).toEqual([9, 19]);
  });

  it('lies about its health', async () => {
    const server = await start({ switches: { healthOk: false } });
    const [health, ready, answer] = await Promise.all([fetch(`${server.url}/health`), fetch(`${server.url}/health/ready`), chat(server)]);
    expect([health.status, ready.status, answer.status]).toEqual([503, 503, 200]);
  });

  it('hangs: takes the request and never answers', async () => {
    const server = await start({ switches: { mode: 'hang' } });
    const controller = new AbortController();
    let settled = false;
    const hanging = post(server, '/v1/chat/completions', hello, {}, controller.signal).catch(() => undefined);
    void hanging.then(() => (settled = true));
    await until(() => server.control.stats().inFlight === 1);
    // What was taken in while it hung stays unanswered; the next request is not.
    await set(server, { mode: 'ok' });
    expect((await chat(server)).status).toBe(200);
    expect(settled).toBe(false);
    controller.abort();
    await hanging;
    await until(() => server.control.stats().inFlight === 0);
    expect(server.control.stats().cancelled).toBe(1);
  });

  it('hangs as a whole where its health pages are told to hang too', async () => {
    const server = await start({ switches: { mode: 'hang', healthHangs: true } });
    for (const page of ['/health', '/health/ready', '/v1/models']) {
      await expect(fetch(server.url + page, { signal: AbortSignal.timeout(100) })).rejects.toThrow(/timeout/i);
    }
    await server.control.set({ healthHangs: false });
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
  });

  it('slows down', async () => {
    const server = await start({ timeScale: 500 });
    await json(await chat(server));
    await set(server, { slowFactor: 8 });
    await json(await chat(server, { messages: [{ role: 'user', content: 'Another text of much the same length' }] }));
    const [normal, slow] = server.control.stats().ttftMs as [number, number];
    expect(slow / normal).toBeGreaterThan(7);
    expect(slow / normal).toBeLessThan(9);
  });

  /** Reads a response to its end by hand, for what came before a reset. */
  async function readRaw(server: ModelServer, path: string, body: object): Promise<{ text: string; error: string | undefined }> {
    const request = http.request(server.url + path, { method: 'POST' });
    request.on('error', () => undefined); // the reset, once more: the response has it too
    request.end(JSON.stringify(body));
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    let text = '';
    response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    const error = await new Promise<string | undefined>((resolve) => {
      response.once('error', (cause: NodeJS.ErrnoException) => resolve(cause.code));
      response.once('end', () => resolve(undefined));
    });
    return { text, error };
  }

  it('resets a stream after the chunks it is told', async () => {
    const server = await start({ switches: { mode: 'reset', resetAfterChunks: 2 } });
    const { text, error } = await readRaw(server, '/v1/chat/completions', { ...hello, stream: true });
    expect(error).toBe('ECONNRESET');
    expect(eventData(text)).toHaveLength(2);
    await until(() => server.control.stats().inFlight === 0);
    expect(server.control.stats()).toMatchObject({ failed: 1, succeeded: 0, cancelled: 0 });
  });

  it('cuts a short stream before its last chunk, and a plain answer in the middle', async () => {
    const server = await start({ switches: { mode: 'reset', resetAfterChunks: 50 } });
    const stream = await readRaw(server, '/v1/chat/completions', { ...hello, stream: true });
    expect([stream.error, eventData(stream.text).length]).toEqual(['ECONNRESET', 4]);
    const plain = await readRaw(server, '/v1/chat/completions', hello);
    expect(plain.error).toBe('ECONNRESET');
    expect(plain.text).toMatch(/^\{"id":/);
    await expect(fetch(`${server.url}/echo`)).rejects.toThrow();
    expect(server.control.stats().failed).toBe(3);
  });

  it('refuses connections, and can be opened again through a sibling', async () => {
    const group: ModelServerGroup = new Map();
    const [server, sibling] = [await start({ group }), await start({ group })];
    const { port } = server;
    const answer = await set(server, { mode: 'refuse' });
    expect(await json(answer)).toMatchObject({ port, switches: { mode: 'refuse' } });
    let code: string | undefined;
    for (let tries = 0; tries < 100 && code !== 'ECONNREFUSED'; tries += 1) {
      const socket = net.connect(port, '127.0.0.1');
      code = await new Promise((resolve) => {
        socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code));
        socket.once('connect', () => resolve(undefined));
      });
      socket.destroy();
    }
    expect(code).toBe('ECONNREFUSED');
    expect((await set(sibling, { port: 1, mode: 'ok' })).status).toBe(404);
    expect(await json(await set(sibling, { port, mode: 'ok' }))).toMatchObject({ port, switches: { mode: 'ok' } });
    expect(sibling.control.switches.mode).toBe('ok');
    const reopened = await chat(server);
    expect([reopened.status, reopened.headers.get('x-served-by')]).toEqual([200, server.address]);
  });

  it('breaks requests in flight when it begins to refuse', async () => {
    const server = await start({ timeScale: 1, switches: { slowFactor: 10_000 } });
    const response = await chat(server, { stream: true });
    const body = response.text();
    await server.control.set({ mode: 'refuse' });
    await expect(body).rejects.toThrow();
    expect(server.control.stats()).toMatchObject({ inFlight: 0, cancelled: 1 });
  });
});

describe('websockets', () => {
  const connect = (server: ModelServer, path = '/v1/realtime'): WebSocket => new WebSocket(server.url.replace('http', 'ws') + path);

  it('sends back what it gets, says who serves, and counts them while they are open', async () => {
    const server = await start({ realtime: createRealtimeEcho() });
    const socket = connect(server);
    const upgrade = once(socket, 'upgrade') as Promise<[http.IncomingMessage]>;
    await once(socket, 'open');
    expect((await upgrade)[0].headers).toMatchObject({ 'x-served-by': server.address, [simulatedHeader]: 'true' });
    socket.send('text');
    expect(String((await once(socket, 'message'))[0])).toBe('text');
    socket.send(Buffer.from([0, 255]));
    expect(await once(socket, 'message')).toEqual([Buffer.from([0, 255]), true]);
    expect(server.control.stats()).toMatchObject({ upgrades: 1, upgradesOpen: 1 });
    socket.close();
    await until(() => server.control.stats().upgradesOpen === 0);
    expect(server.control.stats().upgrades).toBe(1);
  });

  it('are refused where there are none, and where a switch says so', async () => {
    const refusal = async (server: ModelServer, path?: string): Promise<string> => {
      const [error] = (await once(connect(server, path), 'error')) as [Error];
      return error.message;
    };
    expect(await refusal(await start())).toContain('404');
    const server = await start({ realtime: createRealtimeEcho() });
    expect(await refusal(server, '/elsewhere')).toContain('404');
    await server.control.set({ mode: 'fail', failStatus: 500 });
    expect(await refusal(server)).toContain('500');
    expect(server.control.stats().upgrades).toBe(0);
  });

  it('break when the server goes', async () => {
    const server = await start({ realtime: createRealtimeEcho() });
    const socket = connect(server);
    await once(socket, 'open');
    const closed = once(socket, 'close');
    await server.control.restart();
    expect((await closed)[0]).toBe(1006);
    expect(server.control.stats().upgradesOpen).toBe(0);
  });
});

describe('life', () => {
  it('is not healthy and lists no model while it loads', async () => {
    const server = await start({ startupMs: 600_000 });
    const [health, ready, answer, models] = await Promise.all(['/health', '/health/ready'].map((page) => fetch(server.url + page)).concat([chat(server), fetch(`${server.url}/v1/models`)]));
    expect([health!.status, ready!.status, answer!.status]).toEqual([503, 503, 503]);
    expect(await json(health!)).toMatchObject({ status: 'loading' });
    expect(await json(answer!)).toMatchObject({ error: { code: 'starting' } });
    expect(await json(models!)).toEqual({ object: 'list', data: [] });
  });

  it('restarts: what is in flight breaks, the port closes for a while, the model loads, the cache is empty', async () => {
    const server = await start();
    const messages = [{ role: 'user', content: 'word '.repeat(200) }];
    await json(await chat(server, { messages }));
    const cached = async (): Promise<number> => (await json<ChatBody>(await chat(server, { messages }))).usage.prompt_tokens_details.cached_tokens;
    expect(await cached()).toBeGreaterThan(100);
    await server.control.set({ slowFactor: 10_000 });
    const open = (await chat(server, { stream: true, messages: [{ role: 'user', content: 'another '.repeat(200) }] })).text();
    open.catch(() => undefined);
    await server.control.set({ slowFactor: 1 });
    const restarted = server.control.restart({ downMs: 100, loadMs: 300 });
    await expect(open).rejects.toThrow();
    await expect(fetch(server.url)).rejects.toThrow();
    await restarted;
    expect((await fetch(`${server.url}/health`)).status).toBe(503);
    expect(await json(await fetch(`${server.url}/v1/models`))).toEqual({ object: 'list', data: [] });
    expect((await chat(server)).status).toBe(503);
    for (let tries = 0; tries < 1000 && (await fetch(`${server.url}/health/ready`)).status !== 200; tries += 1) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await json(await fetch(`${server.url}/v1/models`))).toMatchObject({ data: [{ object: 'model' }] });
    expect(await cached()).toBe(0);
  });

  it('restarts when told to over HTTP, after it has answered', async () => {
    const server = await start();
    const answer = await post(server, '/_sim', { restart: { loadMs: 600_000 } });
    expect(answer.status).toBe(200);
    let status: number | undefined;
    for (let tries = 0; tries < 1000 && status !== 503; tries += 1) {
      status = await fetch(`${server.url}/health`).then((response) => response.status, () => undefined);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(status).toBe(503);
  });

  it('closes at once in the middle of a restart', async () => {
    const server = await start();
    const restarted = server.control.restart({ downMs: 600_000 });
    await server.close();
    await restarted;
    await expect(fetch(server.url)).rejects.toThrow();
  });

  it('becomes ready after its start-up time', async () => {
    const server = await start({ startupMs: 50 });
    let status = 503;
    for (let tries = 0; tries < 1000 && status !== 200; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      status = (await fetch(`${server.url}/health/ready`)).status;
    }
    expect(status).toBe(200);
    expect((await chat(server)).status).toBe(200);
  });

  it('rejects with the code of the system when the port is taken, and leaves no member in the group', async () => {
    const server = await start();
    const group: ModelServerGroup = new Map();
    await expect(startModelServer({ port: server.port, group })).rejects.toMatchObject({ code: 'EADDRINUSE' });
    expect(group.size).toBe(0);
  });

  it('closes with streams in flight', async () => {
    const server = await startModelServer({ switches: { slowFactor: 10_000 } });
    const response = await chat(server, { stream: true });
    const body = response.text();
    await Promise.all([server.close(), expect(body).rejects.toThrow()]);
    await expect(fetch(server.url)).rejects.toThrow();
  });

  it('runs several servers in one process, each with a cache of its own', async () => {
    const [one, other] = [await start(), await start()];
    const messages = [{ role: 'user', content: 'word '.repeat(100) }];
    const first = await json<ChatBody>(await chat(one, { messages }));
    const second = await json<ChatBody>(await chat(other, { messages }));
    const third = await json<ChatBody>(await chat(one, { messages }));
    expect([first, second].map(({ usage }) => usage.prompt_tokens_details.cached_tokens)).toEqual([0, 0]);
    expect(third.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(100);
  });

  it('refuses senseless options', async () => {
    await expect(startModelServer({ timeScale: 0 })).rejects.toThrow('timeScale');
    await expect(startModelServer({ switches: { slowFactor: -1 } })).rejects.toThrow('slowFactor');
  });
});
