import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runFairlead } from '../../lab/child-process.ts';
import { type BodyMode, type EnvoyProcess, freePorts, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { expectedChatStream } from './expected-stream.ts';
import { HttpClient, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';

// The processor sees the first chunk of each response and then lets go of the stream, while tokens keep coming: the moment at which a
// byte could be lost or doubled.
const streams = 400;
const tokens = 60;
// A token about every 0.1 s until all have their first one, so that none is over by then.
const slow = 20;

const parts = new RunningParts();
let endpoints: string[];
let fairlead: FairleadProcess;

beforeAll(async () => {
  const ports = await freePorts(3);
  endpoints = ports.map((port) => `127.0.0.1:${port}`);
  // A process of their own, since this one reads all streams. Each server runs 256 sequences at once: none has to wait for an end.
  const servers = await parts.add(Promise.resolve(runFairlead(['sim-server', '--ports', ports.join(','), '--profile', 'dynamo-mocker'])));
  await servers.waitForLine((line) => (line.includes(`:${ports[2]!}`) ? true : undefined));
  fairlead = await parts.add(
    // A policy that needs no more of the body than its session.
    startFairlead({
      pools: [{ name: 'chat', policy: { preset: 'session-affinity' }, observe: { firstToken: true }, endpoints: endpoints.map((address) => ({ address })) }],
    }),
  );
});
afterAll(() => parts.stop());

async function setSlowFactor(slowFactor: number): Promise<void> {
  for (const endpoint of endpoints) {
    const response = await fetch(`http://${endpoint}/_sim`, { method: 'POST', body: JSON.stringify({ slowFactor }) });
    expect(response.status).toBe(200);
    await response.arrayBuffer();
  }
}

/** What Fairlead counted so far. */
interface Counts {
  /** Messages from Envoy, by phase; of phases that had any. */
  readonly messages: Readonly<Record<string, number>>;
  readonly firstTokens: number;
  readonly letGo: number;
}

async function count(): Promise<Counts> {
  const { text } = await fairlead.get('/metrics');
  const series = [...text.matchAll(/^fairlead_stream_messages_total\{phase="(\w+)"\} (\d+)$/gm)];
  return {
    messages: Object.fromEntries(series.flatMap(([, phase = '', messages]) => (Number(messages) > 0 ? [[phase, Number(messages)]] : []))),
    firstTokens: await fairlead.metric('fairlead_time_to_first_token_seconds_count'),
    letGo: await fairlead.metric('fairlead_streams_closed_total', { ending: 'let-go' }),
  };
}

async function countedSince(before: Counts): Promise<Counts> {
  const { messages, firstTokens, letGo } = await count();
  const since = Object.entries(messages).map(([phase, all]) => [phase, all - (before.messages[phase] ?? 0)] as const);
  return { messages: Object.fromEntries(since.filter(([, some]) => some > 0)), firstTokens: firstTokens - before.firstTokens, letGo: letGo - before.letGo };
}

describe.each([
  ['half-closes streams (graceful guard on)', true],
  ['resets streams (graceful guard off)', false],
])('an Envoy that %s', (_title, gracefulClose) => {
  let envoy: EnvoyProcess;
  let client: HttpClient;

  beforeAll(async () => {
    const config = renderEnvoyConfig({
      clusters: { chat: endpoints },
      fairlead: [fairlead.address],
      gracefulClose,
      // What is tested is what becomes of the streams; a busy machine's pauses are not.
      messageTimeoutMs: 20_000,
    });
    envoy = await parts.add(startEnvoy({ config }));
    client = await parts.add(Promise.resolve(new HttpClient(envoy.url, streams)));
  });

  it(`passes ${streams} streams at once whole, noticing each first token`, async () => {
    await setSlowFactor(slow);
    const before = await count();

    const open = await Promise.all(
      Array.from({ length: streams }, async (_, i) => {
        const request = {
          model: 'm',
          stream: true,
          max_tokens: tokens,
          ignore_eos: true,
          ...(i % 2 === 0 && { prompt_cache_key: `session ${i}` }),
          messages: [{ role: 'user', content: `question ${i} `.repeat(1 + (i % 40)) }],
        };
        // Half of them are decided on headers, half in the body, before the response is asked for.
        const headers: Record<string, string> = { 'content-type': 'application/json', ...(i % 2 === 1 && { 'x-session-id': `session ${i}` }) };
        const answer = await client.open({ path: '/v1/chat/completions', headers, body: JSON.stringify(request) });
        return { request, answer };
      }),
    );
    expect(tally(open.map(({ answer }) => String(answer.status)))).toEqual({ '200': streams });

    // The prompts are through, the answers are not.
    await expect
      .poll(
        async () => {
          const [pool] = (await fairlead.fleet()).pools;
          const sum = (of: 'requestsInFlight' | 'uncachedTokensWaiting'): number => pool!.endpoints.reduce((all, endpoint) => all + endpoint[of], 0);
          return { waiting: sum('uncachedTokensWaiting'), inFlight: sum('requestsInFlight') };
        },
        { timeout: 15_000 },
      )
      .toEqual({ waiting: 0, inFlight: streams });
    await setSlowFactor(1);

    const differing: string[] = [];
    await Promise.all(
      open.map(async ({ request, answer }, i) => {
        const chunks: Buffer[] = [];
        for await (const chunk of answer.body) chunks.push(chunk as Buffer);
        const received = Buffer.concat(chunks).toString();
        const expected = expectedChatStream(request, received);
        if (received !== expected) differing.push(`stream ${i}: ${received.length} bytes instead of ${expected.length}`);
        expect(received.endsWith('data: [DONE]\n\n')).toBe(true);
      }),
    );
    expect(differing).toEqual([]);

    const stats = await envoy.stats('ext_proc');
    expect(stats).toMatchObject({
      'http.llm.ext_proc.streams_started': streams,
      'http.llm.ext_proc.streams_failed': 0,
      'http.llm.ext_proc.message_timeouts': 0,
      'http.llm.ext_proc.spurious_msgs_received': 0,
    });
    // Headers, the body of every second, one response chunk: as many as there have to be at least, which leaves none a second of anything.
    expect(stats['http.llm.ext_proc.stream_msgs_sent']).toBe(2.5 * streams);
    expect(stats['http.llm.ext_proc.stream_msgs_received']).toBe(2.5 * streams);
    expect(await countedSince(before)).toEqual({
      messages: { request_headers: streams, request_body: streams / 2, response_body: streams },
      firstTokens: streams,
      letGo: streams,
    });
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
    expect(await fairlead.metric('fairlead_requests_released_total', { ending: 'expired' })).toBe(0);
  });

  it.each<[string, BodyMode]>([
    ['asked for', 'NONE'],
    ['shown anyway', 'BUFFERED'],
  ])('goes on alone with answers in one piece once their bodies, %s, have told so', async (_how, bodyMode) => {
    const config = renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [fairlead.address], gracefulClose, bodyMode, messageTimeoutMs: 20_000 });
    const own = await parts.add(startEnvoy({ config }));
    const ownClient = await parts.add(Promise.resolve(new HttpClient(own.url, streams)));
    const before = await count();

    const answers = await Promise.all(
      Array.from({ length: streams }, (_, i) => {
        const request = {
          model: 'm',
          max_tokens: tokens,
          ignore_eos: true,
          prompt_cache_key: `session ${i}`,
          messages: [{ role: 'user', content: `question ${i} `.repeat(1 + (i % 400)) }],
          // Where nothing is said, the answer comes in one piece too.
          ...(i % 2 === 0 && { stream: false }),
        };
        return ownClient.send({ path: '/v1/chat/completions', headers: { 'content-type': 'application/json' }, body: JSON.stringify(request) });
      }),
    );
    expect(tally(answers.map(({ status }) => String(status)))).toEqual({ '200': streams });
    for (const { body } of answers) expect(JSON.parse(body.toString())).toMatchObject({ usage: { completion_tokens: tokens } });

    const stats = await own.stats('ext_proc');
    expect(stats).toMatchObject({
      'http.llm.ext_proc.streams_started': streams,
      'http.llm.ext_proc.streams_failed': 0,
      'http.llm.ext_proc.message_timeouts': 0,
      'http.llm.ext_proc.spurious_msgs_received': 0,
      'http.llm.ext_proc.failure_mode_allowed': 0,
    });
    // The whole of an answer is no first token, and is not shown.
    expect(await countedSince(before)).toEqual({ messages: { request_headers: streams, request_body: streams }, firstTokens: 0, letGo: streams });
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
    expect(await fairlead.metric('fairlead_requests_released_total', { ending: 'expired' })).toBe(0);
    expect(await fairlead.metric('fairlead_requests_released_total', { ending: 'not-proxied' })).toBe(0);
  });
});
