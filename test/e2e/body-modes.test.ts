import { randomBytes } from 'node:crypto';
import { connect as connectHttp2 } from 'node:http2';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { type Answer, HttpClient, inParallel, sha256 } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { connectionManager, limitBodies, withListeners } from './shared-envoy.ts';

// Pool `by-default` takes what names no model, pool `by-body` what names the model that only the body tells. Which of them answered, and
// which endpoint, shows whether Fairlead could read the body.
const model = 'model-in-body';
const path = '/echo/v1/chat/completions';
const sizes = { '0 B': 0, '1 B': 1, '4 KB': 4_096, '1.2 MB': 1_200_000, '5 MB': 5_000_000 } as const;
const messageTimeoutMs = 3_000;

interface Mode extends EnvoyOptions {
  /** Up to which size a decision can hang on the body; undefined where that hangs on when the body comes. */
  readonly readsUpToBytes: number | undefined;
  /** Send the body without waiting for the answer to the headers. */
  readonly sendsBodyAtOnce?: boolean;
  /**
   * Largest body that Envoy buffers. Well below the bodies that it cuts: Envoy 1.40 forgets the end of a body that comes while the cut part
   * is out, and the request hangs, whatever the processor answers.
   */
  readonly bufferBytesMax?: number;
}

const modes: Readonly<Record<string, Mode>> = {
  'none, override allowed': { bodyMode: 'NONE', allowModeOverride: true, readsUpToBytes: Infinity },
  'none, override refused': { bodyMode: 'NONE', allowModeOverride: false, readsUpToBytes: 0 },
  buffered: { bodyMode: 'BUFFERED', readsUpToBytes: Infinity },
  // The answer to the headers goes out before any body is there, and none later may carry headers.
  streamed: { bodyMode: 'STREAMED', readsUpToBytes: 0 },
  'streamed at once': { bodyMode: 'STREAMED', sendsBodyAtOnce: true, readsUpToBytes: undefined },
  'buffered partial': { bodyMode: 'BUFFERED_PARTIAL', readsUpToBytes: Infinity },
  // Over the limit the first part alone is shown, without an end; what it says still counts.
  'buffered partial, cut': { bodyMode: 'BUFFERED_PARTIAL', bufferBytesMax: 65_536, readsUpToBytes: Infinity },
  'full duplex': { bodyMode: 'FULL_DUPLEX_STREAMED', readsUpToBytes: Infinity },
  'full duplex both ways': { bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED', readsUpToBytes: Infinity },
  'streamed both ways': { bodyMode: 'STREAMED', responseBodyMode: 'STREAMED', responseHeaders: true, readsUpToBytes: 0 },
  'buffered, response streamed': { bodyMode: 'BUFFERED', responseBodyMode: 'STREAMED', responseHeaders: true, readsUpToBytes: Infinity },
};
const names = Object.keys(modes);
/** Listeners beside the others whose routes have no retries. */
const withoutRetries = (name: string): string => `${name}, no retries`;

const parts = new RunningParts();
let byDefault: string[];
let byBody: string[];
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients = new Map<string, HttpClient>();
/** Where each session lives in pool `by-body`, learned from requests that were decided on headers. */
const homes = new Map<string, string>();
const answeredBy = new Map<string, number>();

function routing(): Record<string, unknown> {
  return {
    pools: Object.entries({ 'by-default': byDefault, 'by-body': byBody }).map(([name, endpoints]) => ({
      name,
      // Sessions are to stay at home whatever else is in flight.
      policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } },
      endpoints: endpoints.map((endpoint) => ({ address: endpoint })),
    })),
    routes: [
      { match: { model }, targets: [{ pool: 'by-body' }] },
      { match: { model: '*' }, targets: [{ pool: 'by-default' }] },
    ],
  };
}

