import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { type Answer, type Call, HttpClient, inParallel } from './http-client.ts';
import { type RecordingServer, type ReceivedRequest, startRecordingServer } from './recording-server.ts';
import { RunningParts } from './running-parts.ts';
import { connectionManager, limitBodies, withListeners } from './shared-envoy.ts';

// Route `tier` sends what the header x-tier marks to pool `small`, whose model is another; all else goes to `big` as it is.
const smallModel = 'small "é" model/7b';
const path = '/v1/chat/completions';

interface Mode extends EnvoyOptions {
  readonly sendsBodyAtOnce?: boolean;
  readonly bufferBytesMax?: number;
  /** Largest body that this mode shows as a whole. */
  readonly bodyBytesMaxWhole?: number;
}

const modes: Readonly<Record<string, Mode>> = {
  'none, override allowed': { bodyMode: 'NONE', allowModeOverride: true },
  buffered: { bodyMode: 'BUFFERED' },
  'buffered partial': { bodyMode: 'BUFFERED_PARTIAL' },
  'buffered partial, cut': { bodyMode: 'BUFFERED_PARTIAL', bufferBytesMax: 65_536, bodyBytesMaxWhole: 40_000 },
  streamed: { bodyMode: 'STREAMED' },
  'streamed at once': { bodyMode: 'STREAMED', sendsBodyAtOnce: true },
  'streamed both ways': { bodyMode: 'STREAMED', responseBodyMode: 'STREAMED', responseHeaders: true },
  'full duplex': { bodyMode: 'FULL_DUPLEX_STREAMED' },
  'full duplex both ways': { bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED' },
};
const names = Object.keys(modes);
const refusing = 'none, override refused';

const parts = new RunningParts();
let small: RecordingServer;
let big: RecordingServer;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients = new Map<string, HttpClient>();

beforeAll(async () => {
  small = await parts.add(startRecordingServer());
  big = await parts.add(startRecordingServer());
  fairlead = await parts.add(
    startFairlead({
      pools: [
        { name: 'big', policy: { preset: 'session-affinity' }, endpoints: [{ address: big.address }] },
        { name: 'small', policy: { preset: 'session-affinity' }, endpoints: [{ address: small.address }] },
      ],
      routes: [
        { match: { headers: { 'x-tier': 'small' } }, targets: [{ pool: 'small', model: smallModel }] },
        { match: { model: 'asks-for-small' }, targets: [{ pool: 'small', model: smallModel }] },
        { targets: [{ pool: 'big' }] },
      ],
    }),
  );
  const all: Readonly<Record<string, Mode>> = { ...modes, [refusing]: { bodyMode: 'NONE', allowModeOverride: false } };
  const configs = Object.entries(all).map(([name, options]) => {
    const config = renderEnvoyConfig({
      ...options,
      messageTimeoutMs: 10_000,
      fairlead: [fairlead.address],
      clusters: { big: [big.address], small: [small.address] },
    });
    if (options.bufferBytesMax !== undefined) limitBodies(config, options.bufferBytesMax);
    if (options.sendsBodyAtOnce === true) {
      const filter = connectionManager(config).http_filters.find((candidate) => candidate.name === 'envoy.filters.http.ext_proc');
      filter!.typed_config['send_body_without_waiting_for_header_response'] = true;
    }
    return [name, config] as const;
  });
  envoy = await parts.add(startEnvoy({ config: withListeners(Object.fromEntries(configs)) }));
  for (const name of [...names, refusing]) clients.set(name, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 4))));
});
afterAll(() => parts.stop());
beforeEach(() => {
  small.take();
  big.take();
});

const json = { 'content-type': 'application/json' };
/** What keeps a request from waiting for its body for any other cause than the rewrite. */
const told = { ...json, 'x-tier': 'small', 'x-session-id': 's', 'x-model': 'm' };

