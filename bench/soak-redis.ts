// `npm run soak:redis`: two routers share state through a Redis under a steady load, for 10 minutes or `--minutes N`; neither the routers'
// memory nor what Redis keeps may grow. Ends with 1 where it does.
//
// The load comes by gRPC, as Envoy sends it: one ext_proc stream a request, and for each request one access-log record, to either of the
// routers. Sessions are drawn from a set that slowly moves on, and slow endpoints make some of them leave home, so that exceptions are told.
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Client, type ClientWritableStream, credentials } from '@grpc/grpc-js';
import { Redis } from 'ioredis';
import { endChildrenOnSignal } from '../lab/child-process.ts';
import { type FairleadProcess, startFairlead } from '../lab/fairlead-process.ts';
import { readResidentMb } from '../lab/process-usage.ts';
import { startRedis } from '../lab/redis-process.ts';
import {
  type HTTPAccessLogEntry,
  type ProcessingRequest,
  type ProcessingResponse,
  type StreamAccessLogsMessage,
  structString,
} from '../src/extproc/messages.ts';
import {
  accessLogService,
  decodeProcessingResponse,
  encodeProcessingRequest,
  encodeStreamAccessLogsMessage,
  externalProcessorService,
} from '../src/extproc/proto.ts';
import { median } from './statistics.ts';

const { values: given } = parseArgs({ options: { minutes: { type: 'string', default: '10' }, rate: { type: 'string', default: '200' } } });
const soakMs = Number(given.minutes) * 60_000;
const requestsPerSecond = Number(given.rate);
const routers = 2;
const endpoints = 5;
/** The part of the time that warms up: code is compiled, heaps and caches take their size. */
const warmUpShare = 0.25;
const sampleMs = 1_000;
const flushMs = 50;
const durationMeanMs = 300;
const sessions = 2_000;
/** What may differ between the first and the last third: heaps breathe. */
const rssGrowthMax = 0.1;
const rssGrowthMbMax = 10;
const redisGrowthMbMax = 1;
/** Little room: left to itself, Node lets garbage pile up for many minutes before it looks, and that looks like a leak. */
const heapMbMax = 64;

interface Sample {
  readonly atMs: number;
  readonly rssMb: readonly number[];
  readonly heapMb: readonly number[];
  readonly keys: number;
  /** All that Redis uses, and the bounded stream of exceptions within it, which takes days to fill. */
  readonly redisMb: number;
  readonly placements: number;
  readonly placementsMb: number;
}

/** One router as Envoy uses it. */
class EnvoySide {
  readonly #client: Client;
  readonly #log: ClientWritableStream<StreamAccessLogsMessage>;
  #records: HTTPAccessLogEntry[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor(address: string) {
    this.#client = new Client(address, credentials.createInsecure());
    const { path } = accessLogService.StreamAccessLogs;
    this.#log = this.#client.makeClientStreamRequest(path, encodeStreamAccessLogsMessage, accessLogService.StreamAccessLogs.responseDeserialize, () => {});
    this.#log.on('error', (error) => {
      if (!ending) throw error;
    });
    this.#timer = setInterval(() => {
      if (this.#records.length > 0) this.#log.write({ http_logs: { log_entry: this.#records.splice(0) } });
    }, flushMs);
  }

  /** Asks where a request goes; resolves with its lease, or undefined where it was refused. */
  decide(session: string, contentLength: number): Promise<string | undefined> {
    return new Promise((resolve, reject) => {
      const call = this.#client.makeBidiStreamRequest(externalProcessorService.Process.path, encodeProcessingRequest, decodeProcessingResponse);
      const headers = { ':path': '/v1/chat/completions', 'x-model': 'm', 'x-session-id': session, 'content-length': String(contentLength) };
      const request: ProcessingRequest = {
        request_headers: { headers: { headers: Object.entries(headers).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) } },
      };
      call.on('data', (answer: ProcessingResponse) => {
        const fairlead = answer.dynamic_metadata?.fields?.['fairlead']?.structValue;
        resolve(structString(fairlead, 'lease'));
        call.end();
      });
      call.on('error', reject);
      call.write(request);
    });
  }

  report(lease: string): void {
    this.#records.push({
      common_properties: {
        metadata: { filter_metadata: { fairlead: { fields: { lease: { stringValue: lease } } } } },
        upstream_remote_address: { socket_address: { address: '10.0.0.1', port_value: 8000 } },
      },
      response: { response_code: { value: 200 } },
    });
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#log.cancel();
    this.#client.close();
  }
}

let ending = false;
endChildrenOnSignal();
const redis = await startRedis();
const monitor = new Redis(redis.port);
const fairleads: FairleadProcess[] = [];
const sides: EnvoySide[] = [];
const samples: Sample[] = [];
let requests = 0;
let refused = 0;

async function sample(atMs: number): Promise<Sample> {
  const placementsKey = 'fairlead:{chat}:placements';
  return {
    atMs,
    rssMb: fairleads.map(({ pid }) => readResidentMb(pid)),
    heapMb: await Promise.all(fairleads.map(async (one) => (await one.metric('nodejs_heap_size_used_bytes')) / 2 ** 20)),
    keys: await monitor.dbsize(),
    redisMb: Number(/^used_memory:(\d+)/m.exec(await monitor.info('memory'))?.[1]) / 2 ** 20,
    placements: await monitor.xlen(placementsKey),
    placementsMb: ((await monitor.memory('USAGE', placementsKey, 'SAMPLES', 0)) ?? 0) / 2 ** 20,
  };
}

