// `npm run soak:hot-path`: ten minutes, or `--minutes N`, of mixed requests at half of what Envoy and Fairlead take at most on this machine.
// Fairlead's resident memory may not grow by more than a tenth, and no request may fail. Ends with 1 where something does not hold.
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { endChildrenOnSignal } from '../../lab/child-process.ts';
import { readCpuUs, readResidentMb } from '../../lab/process-usage.ts';
import { startRedis } from '../../lab/redis-process.ts';
import { describeMachine, resultsFolder, writeResults } from '../result-file.ts';
import { median } from '../statistics.ts';
import { type Gateway, startGateway } from './gateway.ts';
import { createLoadGenerator, hasWrk, type LoadGenerator } from './load.ts';
import { type Processor, smallHeap, startProcessor } from './processors.ts';
import { makeRequests, type RequestTemplate } from './requests.ts';
import { startUpstream } from './upstream.ts';

const { values: given } = parseArgs({ options: { minutes: { type: 'string', default: '10' }, connections: { type: 'string', default: '32' }, out: { type: 'string' } } });
const soakMs = Number(given.minutes) * 60_000;
const connections = Number(given.connections);
const pathname = '/v1/chat/completions';
const endpoints = 5;
/** The part of the time that warms up: code is compiled, heaps and caches take their size. */
const warmUpShare = 0.25;
const sampleMs = 1_000;
/** What may differ between the first and the last third after that. */
const growthMax = 0.1;
const saturationMs = 5_000;

/** Most decided on headers, some by the prefix in their body, a few very long; none quite like one before. */
function mixedRequests(): RequestTemplate[] {
  const bySession = makeRequests({ bodyBytes: 4_000, session: 'header', variants: 600 });
  const short = makeRequests({ bodyBytes: 4_000, session: 'none', variants: 200 });
  const medium = makeRequests({ bodyBytes: 16_000, session: 'body', variants: 150 });
  const long = makeRequests({ bodyBytes: 220_000, session: 'none', variants: 10 });
  const mixed: { at: number; template: RequestTemplate }[] = [];
  // Spread evenly, each kind over the whole list.
  for (const kind of [bySession, short, medium, long]) kind.forEach((template, i) => mixed.push({ at: (i + 0.5) / kind.length, template }));
  return mixed.sort((a, b) => a.at - b.at).map(({ template }) => template);
}

async function soak(processor: Processor, gateway: Gateway, generator: LoadGenerator): Promise<boolean> {
  const requests = mixedRequests();
  const job = { origin: gateway.url, pathname, requests, connections };
  await generator.run({ ...job, durationMs: saturationMs, thinkMs: 0 });
  const most = await generator.run({ ...job, durationMs: saturationMs, thinkMs: 0 });
  const rate = most.requests / most.seconds / 2;
  process.stdout.write(`saturated at ${(rate * 2).toFixed(0)} requests/s; ${given.minutes} minutes at half of that, load by ${generator.name}\n`);
  const cpuBeforeUs = readCpuUs(processor.pid);
  const startedMs = performance.now();
  let over = false;
  const load = generator.run({ ...job, durationMs: soakMs, thinkMs: (connections / rate) * 1_000 }).finally(() => (over = true));
  const residentMb: number[] = [];
  while (!over) {
    residentMb.push(readResidentMb(processor.pid));
    if (residentMb.length % 30 === 0) process.stdout.write(`${((performance.now() - startedMs) / 60_000).toFixed(1).padStart(5)} min  ${residentMb.at(-1)?.toFixed(0) ?? '?'} MB\n`);
    await Promise.race([sleep(sampleMs), load]);
  }
  const result = await load;
  const cpuUs = (readCpuUs(processor.pid) - cpuBeforeUs) / result.requests;
  const { failures } = await gateway.counts();
  const caught = await processor.internalErrors();
  const warm = residentMb.slice(Math.floor(residentMb.length * warmUpShare));
  const third = Math.floor(warm.length / 3);
  const [before, after] = [median(warm.slice(0, third)), median(warm.slice(-third))];
  const flat = after <= before * (1 + growthMax);
  const clean = result.failures + failures + caught + most.failures === 0;
  process.stdout.write(
    `${result.requests} requests, ${(result.requests / result.seconds).toFixed(0)}/s, ${result.failures} failed, ${failures} failures of ext_proc, ${caught} exceptions\n` +
      `resident MB ${before.toFixed(1)} -> ${after.toFixed(1)} (first and last third after warming up): ${flat ? 'flat' : 'GROWS'}, ${flat && clean ? 'PASS' : 'MISS'}\n`,
  );
  const summary = { machine: describeMachine(), minutes: Number(given.minutes), load: generator.name, requests: result.requests, requestsPerSecond: result.requests / result.seconds, cpuUs, residentMb: { before, after, all: residentMb.map((mb) => Math.round(mb)) }, failures: result.failures + failures + caught };
  await writeResults(given.out ?? path.join(resultsFolder, 'soak-hot-path.json'), summary);
  return flat && clean;
}

endChildrenOnSignal();
const parts: { stop(): Promise<unknown> }[] = [];
try {
  const redis = await startRedis();
  parts.push(redis);
  const upstream = await startUpstream(endpoints);
  parts.push(upstream);
  const processor = await startProcessor('fairlead', { policy: 'sticky', endpoints: upstream.endpoints, headersOnly: false, redisUrl: redis.url, nodeOptions: smallHeap });
  parts.push(processor);
  const gateway = await startGateway(processor, { mode: 'NONE', baselineMode: 'NONE' }, upstream.endpoints);
  parts.push(gateway);
  if (!(await soak(processor, gateway, createLoadGenerator(hasWrk() ? 'wrk' : 'node')))) process.exitCode = 1;
} finally {
  for (const part of parts.reverse()) await part.stop();
}
