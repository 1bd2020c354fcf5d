import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyConfig, type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { HttpClient, sendRaw } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { connectionManager, limitBodies, withListeners } from './shared-envoy.ts';

// One pool for each way a model server can behave; the model chooses it, and only the body tells the model.
const behaviours = ['ok', 'slow', 'hung', 'resetting', 'refusing'] as const;
type Behaviour = (typeof behaviours)[number];
const routeTimeoutMs = 700;
const assumedDurationMs = 1_500;
const unreportedRequests = 60;
const bufferBytesMax = 65_536;

const parts = new RunningParts();
const addresses = new Map<Behaviour, string>();

function start(leases: Record<string, number> = {}): Promise<FairleadProcess> {
  return parts.add(
    startFairlead({
      leases,
      // Some let go of the exchange at the first token, so that the rest of the response shows in the access log alone.
      pools: behaviours.map((name) => ({
        name,
        observe: { firstToken: name === 'slow' || name === 'resetting' },
        endpoints: [{ address: addresses.get(name)! }],
      })),
      routes: behaviours.map((name) => ({ match: { model: name }, targets: [{ pool: name }] })),
    }),
  );
}

/** A listener as configured, one whose route has a time limit, and one that buffers little. */
function variants(name: string, options: EnvoyOptions): Record<string, EnvoyConfig> {
  const clusters = Object.fromEntries(behaviours.map((behaviour) => [behaviour, [addresses.get(behaviour)!]]));
  const config = renderEnvoyConfig({ messageTimeoutMs: 10_000, ...options, clusters });
  const impatient = structuredClone(config);
  connectionManager(impatient).route_config.virtual_hosts[0]!.routes[0]!.route['timeout'] = `${routeTimeoutMs / 1_000}s`;
  return { [name]: config, [`${name}, impatient`]: impatient, [`${name}, small`]: limitBodies(structuredClone(config), bufferBytesMax) };
}

let byLog: FairleadProcess;
let byPhases: FairleadProcess;
let unreported: FairleadProcess;
const envoys = new Map<string, EnvoyProcess>();
let unreportedClient: HttpClient;

beforeAll(async () => {
  for (const behaviour of behaviours) {
    const [server] = await parts.addModelServers(1, { timeScale: behaviour === 'slow' ? 1 : 100 });
    addresses.set(behaviour, server!.address);
    await misbehave(server!, behaviour);
  }
  [byLog, byPhases, unreported] = await Promise.all([start(), start(), start({ assumedDurationMs })]);
  const listeners: [FairleadProcess, Record<string, EnvoyConfig>][] = [
    [byLog, variants('access log', { fairlead: [byLog.address] })],
    [
      byPhases,
      {
        ...variants('full duplex phases', {
          fairlead: [byPhases.address],
          accessLog: false,
          bodyMode: 'FULL_DUPLEX_STREAMED',
          responseBodyMode: 'FULL_DUPLEX_STREAMED',
        }),
        ...variants('streamed phases', { fairlead: [byPhases.address], accessLog: false, responseHeaders: true, responseBodyMode: 'STREAMED' }),
      },
    ],
    [unreported, variants('nothing', { fairlead: [unreported.address], accessLog: false })],
  ];
  await Promise.all(
    listeners.map(async ([, configs]) => {
      const envoy = await parts.add(startEnvoy({ config: withListeners(configs) }));
      for (const name of Object.keys(configs)) envoys.set(name, envoy);
    }),
  );
  unreportedClient = await clientOf('nothing');
});
afterAll(() => parts.stop());

async function misbehave({ control }: ModelServer, behaviour: Behaviour): Promise<void> {
  if (behaviour === 'hung') await control.set({ mode: 'hang' });
  else if (behaviour === 'resetting') await control.set({ mode: 'reset' });
  else if (behaviour === 'refusing') await control.set({ mode: 'refuse' });
}

function urlOf(listener: string): string {
  return `http://127.0.0.1:${envoys.get(listener)!.listenerPort(listener)}`;
}

function clientOf(listener: string): Promise<HttpClient> {
  return parts.add(Promise.resolve(new HttpClient(urlOf(listener), 32)));
}

const path = '/v1/chat/completions';
const json = { 'content-type': 'application/json' };

function chat(model: string, more: object = {}): string {
  return JSON.stringify({ model, messages: [{ role: 'user', content: 'hello' }], max_tokens: 400, ignore_eos: true, ...more });
}

it('starts the requests whose end nobody reports', async () => {
  await Promise.all(
    Array.from({ length: unreportedRequests }, async () => {
      const { status } = await unreportedClient.send({ path, headers: json, body: chat('ok', { max_tokens: 4 }) });
      expect(status).toBe(200);
    }),
  );
  // They are over, but how should it know?
  expect(await unreported.requestsInFlight()).toBe(unreportedRequests);
});