beforeAll(async () => {
  const address = ({ address }: ModelServer): string => address;
  byDefault = (await parts.addModelServers(2)).map(address);
  byBody = (await parts.addModelServers(3)).map(address);
  fairlead = await parts.add(
    startFairlead(routing()),
  );
  const configs = Object.entries(modes).flatMap(([name, options]) => {
    const clusters = { 'by-default': byDefault, 'by-body': byBody };
    const config = renderEnvoyConfig({ ...options, messageTimeoutMs, fairlead: [fairlead.address], clusters });
    if (options.bufferBytesMax !== undefined) limitBodies(config, options.bufferBytesMax);
    if (options.sendsBodyAtOnce === true) {
      const filter = connectionManager(config).http_filters.find((candidate) => candidate.name === 'envoy.filters.http.ext_proc');
      filter!.typed_config['send_body_without_waiting_for_header_response'] = true;
    }
    const single = structuredClone(config);
    delete connectionManager(single).route_config.virtual_hosts[0]!.routes[0]!.route['retry_policy'];
    return [[name, config] as const, [withoutRetries(name), single] as const];
  });
  envoy = await parts.add(startEnvoy({ config: withListeners(Object.fromEntries(configs)) }));
  for (const name of names) clients.set(name, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 8))));
});
afterAll(() => parts.stop());

/** What happened to a body of which `sent` is the original. */
function check(answer: Answer, sent: Buffer, case_: string): void {
  answeredBy.set(answer.servedBy ?? 'nobody', (answeredBy.get(answer.servedBy ?? 'nobody') ?? 0) + 1);
  expect({
    case: case_,
    status: answer.status,
    receivedBytes: Number(answer.headers['x-body-bytes']),
    received: answer.headers['x-body-sha256'],
    answeredBytes: answer.body.length,
    answered: sha256(answer.body),
  }).toEqual({ case: case_, status: 200, receivedBytes: sent.length, received: sha256(sent), answeredBytes: sent.length, answered: sha256(sent) });
}

async function homeOf(client: HttpClient, session: string): Promise<string> {
  const known = homes.get(session);
  if (known !== undefined) return known;
  const answer = await client.send({ path: '/echo', headers: { 'x-session-id': session, 'x-model': model } });
  check(answer, Buffer.alloc(0), `home of ${session}`);
  homes.set(session, answer.servedBy ?? '');
  return answer.servedBy ?? '';
}

/** A chat request of exactly `bytes` bytes, with model and session before or after the messages. */
function chatBody(session: string, bytes: number, factsFirst = true): Buffer {
  const make = (content: string): string => {
    const messages = [{ role: 'user', content }];
    return JSON.stringify(factsFirst ? { model, prompt_cache_key: session, messages } : { messages, prompt_cache_key: session, model });
  };
  const rest = bytes - make('').length;
  // Text with quotes and letters of two bytes, so that a byte lost or shifted shows.
  const text = 'said "é" twice. '.repeat(Math.ceil(rest / 16));
  let content = '';
  for (let chars = Math.floor((rest * 16) / 19); chars > 0; chars -= 1) {
    content = text.slice(0, chars);
    if (Buffer.byteLength(make(content)) <= bytes) break;
  }
  return Buffer.from(make(content + 'x'.repeat(bytes - Buffer.byteLength(make(content)))));
}

/** The home of a session that only the body tells, where the mode lets Fairlead read it; else pool `by-default`. */
function expectServedBy({ servedBy }: Answer, bytes: number, readsUpToBytes: number | undefined, home: string, title: string): void {
  const allowed = readsUpToBytes === undefined ? [home, ...byDefault] : bytes <= readsUpToBytes ? [home] : byDefault;
  expect(allowed, title).toContain(servedBy);
}

function of(name: string): { client: HttpClient; readsUpToBytes: number | undefined } {
  const client = clients.get(name);
  const mode = modes[name];
  if (client === undefined || mode === undefined) throw new Error(`no mode ${name}`);
  return { client, readsUpToBytes: mode.readsUpToBytes };
}

