import { mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { RecentDecision } from '../../src/admin/recent-decisions.ts';
import { summaryCharsMax } from '../../src/core/explain.ts';
import { expectedChatStream } from './expected-stream.ts';
import { HttpClient } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

// Two Fairleads, each behind an Envoy: one whose clients may ask by their address, one that wants a token.
const token = 'a token of the tests';
const parts = new RunningParts();
let folder: string;
let logFile: string;
let endpoints: string[];
let byAddress: FairleadProcess;
let byToken: FairleadProcess;
let envoy: EnvoyProcess;
let client: HttpClient;
let tokenClient: HttpClient;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fairlead-explain-'));
  logFile = path.join(folder, 'decisions.jsonl');
  endpoints = (await parts.addModelServers(3)).map(({ address }) => address);
  const pools = [
    {
      name: 'chat',
      policy: { preset: 'session-affinity' },
      shadow: { policy: { preset: 'least-requests' } },
      observe: { firstToken: true },
      endpoints: endpoints.map((address) => ({ address })),
    },
  ];
  byAddress = await parts.add(
    startFairlead({ affinity: { secret: 'of the tests' }, explain: { header: true, allow: ['127.0.0.0/8'] }, decisionLog: { sample: 1, file: logFile, trace: true }, pools }),
  );
  byToken = await parts.add(startFairlead({ explain: { header: true, allow: ['10.0.0.0/8'], token }, decisionLog: { sample: 1 }, pools: [{ name: 'chat', endpoints: endpoints.map((address) => ({ address })) }] }));
  envoy = await parts.add(startEnvoy({ config: renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [byAddress.address], messageTimeoutMs: 20_000 }) }));
  const other = await parts.add(
    startEnvoy({ config: renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [byToken.address], messageTimeoutMs: 20_000 }) }),
  );
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 8)));
  tokenClient = await parts.add(Promise.resolve(new HttpClient(other.url, 8)));
});
afterAll(async () => {
  await parts.stop();
  await rm(folder, { recursive: true, force: true });
});

const asking = { 'x-fairlead-explain': '1' };

describe('x-fairlead-explain', () => {
  it('is answered in a response header, for a request decided on its headers, and does not reach the model server', async () => {
    const answer = await client.send({ path: '/headers', headers: { 'x-session-id': 'secret session', ...asking } });
    expect(answer.status).toBe(200);
    const explained = String(answer.headers['x-fairlead-explain']);
    expect(explained).toMatch(/^pool=chat; policy=session-affinity; endpoint=127\.0\.0\.1:\d+; reason=affinity-home; home=127\.0\.0\.1:\d+; /);
    expect(explained).toContain(`endpoint=${String(answer.servedBy)}`);
    expect(explained).toContain('candidates=3');
    expect(explained).not.toContain('secret');
    expect(explained.length).toBeLessThanOrEqual(summaryCharsMax);
    const received = JSON.parse(answer.body.toString()) as Record<string, string>;
    expect(Object.keys(received).filter((name) => name.startsWith('x-fairlead-'))).toEqual(['x-fairlead-cluster']);
  });

  it('is answered for a streamed request decided in its body, every byte of which arrives', async () => {
    const request = { model: 'm', stream: true, max_tokens: 20, ignore_eos: true, prompt_cache_key: 's2', messages: [{ role: 'user', content: 'hello there' }] };
    const answer = await client.send({
      path: '/v1/chat/completions',
      headers: { 'content-type': 'application/json', ...asking },
      body: JSON.stringify(request),
    });
    expect(answer.status).toBe(200);
    expect(answer.headers['x-fairlead-explain']).toMatch(/^pool=chat; .*reason=affinity-home/);
    expect(answer.body.toString()).toBe(expectedChatStream(request, answer.body.toString()));
    await expect.poll(() => byAddress.metric('fairlead_time_to_first_token_seconds_count'), { timeout: 10_000 }).toBeGreaterThanOrEqual(1);
  });

  it('is not answered without being asked', async () => {
    const answer = await client.send({ path: '/headers', headers: { 'x-session-id': 's1' } });
    expect(answer.status).toBe(200);
    expect(answer.headers['x-fairlead-explain']).toBeUndefined();
  });

  it('is refused to other addresses, with no token or a wrong one, and granted with the right one', async () => {
    const ask = async (headers: Record<string, string>): Promise<unknown> => {
      const answer = await tokenClient.send({ path: '/headers', headers: { 'x-session-id': 's1', ...asking, ...headers } });
      expect(answer.status).toBe(200);
      // Neither question nor token goes on to the model server.
      expect(answer.body.toString()).not.toContain('explain');
      return answer.headers['x-fairlead-explain'];
    };
    expect(await ask({})).toBeUndefined();
    expect(await ask({ 'x-fairlead-explain-token': 'a guess of the tests' })).toBeUndefined();
    // What the client says of its address does not count.
    expect(await ask({ 'x-forwarded-for': '10.0.0.1' })).toBeUndefined();
    expect(await ask({ 'x-fairlead-explain-token': token })).toMatch(/^pool=chat; policy=sticky; /);
  });
});