describe.each([
  ['access log', (): FairleadProcess => byLog],
  ['full duplex phases', (): FairleadProcess => byPhases],
  ['streamed phases', (): FairleadProcess => byPhases],
])('released by %s', (listener, fairleadOf) => {
  let client: HttpClient;
  let fairlead: FairleadProcess;
  beforeAll(async () => {
    client = await clientOf(listener);
    fairlead = fairleadOf();
  });

  afterEach(async () => {
    await expect
      .poll(
        async () =>
          (await fairlead.fleet()).pools.flatMap(({ endpoints }) =>
            endpoints.map(({ requestsInFlight, promptTokensInFlight, uncachedTokensWaiting }) => requestsInFlight + promptTokensInFlight + uncachedTokensWaiting),
          ),
        { timeout: 2_000, interval: 25 },
      )
      .toEqual(behaviours.map(() => 0));
    // Each request once, none by the clock.
    expect(await fairlead.metric('fairlead_requests_released_total')).toBe(await fairlead.metric('fairlead_decisions_total'));
    expect(await fairlead.metric('fairlead_requests_released_total', { signal: 'timer' })).toBe(0);
    expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
  });

  /** Counts of the releases of one pool by how they ended; both kinds of phases share a Fairlead, so the difference counts. */
  async function endingsOf(pool: Behaviour, act: () => Promise<void>): Promise<Record<string, number>> {
    const count = async (): Promise<Map<string, number>> => {
      const endings = ['finished', 'client-abort', 'upstream-failure', 'not-proxied', 'stream-error', 'expired'];
      return new Map(await Promise.all(endings.map(async (ending) => [ending, await fairlead.metric('fairlead_requests_released_total', { pool, ending })] as const)));
    };
    const before = await count();
    await act();
    await expect.poll(() => fairlead.requestsInFlight(), { timeout: 2_000, interval: 25 }).toBe(0);
    const after = await count();
    return Object.fromEntries([...after].map(([ending, value]) => [ending, value - before.get(ending)!] as const).filter(([, value]) => value > 0));
  }

  it('normal traffic, plain and streamed', async () => {
    const endings = await endingsOf('ok', async () => {
      await Promise.all(
        Array.from({ length: 40 }, async (_, i) => {
          const { status, body } = await client.send({ path, headers: json, body: chat('ok', { stream: i % 2 === 0, max_tokens: 20 }) });
          expect(status).toBe(200);
          expect(body.toString()).toContain(i % 2 === 0 ? 'data: [DONE]' : '"usage"');
        }),
      );
    });
    expect(endings).toEqual({ finished: 40 });
  });

  it('clients that leave in the middle of a stream', async () => {
    const endings = await endingsOf('slow', async () => {
      await Promise.all(
        Array.from({ length: 6 }, async () => {
          const { status, body } = await client.open({ path, headers: json, body: chat('slow', { stream: true }) });
          expect(status).toBe(200);
          await new Promise((resolve) => body.once('data', resolve));
          expect(await fairlead.requestsInFlight()).toBeGreaterThan(0);
          body.on('error', () => undefined).destroy();
        }),
      );
    });
    expect(endings).toEqual({ 'client-abort': 6 });
  });

  it('clients that leave before any answer', async () => {
    const endings = await endingsOf('hung', async () => {
      const abort = new AbortController();
      const calls = Array.from({ length: 3 }, () =>
        fetch(urlOf(listener) + path, { method: 'POST', headers: json, body: chat('hung'), signal: abort.signal }).catch(() => 'left'),
      );
      await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000, interval: 25 }).toBe(3);
      abort.abort();
      expect(await Promise.all(calls)).toEqual(['left', 'left', 'left']);
    });
    expect(endings).toEqual({ 'client-abort': 3 });
  });

  it('clients that leave while they send', async () => {
    const abort = new AbortController();
    const half = Readable.from(
      (async function* forever() {
        yield Buffer.from(chat('ok').slice(0, 30));
        await sleep(20_000, undefined, { signal: abort.signal }).catch(() => undefined);
      })(),
    );
    const streamsBefore = await fairlead.metric('fairlead_streams_opened_total');
    const call = fetch(urlOf(listener) + path, {
      method: 'POST',
      headers: json,
      body: Readable.toWeb(half),
      duplex: 'half',
      signal: abort.signal,
    }).catch(() => 'left');
    await expect.poll(() => fairlead.metric('fairlead_streams_opened_total'), { timeout: 5_000, interval: 25 }).toBe(streamsBefore + 1);
    abort.abort();
    expect(await call).toBe('left');
    await expect.poll(() => fairlead.metric('fairlead_streams_open'), { timeout: 2_000 }).toBe(0);
  });

  it('an upstream that resets in the middle', async () => {
    const endings = await endingsOf('resetting', async () => {
      for (const stream of [true, false, true]) {
        // The answer breaks off, or, where its headers were still held for the processor, becomes an error of Envoy's.
        const outcome = await client.send({ path, headers: json, body: chat('resetting', { stream, max_tokens: 20 }) }).then(
          ({ status }) => status,
          () => 'broken off',
        );
        expect(['broken off', 502, 503]).toContain(outcome);
      }
    });
    if (listener === 'access log') expect(endings).toEqual({ 'upstream-failure': 3 });
  });

  it('an upstream that refuses', async () => {
    const endings = await endingsOf('refusing', async () => {
      for (let i = 0; i < 3; i += 1) expect((await client.send({ path, headers: json, body: chat('refusing') })).status).toBe(503);
    });
    if (listener === 'access log') expect(endings).toEqual({ 'upstream-failure': 3 });
  });

  it('a route that times out', async () => {
    const impatient = await clientOf(`${listener}, impatient`);
    const endings = await endingsOf('hung', async () => {
      await Promise.all(
        Array.from({ length: 3 }, async () => expect((await impatient.send({ path, headers: json, body: chat('hung') })).status).toBe(504)),
      );
    });
    if (listener === 'access log') expect(endings).toEqual({ 'upstream-failure': 3 });
  });

  it('a route that times out in the middle of a stream', async () => {
    const impatient = await clientOf(`${listener}, impatient`);
    await endingsOf('slow', async () => {
      const { status, body } = await impatient.open({ path, headers: json, body: chat('slow', { stream: true }) });
      expect(status).toBe(200);
      await new Promise((resolve) => body.once('error', resolve).once('end', resolve).resume());
    });
  });

  it('a body that Envoy finds too large', async () => {
    // The model in a header, the session perhaps in the body: a place is reserved, and the body asked for.
    const messagesBefore = await fairlead.metric('fairlead_stream_messages_total', { phase: 'request_headers' });
    const body = chat('ok', { max_tokens: 4, padding: 'x'.repeat(5 * bufferBytesMax) });
    async function* pieces(): AsyncGenerator<string> {
      const head = [`POST ${path} HTTP/1.1`, 'host: gateway', 'content-type: application/json', 'x-model: ok', `content-length: ${body.length}`];
      yield `${head.join('\r\n')}\r\nconnection: close\r\n\r\n${body.slice(0, 20)}`;
      // Not before the answer to the headers is there: Envoy 1.40 waits for ever for a body that is over the limit by then.
      await expect.poll(() => fairlead.metric('fairlead_stream_messages_total', { phase: 'request_headers' }), { timeout: 5_000 }).toBe(messagesBefore + 1);
      await sleep(300);
      yield body.slice(20);
    }
    const answer = await sendRaw(envoys.get(listener)!.listenerPort(`${listener}, small`), pieces());
    // Only where it is held whole is it too large.
    expect(answer.split('\r\n', 1)[0]).toBe(listener === 'full duplex phases' ? 'HTTP/1.1 200 OK' : 'HTTP/1.1 413 Payload Too Large');
  });

  it('a request that Fairlead refuses', async () => {
    const decisions = await fairlead.metric('fairlead_decisions_total');
    for (let i = 0; i < 3; i += 1) expect((await client.send({ path, headers: json, body: chat('nobody serves this') })).status).toBe(404);
    expect(await fairlead.metric('fairlead_decisions_total')).toBe(decisions);
  });
});