const framings = [undefined, 16_000] as const;

describe.each(names)('%s', (name) => {
  it('passes chat bodies of any size unchanged, and routes by them where the mode lets it', async () => {
    const { client, readsUpToBytes } = of(name);
    const cases = Object.entries(sizes)
      .filter(([, bytes]) => bytes >= 4_096)
      .flatMap(([size, bytes]) => framings.map((chunkBytes) => ({ size, bytes, chunkBytes })));
    await inParallel(cases.length, 3, async (i) => {
      const { size, bytes, chunkBytes } = cases[i]!;
      const title = `${size}, ${chunkBytes === undefined ? 'content-length' : 'chunked'}`;
      const session = `session ${name} ${title}`;
      const home = await homeOf(client, session);
      const body = chatBody(session, bytes);
      expect(body.length).toBe(bytes);
      const answer = await client.send({ path, headers: { 'content-type': 'application/json' }, body, ...(chunkBytes !== undefined && { chunkBytes }) });
      check(answer, body, title);
      expectServedBy(answer, bytes, readsUpToBytes, home, title);
    });
  });

  it('passes bytes that are no JSON unchanged, and routes by the headers', async () => {
    const { client } = of(name);
    const cases = Object.entries(sizes).flatMap(([size, bytes]) =>
      framings.flatMap((chunkBytes) => ['application/octet-stream', 'application/json'].map((type) => ({ size, bytes, chunkBytes, type }))),
    );
    await inParallel(cases.length, 3, async (i) => {
      const { size, bytes, chunkBytes, type } = cases[i]!;
      const title = `${size}, ${chunkBytes === undefined ? 'content-length' : 'chunked'}, ${type}`;
      const session = `session ${i % 7}`;
      const home = await homeOf(client, session);
      const body = randomBytes(bytes);
      const framing = chunkBytes === undefined ? {} : { chunkBytes };
      // The session is told by a header, the model too or nowhere.
      const told = await client.send({ path, headers: { 'content-type': type, 'x-session-id': session, 'x-model': model }, body, ...framing });
      check(told, body, title);
      expect([title, told.servedBy]).toEqual([title, home]);
      if (bytes > sizes['1.2 MB']) return;
      const untold = await client.send({ path, headers: { 'content-type': type }, body, ...framing });
      check(untold, body, `${title}, no model`);
      expect(byDefault, title).toContain(untold.servedBy);
    });
  });

  it('reads facts at the end of a body, and takes a body that comes with trailers', async () => {
    const { client, readsUpToBytes } = of(name);
    const session = `late ${name}`;
    const home = await homeOf(client, session);
    const body = chatBody(session, 20_000, false);
    const answer = await client.send({ path, headers: { 'content-type': 'application/json' }, body, chunkBytes: 1_000 });
    check(answer, body, 'facts last');
    // In these modes Envoy sends a body with trailers twice where the route has retries (envoy#45470, there in 1.40).
    const port = envoy.listenerPort(/^(full duplex|buffered partial|streamed)/.test(name) ? withoutRetries(name) : name);
    const trailed = await sendHttp2(port, body, { 'x-checksum': 'trailer' });
    check(trailed, body, 'with trailers');
    const trailersOnly = await sendHttp2(port, Buffer.alloc(0), { 'x-checksum': 'trailer' });
    check(trailersOnly, Buffer.alloc(0), 'trailers alone');
    for (const each of [answer, trailed]) expectServedBy(each, body.length, readsUpToBytes, home, 'facts last');
  });
});

it('waits for a client that sends slowly, longer than a message to the processor may take', async () => {
  await Promise.all(
    names.map(async (name) => {
      const { client, readsUpToBytes } = of(name);
      const session = `slow ${name}`;
      const home = await homeOf(client, session);
      const body = chatBody(session, 10_000, false);
      const answer = await sendSlowly(envoy.listenerPort(name), body, messageTimeoutMs + 500);
      check(answer, body, name);
      expectServedBy(answer, body.length, readsUpToBytes, home, name);
    }),
  );
});