function send(mode: string, call: Omit<Call, 'path'>): Promise<Answer> {
  return clients.get(mode)!.send({ path, ...call });
}

/** A body with its model (as JSON writes it) in front of or behind so many bytes of text. */
function body(model: string, textBytes: number, modelFirst: boolean): Buffer {
  // Escapes, letters of two bytes, keys that look like it further down, and the writer's own spaces: all of it has to stay.
  const text = 'said \\"é\\" \\u00e9 \\\\ '.repeat(Math.ceil(textBytes / 21));
  const rest = `"messages" : [ {"role":"user", "model": "not this", "content":"${text}"} ],"n":1.0`;
  return Buffer.from(modelFirst ? `{ "model" :  ${model} , ${rest}}` : `{${rest},"model":${model} }\n`);
}

/** Its one request, once it is all there. */
async function receivedBy(server: RecordingServer): Promise<ReceivedRequest> {
  let all: ReceivedRequest[] = [];
  await expect.poll(() => (all = [...all, ...server.take()]).length, { timeout: 5_000 }).toBe(1);
  return all[0]!;
}

function expectFraming({ headers, body: received }: ReceivedRequest): void {
  const length = headers['content-length'];
  if (length === undefined) expect(headers['transfer-encoding']).toBe('chunked');
  else expect(Number(length)).toBe(received.length);
}

describe.each(names)('%s', (mode) => {
  const sizes = [0, 3_000, 30_000, 300_000, 1_200_000].filter((bytes) => bytes <= (modes[mode]?.bodyBytesMaxWhole ?? Infinity));
  const models = ['"asks-for-small"', '"x"', `"asks\\u002dfor-small"`, `"${'long'.repeat(50)}"`];

  it('the upstream gets the other model and otherwise the same bytes, with the right length', async () => {
    const cases = sizes.flatMap((bytes, i) =>
      [true, false].flatMap((modelFirst) =>
        [undefined, 777 + 16_000 * (i % 2)].map((chunkBytes, j) => ({ bytes, modelFirst, chunkBytes, model: models[(i + j) % models.length]! })),
      ),
    );
    for (const { bytes, modelFirst, chunkBytes, model } of cases) {
      const title = `${bytes} B, model ${modelFirst ? 'first' : 'last'}, ${chunkBytes === undefined ? 'content-length' : `chunks of ${chunkBytes}`}, ${model}`;
      const sent = body(model, bytes, modelFirst);
      const answer = await send(mode, { headers: told, body: sent, ...(chunkBytes !== undefined && { chunkBytes }) });
      expect([title, answer.status, answer.body.toString()]).toEqual([title, 200, '']);
      const received = await receivedBy(small);
      const wanted = body(JSON.stringify(smallModel), bytes, modelFirst);
      expect([title, received.whole, received.body.length, received.body.equals(wanted)]).toEqual([title, true, wanted.length, true]);
      expectFraming(received);
    }
  });

  it('a body that names the model already stays as it is', async () => {
    const sent = body('"small \\"\\u00e9\\" model\\/7b"', 5_000, false);
    expect((await send(mode, { headers: told, body: sent })).status).toBe(200);
    const received = await receivedBy(small);
    expect(received.body.equals(sent)).toBe(true);
    expectFraming(received);
  });

  it('a request to a pool that keeps the model stays as it is', async () => {
    const sent = body('"any"', 5_000, true);
    expect((await send(mode, { headers: { ...json, 'x-session-id': 's', 'x-model': 'm' }, body: sent })).status).toBe(200);
    const received = await receivedBy(big);
    expect(received.body.equals(sent)).toBe(true);
    expectFraming(received);
  });

  it('a request without a body goes on', async () => {
    expect((await send(mode, { headers: { 'x-tier': 'small', 'x-session-id': 's', 'x-model': 'm' } })).status).toBe(200);
    expect((await receivedBy(small)).body.length).toBe(0);
    expect((await send(mode, { headers: told, body: '', method: 'POST' })).status).toBe(200);
    expect((await receivedBy(small)).body.length).toBe(0);
  });

  it.each([
    ['that names it twice', '{"model":"a","x":[{}],"model":"b"}', {}],
    ['that names it again at its end', `{"model":"a","x":"${'y'.repeat(200_000)}","mo\\u0064el":"b"}`, {}],
    ['that names none', '{"messages":[]}', {}],
    ['whose model is no string', '{"model":7}', {}],
    ['that stops short', '{"model":"a","x":[', {}],
    ['that is no JSON', 'model=a', {}],
    ['that is compressed', gzipSync('{"model":"a"}'), { 'content-encoding': 'gzip' }],
    ['of another type', '{"model":"a"}', { 'content-type': 'text/plain' }],
  ])('a body %s is refused, and never reaches the upstream whole', async (_title, sent, headers) => {
    if (Buffer.byteLength(sent) > (modes[mode]?.bodyBytesMaxWhole ?? Infinity)) return;
    const answer = await send(mode, { headers: { ...told, ...headers }, body: sent });
    expect([answer.status, answer.headers['x-fairlead-refusal']]).toEqual([400, 'body_not_rewritable']);
    expect(JSON.parse(answer.body.toString())).toMatchObject({ error: { code: 'body_not_rewritable', type: 'invalid_request_error' } });
    expect(small.take().filter(({ whole }) => whole)).toEqual([]);
  });
});