it('which channel told is known', async () => {
  // Of ends that show in Envoy's record alone and of those that show in the exchange, the first to tell counts.
  expect(await byLog.metric('fairlead_requests_released_total', { signal: 'access-log', ending: 'finished' })).toBeGreaterThanOrEqual(40);
  expect(await byLog.metric('fairlead_requests_released_total', { signal: 'response-phases' })).toBe(0);
  expect(await byPhases.metric('fairlead_requests_released_total', { signal: 'response-phases', ending: 'finished' })).toBeGreaterThanOrEqual(80);
  expect(await byPhases.metric('fairlead_requests_released_total', { signal: 'access-log' })).toBe(0);
  for (const fairlead of [byLog, byPhases]) expect(await fairlead.metric('fairlead_completion_signal_missing')).toBe(0);
});

it('without any report the load is guessed, and the log says so loudly', { timeout: 60_000 }, async () => {
  await expect.poll(() => unreported.requestsInFlight(), { timeout: assumedDurationMs + 5_000 }).toBe(0);
  expect(await unreported.metric('fairlead_requests_released_total', { ending: 'expired', signal: 'timer' })).toBe(unreportedRequests);
  await expect.poll(() => unreported.log(), { timeout: 40_000, interval: 200 }).toContain('no_completion_signal');
  const lines = unreported.log().split('\n').filter((line) => line.includes('no_completion_signal'));
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0]!)).toMatchObject({ level: 'error', event: 'no_completion_signal', requests: unreportedRequests });
  expect(await unreported.metric('fairlead_completion_signal_missing')).toBe(1);
  for (const fairlead of [byLog, byPhases]) expect(fairlead.log()).not.toContain('no_completion_signal');
});