it('every request went where Fairlead decided, and no answer failed', async () => {
  for (const [endpoint, count] of answeredBy) {
    expect([endpoint, await fairlead.metric('fairlead_decisions_total', { endpoint })]).toEqual([endpoint, count]);
  }
  expect(await fairlead.metric('fairlead_served_elsewhere_total')).toBe(0);
  expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
  expect(await fairlead.metric('fairlead_streams_closed_total', { ending: 'protocol-error' })).toBe(0);
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
  const stats = await envoy.stats('ext_proc\\.(streams_failed|message_timeouts|spurious_msgs_received|rejected_header_mutations|failure_mode_allowed)$');
  expect(Object.keys(stats).length).toBeGreaterThanOrEqual(5 * names.length);
  expect(Object.entries(stats).filter(([, value]) => value !== 0)).toEqual([]);
});

// Last, since a request that hangs upsets the accounts above.
it('a body over the limit of an Envoy that has only the default one gets an answer', async () => {
  // Told what this Envoy can buffer, Fairlead asks for no larger body: Envoy would neither answer nor refuse it.
  const cautious = await parts.add(startFairlead({ ...routing(), limits: { askForBodyBytesMax: 1_000_000 } }));
  const config = renderEnvoyConfig({ messageTimeoutMs, fairlead: [cautious.address], clusters: { 'by-default': byDefault, 'by-body': byBody } });
  for (const host of connectionManager(config).route_config.virtual_hosts) delete host.request_body_buffer_limit;
  const plain = await parts.add(startEnvoy({ config }));
  const client = await parts.add(Promise.resolve(new HttpClient(plain.url, 8, 5_000)));
  for (const bytes of [sizes['1.2 MB'], sizes['5 MB']]) {
    const outcome = await client.send({ path, headers: { 'content-type': 'application/json' }, body: chatBody('default limit', bytes) }).then(
      ({ status }) => status,
      (error: unknown) => `none: ${String(error)}`,
    );
    expect([200, 413], `${bytes} B`).toContain(outcome);
  }
});

/** Sends a chat body over HTTP/2, which unlike HTTP/1.1 carries trailers through Envoy's defaults. */
function sendHttp2(port: number, body: Buffer, trailers: Record<string, string>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const session = connectHttp2(`http://127.0.0.1:${port}`);
    session.once('error', reject);
    const stream = session.request(
      { ':method': 'POST', ':path': path, 'content-type': 'application/json' },
      { waitForTrailers: true, endStream: false, signal: AbortSignal.timeout(15_000) },
    );
    stream.once('wantTrailers', () => stream.sendTrailers(trailers));
    stream.once('error', (error: Error) => {
      session.destroy();
      reject(error);
    });
    let headers: Record<string, string | string[] | undefined> = {};
    stream.once('response', (received) => (headers = received as typeof headers));
    const chunks: Buffer[] = [];
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.once('end', () => {
      session.close();
      resolve({ status: Number(headers[':status']), headers, body: Buffer.concat(chunks), servedBy: headers['x-served-by'] as string | undefined });
    });
    stream.end(body);
  });
}

/** Sends a body in two halves with a pause between them. */
async function sendSlowly(port: number, body: Buffer, pauseMs: number): Promise<Answer> {
  const half = body.length >> 1;
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    duplex: 'half',
    body: Readable.toWeb(
      Readable.from(
        (async function* halves() {
          yield body.subarray(0, half);
          await sleep(pauseMs);
          yield body.subarray(half);
        })(),
      ),
    ),
  });
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: Buffer.from(await response.arrayBuffer()),
    servedBy: response.headers.get('x-served-by') ?? undefined,
  };
}
