import http2 from 'node:http2';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ClientDuplexStream,
  Client,
  type ClientReadableStream,
  type ClientWritableStream,
  credentials,
  loadPackageDefinition,
  type MethodDefinition,
  type ServiceClientConstructor,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { service as healthService } from 'grpc-health-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type GrpcServer, startGrpcServer, type TransportName } from '../../src/extproc/grpc-server.ts';
import { BodySendMode, type ProcessingRequest, type ProcessingResponse, type StreamAccessLogsMessage, toStruct } from '../../src/extproc/messages.ts';
import { accessLogService, decodeProcessingResponse, encodeProcessingRequest, externalProcessorService } from '../../src/extproc/proto.ts';
import { createTrial, summarize, type Trial, type TrialOptions } from '../stream-under-test.ts';

const processPath = externalProcessorService.Process.path;
const healthPath = (method: string): string => `/grpc.health.v1.Health/${method}`;

/** What a test opened; closed after it in reverse. */
const opened: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

const transports = ['lean', 'http2', 'grpc-js'] as const satisfies readonly TransportName[];
let transport: TransportName = 'lean';

interface Served {
  trial: Trial;
  server: GrpcServer;
  client: Client;
}

async function serve(options?: TrialOptions): Promise<Served> {
  const trial = createTrial(options);
  const { context, router } = trial;
  const server = await startGrpcServer({ address: '127.0.0.1:0', context: () => context, router, events: context.events, messageBytesMax: 4 << 20, transport });
  opened.push(() => server.stop(0));
  return { trial, server, client: connect(server) };
}

function connect(server: GrpcServer): Client {
  const client = new Client(`127.0.0.1:${server.port}`, credentials.createInsecure());
  opened.push(() => client.close());
  return client;
}

/** One ext_proc stream from the client's side. */
class Exchange {
  readonly call: ClientDuplexStream<ProcessingRequest | Buffer, ProcessingResponse>;
  readonly answers: string[] = [];
  error: ServiceError | undefined;
  #closed = false;