it('is found by the model in the body, where that is read before the headers are answered', async () => {
  for (const mode of names.filter((name) => name !== 'streamed' && name !== 'streamed both ways' && name !== 'streamed at once')) {
    const sent = body('"asks-for-small"', 20_000, false);
    const answer = await send(mode, { headers: json, body: sent });
    expect([mode, answer.status]).toEqual([mode, 200]);
    expect((await receivedBy(small)).body.equals(body(JSON.stringify(smallModel), 20_000, false)), mode).toBe(true);
  }
});

it('a body that Envoy cuts is refused, whatever its first part says', async () => {
  const answer = await send('buffered partial, cut', { headers: told, body: body('"x"', 300_000, true) });
  expect([answer.status, answer.headers['x-fairlead-refusal']]).toEqual([503, 'rewrite_unsupported']);
  expect(small.take().filter(({ whole }) => whole)).toEqual([]);
});

it('where Envoy shows no body, no request goes on with the wrong model', async () => {
  const answer = await send(refusing, { headers: told, body: body('"x"', 100, true) });
  expect(answer.status).toBe(503);
  expect(small.take()).toEqual([]);
  expect(big.take()).toEqual([]);
});

it('nothing stays counted, nothing failed', async () => {
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 5_000 }).toBe(0);
  expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
  expect(await fairlead.metric('fairlead_streams_closed_total', { ending: 'protocol-error' })).toBe(0);
  const stats = await envoy.stats('ext_proc\\.(streams_failed|message_timeouts|spurious_msgs_received|rejected_header_mutations|failure_mode_allowed)$');
  expect(Object.entries(stats).filter(([, value]) => value !== 0)).toEqual([]);
});

it('many at once keep their bodies apart', async () => {
  for (const mode of ['full duplex', 'buffered', 'none, override allowed']) {
    await inParallel(40, 8, async (i) => {
      const sent = Buffer.from(`{"n":${i},"model":"x","pad":"${'p'.repeat(i * 1_000)}"}`);
      expect((await send(mode, { headers: told, body: sent })).status).toBe(200);
    });
    const received = small.take();
    expect(received).toHaveLength(40);
    const bodies = new Set(received.map(({ body: bytes }) => bytes.toString()));
    for (let i = 0; i < 40; i += 1) expect(bodies).toContain(`{"n":${i},"model":${JSON.stringify(smallModel)},"pad":"${'p'.repeat(i * 1_000)}"}`);
  }
});