async function request(): Promise<void> {
  requests += 1;
  const side = sides[Math.floor(Math.random() * sides.length)];
  // One session in a thousand requests is new, and the oldest leaves.
  const session = `session-${Math.floor(requests / 1_000) + Math.floor(Math.random() * sessions)}`;
  const lease = await side?.decide(session, 500 + Math.floor(Math.random() * 20_000));
  if (lease === undefined) {
    refused += 1;
    return;
  }
  await sleep(-durationMeanMs * Math.log(1 - Math.random()));
  sides[Math.floor(Math.random() * sides.length)]?.report(lease);
}

/** First third against last third, after warming up. */
function judge(): boolean {
  const warm = samples.filter(({ atMs }) => atMs >= soakMs * warmUpShare);
  const third = Math.floor(warm.length / 3);
  const [first, last] = [warm.slice(0, third), warm.slice(-third)];
  const compare = (name: string, of: (one: Sample) => number, allowed: (before: number) => number): boolean => {
    const [before, after] = [median(first.map(of)), median(last.map(of))];
    const flat = after - before <= allowed(before);
    process.stdout.write(`${name.padEnd(34)} ${before.toFixed(1).padStart(8)} -> ${after.toFixed(1).padStart(8)}  ${flat ? 'flat' : 'GROWS'}\n`);
    return flat;
  };
  const rss = fairleads.map((_, i) => compare(`router ${i + 1}, resident MB`, ({ rssMb }) => rssMb[i] ?? NaN, (before) => Math.max(rssGrowthMbMax, before * rssGrowthMax)));
  const keys = compare('Redis, keys', (one) => one.keys, () => 0);
  const memory = compare('Redis, MB less exceptions', ({ redisMb, placementsMb }) => redisMb - placementsMb, () => redisGrowthMbMax);
  const { placements = 0, placementsMb = 0 } = samples.at(-1) ?? {};
  process.stdout.write(`exceptions kept: ${placements} of about 100000, ${placementsMb.toFixed(2)} MB\n`);
  return [...rss, keys, memory].every((flat) => flat);
}

let failed = false;
try {
  const config = {
    state: { kind: 'redis', url: redis.url },
    affinity: { secret: 'of the soak' },
    pools: [{ name: 'chat', endpoints: Array.from({ length: endpoints }, (_, i) => ({ address: `10.0.0.${i + 1}:8000` })) }],
  };
  for (let i = 0; i < routers; i += 1) fairleads.push(await startFairlead(config, [`--max-old-space-size=${heapMbMax}`]));
  sides.push(...fairleads.map(({ address }) => new EnvoySide(address)));
  process.stdout.write(`${routers} routers, ${requestsPerSecond} requests/s, ${given.minutes} minutes\n`);
  const startedMs = performance.now();
  const underWay = new Set<Promise<void>>();
  let nextSampleMs = 0;
  for (let atMs = 0; atMs < soakMs; atMs = performance.now() - startedMs) {
    while (requests < (atMs / 1_000) * requestsPerSecond) {
      const one = request().catch((error: unknown) => {
        failed = true;
        process.stderr.write(`a request failed: ${String(error)}\n`);
      });
      underWay.add(one);
      void one.then(() => underWay.delete(one));
    }
    if (atMs >= nextSampleMs) {
      nextSampleMs += sampleMs;
      const taken = await sample(atMs).catch(() => undefined);
      // A busy machine may miss a few.
      if (taken === undefined) continue;
      samples.push(taken);
      if (samples.length % 30 === 0) {
        const { rssMb, keys, redisMb } = samples.at(-1) ?? { rssMb: [], keys: NaN, redisMb: NaN };
        // What is left after a collection: the least of the last half minute.
        const heapMb = fairleads.map((_, i) => Math.min(...samples.slice(-30).map((one) => one.heapMb[i] ?? Infinity)));
        const list = (values: readonly number[]): string => values.map((mb) => mb.toFixed(0)).join(' ');
        process.stdout.write(`${(atMs / 60_000).toFixed(1).padStart(5)} min  routers ${list(rssMb)} MB, heaps ${list(heapMb)} MB  Redis ${keys} keys ${redisMb.toFixed(2)} MB  ${requests} requests\n`);
      }
    }
    await sleep(5);
  }
  await Promise.all(underWay);
  for (let waited = 0; waited < 5_000 && (await Promise.all(fairleads.map((one) => one.requestsInFlight()))).some((count) => count > 0); waited += 100) await sleep(100);
  const left = await Promise.all(fairleads.map((one) => one.requestsInFlight()));
  const forwarded = (await Promise.all(fairleads.map((one) => one.metric('fairlead_foreign_reports_total', { outcome: 'forwarded' })))).reduce((a, b) => a + b, 0);
  process.stdout.write(`${requests} requests, ${refused} refused, ${forwarded} ends forwarded, ${left.join(' and ')} left in flight\n`);
  if (refused > 0 || left.some((count) => count > 0)) failed = true;
  if (!judge()) failed = true;
} finally {
  ending = true;
  for (const side of sides) side.stop();
  await Promise.all(fairleads.map((one) => one.stop()));
  monitor.disconnect();
  await redis.stop();
}
if (failed) process.exitCode = 1;