  constructor(client: Client) {
    const toBytes = (message: ProcessingRequest | Buffer): Buffer => (Buffer.isBuffer(message) ? message : encodeProcessingRequest(message));
    this.call = client.makeBidiStreamRequest(processPath, toBytes, decodeProcessingResponse);
    this.call.on('data', (answer: ProcessingResponse) => this.answers.push(summarize(answer)));
    this.call.on('error', (error: ServiceError) => (this.error = error));
    this.call.on('status', () => (this.#closed = true));
  }

  say(...messages: (ProcessingRequest | Buffer)[]): void {
    for (const message of messages) this.call.write(message);
  }

  /** The answers, once there are this many. */
  async answered(count: number): Promise<string[]> {
    await until(() => this.answers.length >= count || this.#closed);
    return this.answers;
  }

  /** The status with which the call ended. */
  async ended(): Promise<status> {
    await until(() => this.#closed);
    return this.error?.code ?? status.OK;
  }
}

async function until(condition: () => boolean, msMax = 10_000): Promise<void> {
  for (let waited = 0; !condition(); waited += 5) {
    if (waited > msMax) throw new Error(`waited in vain for ${condition.toString()}`);
    await sleep(5);
  }
}

function headersMessage(mode: BodySendMode, headers: Readonly<Record<string, string>>, end = false): ProcessingRequest {
  const all = { ':path': '/v1/chat/completions', ...headers };
  return {
    request_headers: {
      headers: { headers: Object.entries(all).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) },
      end_of_stream: end,
    },
    protocol_config: { request_body_mode: mode },
  };
}

const { NONE, BUFFERED, FULL_DUPLEX_STREAMED } = BodySendMode;
const routable = headersMessage(NONE, { 'x-model': 'chat-a', 'x-session-id': 's' }, true);

describe.each(transports)('health on %s', (name) => {
  beforeEach(() => {
    transport = name;
  });

  const services = ['', 'readiness', 'liveness', 'envoy.service.ext_proc.v3.ExternalProcessor'];
  const check = (client: Client, name: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const { requestSerialize, responseDeserialize } = healthService['Check'] as MethodDefinition<{ service: string }, { status: string }>;
      client.makeUnaryRequest(healthPath('Check'), requestSerialize, responseDeserialize, { service: name }, (error, answer) => {
        if (error) reject(error);
        else resolve(answer?.status ?? '');
      });
    });

  it('follows readiness, but for liveness', async () => {
    const { server, client } = await serve();
    const all = (): Promise<string[]> => Promise.all(services.map((name) => check(client, name)));
    expect(await all()).toEqual(['NOT_SERVING', 'NOT_SERVING', 'SERVING', 'NOT_SERVING']);
    server.setReady(true);
    expect(await all()).toEqual(['SERVING', 'SERVING', 'SERVING', 'SERVING']);
    server.setReady(false);
    expect(await all()).toEqual(['NOT_SERVING', 'NOT_SERVING', 'SERVING', 'NOT_SERVING']);
    await expect(check(client, 'unknown')).rejects.toMatchObject({ code: status.NOT_FOUND });
  });

  it('is told to those who watch', async () => {
    const { server, client } = await serve();
    for (const name of services) {
      const seen: string[] = [];
      watch(client, name).on('data', (answer: { status: string }) => seen.push(answer.status));
      await until(() => seen.length === 1);
      server.setReady(true);
      if (name !== 'liveness') await until(() => seen.length === 2);
      server.setReady(false);
      if (name !== 'liveness') await until(() => seen.length === 3);
      expect(seen).toEqual(name === 'liveness' ? ['SERVING'] : ['NOT_SERVING', 'SERVING', 'NOT_SERVING']);
    }
  });
});

function watch(client: Client, service: string): ClientReadableStream<{ status: string }> {
  const { requestSerialize, responseDeserialize } = healthService['Watch'] as MethodDefinition<{ service: string }, { status: string }>;
  const call = client.makeServerStreamRequest(healthPath('Watch'), requestSerialize, responseDeserialize, { service });
  call.on('error', () => {});
  return call;
}

describe.each(transports)('reflection on %s', (name) => {
  beforeEach(() => {
    transport = name;
  });

  it.each(['v1', 'v1alpha'])('lists the services, and gives their files: %s', async (version) => {
    const { server } = await serve();
    const entry = createRequire(import.meta.url).resolve('@grpc/reflection');
    const file = path.join(path.dirname(entry), '..', 'proto', 'grpc', 'reflection', version, 'reflection.proto');
    const definition = loadSync(file, { keepCase: true });
    const grpc = loadPackageDefinition(definition)['grpc'] as unknown as Record<string, Record<string, Record<string, ServiceClientConstructor>>>;
    const Reflection = grpc['reflection']![version]!['ServerReflection']!;
    const client = new Reflection(`127.0.0.1:${server.port}`, credentials.createInsecure());
    opened.push(() => client.close());
    const ask = (request: object): Promise<Record<string, never>> =>
      new Promise((resolve, reject) => {
        const call = (client['ServerReflectionInfo'] as () => ClientDuplexStream<object, Record<string, never>>).call(client);
        call.on('data', resolve);
        call.on('error', reject);
        call.end(request);
      });
    const listed = (await ask({ list_services: '' })) as unknown as { list_services_response: { service: { name: string }[] } };
    const names = listed.list_services_response.service.map(({ name }) => name);
    const ours = ['envoy.service.accesslog.v3.AccessLogService', 'envoy.service.ext_proc.v3.ExternalProcessor', 'grpc.health.v1.Health'];
    expect(names.sort()).toEqual(expect.arrayContaining(ours));
    for (const name of ours) {
      const answer = (await ask({ file_containing_symbol: name })) as unknown as { file_descriptor_response?: { file_descriptor_proto: Buffer[] } };
      expect(answer.file_descriptor_response?.file_descriptor_proto.length, name).toBeGreaterThan(0);
    }
  });
});

describe.each(transports)('external processing on %s', (name) => {
  beforeEach(() => {
    transport = name;
  });

  it('answers each message, and ends the call when Envoy half-closes it', async () => {
    const { client, server, trial } = await serve();
    const exchange = new Exchange(client);
    const body = Buffer.from('{"model":"embed-x","user":"u"}');
    exchange.say(headersMessage(BUFFERED, { 'content-length': String(body.length) }));
    expect(await exchange.answered(1)).toEqual(['request_headers strip']);
    expect(server.streamsOpen).toBe(1);
    exchange.say({ request_body: { body, end_of_stream: true } });
    expect(await exchange.answered(2)).toEqual(['request_headers strip', 'request_body routed embeddings']);
    exchange.call.end();
    expect(await exchange.ended()).toBe(status.OK);
    expect(server.streamsOpen).toBe(0);
    expect(trial.log.at(-1)).toBe('closed completed');
    expect(trial.router.requestsInFlight).toBe(1);
  });

  it('ends a stream of messages out of order with INVALID_ARGUMENT', async () => {
    const { client, server } = await serve();
    const exchange = new Exchange(client);
    exchange.say(headersMessage(BUFFERED, { 'content-length': '2' }));
    exchange.say(headersMessage(BUFFERED, { 'content-length': '2' }));
    expect(await exchange.ended()).toBe(status.INVALID_ARGUMENT);
    await until(() => server.streamsOpen === 0);
  });

  it('refuses what it cannot decide because of a bug, and then fails the call', async () => {
    const broken: TrialOptions = {
      changePolicy: (policy) => ({
        ...policy,
        picker: {
          name: 'broken',
          run: () => {
            throw new Error('bug');
          },
        },
      }),
    };
    const { client, trial, server } = await serve(broken);
    const exchange = new Exchange(client);
    exchange.say(routable);
    expect(await exchange.ended()).toBe(status.INTERNAL);
    expect(exchange.answers).toEqual(['refused 503 internal_error']);
    expect(trial.router.requestsInFlight).toBe(0);
    await until(() => server.streamsOpen === 0);
  });

  it('loses one stream to poison, and none of twenty others', async () => {
    const { client, trial, server } = await serve();
    const body = Buffer.from('{"model":"embed-x","user":"u"}');
    const others = Array.from({ length: 20 }, () => new Exchange(client));
    for (const other of others) other.say(headersMessage(FULL_DUPLEX_STREAMED, {}));
    // Field 2 as a message whose length runs past the end; and, after a provisional decision, more of that.
    const poison = Buffer.from([0x12, 0x7f, 0x01]);
    const early = new Exchange(client);
    early.say(poison);
    const late = new Exchange(client);
    late.say(headersMessage(NONE, { 'x-model': 'chat-a' }));
    await late.answered(1);
    expect(trial.router.requestsInFlight).toBe(1);
    late.say(poison);
    expect(await early.ended()).toBe(status.INTERNAL);
    expect(await late.ended()).toBe(status.INTERNAL);

    for (const other of others) other.say({ request_body: { body, end_of_stream: true } });
    for (const other of others)
      expect(await other.answered(2)).toEqual(['request_headers routed embeddings', `request_body echo ${body.length} end`]);
    await until(() => server.streamsOpen === 20);
    for (const other of others) other.call.end();
    await until(() => server.streamsOpen === 0);
    expect(trial.log.filter((line) => line.startsWith('failed'))).toEqual([]);
  });

  it('refuses a message above the limit, and only that stream', async () => {
    const { client, server } = await serve();
    const exchange = new Exchange(client);
    exchange.say(headersMessage(BUFFERED, {}), { request_body: { body: Buffer.alloc(5 << 20) } });
    expect(await exchange.ended()).toBe(status.RESOURCE_EXHAUSTED);
    const next = new Exchange(client);
    next.say(routable);
    expect(await next.answered(1)).toEqual(['request_headers routed chat']);
    next.call.cancel();
    await until(() => server.streamsOpen === 0);
  });

  // Envoy resets each stream when it is done with it. By default Node's HTTP/2 server answers the 1001st with GOAWAY.
  it('stands thousands of resets on one connection', async () => {
    const { server, trial } = await serve();
    const session = http2.connect(`http://127.0.0.1:${server.port}`);
    opened.push(() => session.destroy());
    const troubles: string[] = [];
    session.on('goaway', (code) => troubles.push(`GOAWAY ${code}`));
    session.on('error', (error: Error) => troubles.push(error.message));
    session.on('close', () => troubles.push('closed'));
    const message = toFrame(encodeProcessingRequest(routable));
    const streamsMax = 4_000;
    let answered = 0;
    const one = (): Promise<void> =>
      new Promise((resolve) => {
        const stream = session.request(grpcHeaders);
        let isAnswered = false;
        stream.on('data', () => {
          if (isAnswered) return;
          isAnswered = true;
          answered += 1;
          stream.close(http2.constants.NGHTTP2_CANCEL);
        });
        stream.on('error', (error: Error) => troubles.push(error.message));
        stream.on('close', resolve);
        stream.write(message);
      });
    let started = 0;
    const worker = async (): Promise<void> => {
      while (started < streamsMax && troubles.length === 0) {
        started += 1;
        await one();
      }
    };
    await Promise.all(Array.from({ length: 40 }, worker));
    expect(troubles).toEqual([]);
    expect(answered).toBe(streamsMax);
    await until(() => server.streamsOpen === 0);
    // Decided on headers with nothing more to come: a reset is the usual end, and the request goes on.
    expect(trial.router.requestsInFlight).toBe(streamsMax);
    expect(trial.log.filter((line) => line === 'closed completed')).toHaveLength(streamsMax);
  });

  it('takes no more than it can hand back to a client that does not read', async () => {
    const { server, trial } = await serve();
    const session = http2.connect(`http://127.0.0.1:${server.port}`);
    opened.push(() => session.destroy());
    const stream = session.request(grpcHeaders);
    stream.pause();
    const piece = toFrame(encodeProcessingRequest({ request_body: { body: Buffer.alloc(32_768, 'x') } }));
    const pieces = 600;
    let taken = 0;
    stream.write(toFrame(encodeProcessingRequest(headersMessage(FULL_DUPLEX_STREAMED, { 'x-model': 'chat-a', 'x-session-id': 's' }))));
    // A write is done when the server's window let it through.
    const write = (): void => {
      stream.write(piece, (error) => {
        if (error) return;
        taken += 1;
        if (taken < pieces) write();
      });
    };
    write();
    let before = -1;
    while (taken !== before) {
      before = taken;
      await sleep(300);
    }
    // Flow-control windows, and sixteen messages in either direction of the call: 2 MB of the 20.
    expect(taken).toBeLessThan(100);

    let echoed = 0;
    const decoder = new FrameReader((bytes) => {
      const answer = decodeProcessingResponse(bytes);
      echoed += answer.request_body?.response?.body_mutation?.streamed_response?.body?.length ?? 0;
    });
    stream.on('data', (chunk: Buffer) => decoder.push(chunk));
    stream.resume();
    await until(() => echoed === pieces * 32_768);
    expect(taken).toBe(pieces);
    stream.close(http2.constants.NGHTTP2_CANCEL);
    await until(() => server.streamsOpen === 0);
    expect(trial.log.filter((line) => line.startsWith('failed'))).toEqual([]);
  });
});

const grpcHeaders = { ':method': 'POST', ':path': processPath, 'content-type': 'application/grpc', te: 'trailers' };

/** A message in gRPC's framing: uncompressed, length, bytes. */
function toFrame(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

class FrameReader {
  readonly #onMessage: (bytes: Buffer) => void;
  #rest = Buffer.alloc(0);

  constructor(onMessage: (bytes: Buffer) => void) {
    this.#onMessage = onMessage;
  }

  push(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= 5 && this.#rest.length >= 5 + this.#rest.readUInt32BE(1)) {
      const end = 5 + this.#rest.readUInt32BE(1);
      this.#onMessage(this.#rest.subarray(5, end));
      this.#rest = this.#rest.subarray(end);
    }
  }
}

interface LogStream {
  call: ClientWritableStream<StreamAccessLogsMessage>;
  ended: Promise<status>;
}

function openAccessLog(client: Client): LogStream {
  const { path: method, requestSerialize, responseDeserialize } = accessLogService.StreamAccessLogs;
  let call: ClientWritableStream<StreamAccessLogsMessage> | undefined;
  const ended = new Promise<status>((resolve) => {
    call = client.makeClientStreamRequest(method, requestSerialize, responseDeserialize, (error) => resolve(error?.code ?? status.OK));
    call.on('error', () => {});
  });
  return { call: call!, ended };
}

function entriesOf(leases: readonly string[]): StreamAccessLogsMessage {
  return {
    http_logs: {
      log_entry: leases.map((lease) => ({ common_properties: { metadata: { filter_metadata: { fairlead: toStruct({ lease }) } } }, response: {} })),
    },
  };
}

describe.each(transports)('access logs on %s', (name) => {
  beforeEach(() => {
    transport = name;
  });

  it('free the leases they name, over one stream that stays open', async () => {
    const { client, trial } = await serve();
    const exchanges = Array.from({ length: 3 }, () => new Exchange(client));
    for (const exchange of exchanges) {
      exchange.say(routable);
      await exchange.answered(1);
      exchange.call.end();
      await exchange.ended();
    }
    expect(trial.router.requestsInFlight).toBe(3);
    const { call } = openAccessLog(client);
    call.write({ identifier: { log_name: 'fairlead' }, ...entriesOf(['r1.2', 'not-ours.9', 'r1.2']) });
    await until(() => trial.log.includes('access-log 3 0'));
    expect(trial.router.requestsInFlight).toBe(2);
    expect(trial.log).toContain('foreign not-ours');
    expect(trial.log.filter((line) => line === 'unknown-lease')).toHaveLength(1);
    call.write({ http_logs: { log_entry: [...(entriesOf(['r1.1', 'r1.3']).http_logs?.log_entry ?? []), {}] } });
    call.write({});
    await until(() => trial.log.includes('access-log 0 0'));
    expect(trial.log).toContain('access-log 3 1');
    expect(trial.router.requestsInFlight).toBe(0);
  });

  it('lose no lease to a record that meets a bug', async () => {
    let thrown = false;
    const { client, trial } = await serve({
      onEvent: (line) => {
        if (!line.startsWith('released') || thrown) return;
        thrown = true;
        throw new Error('bug');
      },
    });
    const exchange = new Exchange(client);
    exchange.say(routable);
    await exchange.answered(1);
    const second = new Exchange(client);
    second.say(routable);
    await second.answered(1);
    const { call } = openAccessLog(client);
    call.write(entriesOf(['r1.1', 'r1.2']));
    await until(() => trial.log.includes('access-log 2 0'));
    expect(trial.log).toContain('failed bug');
    expect(trial.router.requestsInFlight).toBe(0);
    exchange.call.cancel();
    second.call.cancel();
  });
});

describe.each(transports)('stop on %s', (name) => {
  beforeEach(() => {
    transport = name;
  });

  it('lets open streams finish, then ends the access log, and takes no new ones', async () => {
    const { server, client, trial } = await serve();
    const exchange = new Exchange(client);
    exchange.say(headersMessage(FULL_DUPLEX_STREAMED, {}));
    const log = openAccessLog(client);
    log.call.write({});
    await until(() => server.streamsOpen === 1 && trial.log.includes('access-log 0 0'));
    const stopped = server.stop(10_000);
    await sleep(50);
    log.call.write(entriesOf(['r1.99']));
    await until(() => trial.log.includes('access-log 1 0'));

    const late = new Exchange(connect(server));
    late.say(routable);
    expect(await late.ended()).toBe(status.UNAVAILABLE);

    const body = Buffer.from('{"model":"embed-x","user":"u"}');
    exchange.say({ request_body: { body, end_of_stream: true } });
    expect(await exchange.answered(2)).toEqual(['request_headers routed embeddings', `request_body echo ${body.length} end`]);
    exchange.call.end();
    expect(await exchange.ended()).toBe(status.OK);
    expect(await log.ended).toBe(status.OK);
    await stopped;
    expect(server.streamsOpen).toBe(0);
  });

  it('does not wait for health watches and idle connections', async () => {
    const { server, client } = await serve();
    let seen = 0;
    watch(client, 'readiness').on('data', () => (seen += 1));
    await until(() => seen === 1);
    const startedMs = performance.now();
    await server.stop(20_000);
    expect(performance.now() - startedMs).toBeLessThan(5_000);
  });

  it('forces what is still open at the deadline', async () => {
    const { server, client, trial } = await serve();
    const exchange = new Exchange(client);
    exchange.say(headersMessage(NONE, { 'x-model': 'chat-a' }));
    await exchange.answered(1);
    const held = new Exchange(client);
    held.say(headersMessage(FULL_DUPLEX_STREAMED, { 'x-model': 'chat-a' }));
    await until(() => server.streamsOpen === 2);
    await server.stop(200);
    expect(await exchange.ended()).not.toBe(status.OK);
    expect(await held.ended()).not.toBe(status.OK);
    await until(() => server.streamsOpen === 0);
    // The held one was never decided; the other's decision had gone out.
    expect(trial.log.filter((line) => line.startsWith('closed')).sort()).toEqual(['closed cancelled', 'closed completed']);
    expect(trial.router.requestsInFlight).toBe(1);
  });
});

describe.each(transports)('start on %s', (name) => {
  beforeEach(() => {
    transport = name;
  });

  it('names the address and the cure when the port is taken', async () => {
    const { server, trial } = await serve();
    const { context, router } = trial;
    const address = `127.0.0.1:${server.port}`;
    await expect(startGrpcServer({ address, context: () => context, router, events: context.events, messageBytesMax: 1_000, transport })).rejects.toThrow(
      `cannot listen on ${address} (listen.grpc)`,
    );
  });
});