describe('/api/v1/decisions', () => {
  it('has the last decisions, newest first, with every candidate and what became of them', async () => {
    for (const session of ['d1', 'd2', 'd3']) await client.send({ path: '/headers', headers: { 'x-session-id': session } });
    const list = async (query: string): Promise<RecentDecision[]> =>
      (JSON.parse((await byAddress.get(`/api/v1/decisions${query}`)).text) as { decisions: RecentDecision[] }).decisions;
    await expect.poll(async () => (await list('?limit=3')).map(({ end }) => end?.ending), { timeout: 10_000 }).toEqual(['finished', 'finished', 'finished']);
    const [newest, second] = await list('?limit=2');
    expect(Date.parse(newest!.time)).toBeGreaterThanOrEqual(Date.parse(second!.time));
    expect(newest!.pools[0]!.endpoints.map(({ address }) => address).sort()).toEqual([...endpoints].sort());
    expect(newest!.end).toMatchObject({ status: 200 });
    expect(await list('?limit=1')).toHaveLength(1);
    expect((await byAddress.get('/api/v1/decisions?limit=0')).status).toBe(400);
    expect((await byAddress.get('/api/v1/decisions?limit=257')).status).toBe(400);
  });
});

describe('the shadow policy', () => {
  it('is scored on every decision, and its requests go to nobody', async () => {
    const before = await byAddress.metric('fairlead_shadow_decisions_total');
    const decided = await byAddress.metric('fairlead_decisions_total');
    for (let i = 0; i < 30; i += 1) await client.send({ path: '/headers', headers: { 'x-session-id': `shadow ${i}` } });
    expect((await byAddress.metric('fairlead_shadow_decisions_total')) - before).toBe(30);
    expect((await byAddress.metric('fairlead_decisions_total')) - decided).toBe(30);
    expect(await byAddress.metric('fairlead_shadow_decisions_total', { outcome: 'failed' })).toBe(0);
  });
});

describe('the decision log', () => {
  it('tells each decision and its end, and goes on in a new file after SIGHUP', async () => {
    const lines = async (file: string): Promise<Record<string, unknown>[]> =>
      (await readFile(file, 'utf8').catch(() => ''))
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    await client.send({ path: '/headers', headers: { 'x-session-id': 'logged session' } });
    await expect
      .poll(async () => {
        const all = await lines(logFile);
        const ended = new Set(all.filter(({ event }) => event === 'completion').map(({ lease }) => lease));
        const decided = all.filter(({ event }) => event === 'decision');
        return decided.length > 0 && decided.every(({ lease }) => ended.has(lease));
      }, { timeout: 10_000 })
      .toBe(true);
    const text = await readFile(logFile, 'utf8');
    expect(text).not.toMatch(/logged session|secret session|hello there|shadow \d/);
    const decision = (await lines(logFile)).find(({ event }) => event === 'decision')!;
    expect(decision).toMatchObject({ pool: 'chat', policy: 'session-affinity', session: expect.stringMatching(/^[0-9a-f]{32}$/) as string });
    expect(endpoints).toContain(decision['endpoint']);

    // The other one writes to stdout, among the lines of its log.
    expect(
      byToken
        .log()
        .split('\n')
        .filter((line) => line.startsWith('{"event":"decision"'))
        .map((line) => JSON.parse(line) as object),
    ).toEqual(expect.arrayContaining([expect.objectContaining({ pool: 'chat', policy: 'sticky' })]));

    await rename(logFile, `${logFile}.1`);
    byAddress.signal('SIGHUP');
    await expect
      .poll(async () => {
        await client.send({ path: '/headers', headers: { 'x-session-id': 'after rotation' } });
        return (await lines(logFile)).length;
      }, { timeout: 10_000 })
      .toBeGreaterThan(0);
  });
});
