// Runs one case: all its processors side by side, under load in turn, round by round.
import { setTimeout as sleep } from 'node:timers/promises';
import { readCpuUs, readResidentMb } from '../../lab/process-usage.ts';
import { median } from '../statistics.ts';
import type { BenchCase } from './cases.ts';
import { type Gateway, startGateway, unprocessedPrefix } from './gateway.ts';
import type { LoadGenerator } from './load.ts';
import type { LoadResult } from './load-job.ts';
import { type Processor, type ProcessorName, type ProcessorStart, startProcessor } from './processors.ts';
import { makeRequests, type RequestTemplate } from './requests.ts';

/** One run of one processor as fast as it goes. */
export interface CpuSample {
  readonly requestsPerSecond: number;
  /** CPU time of the processor for each request, in microseconds. */
  readonly cpuUs: number;
  /** The same of its Envoy. */
  readonly envoyCpuUs: number;
  readonly failures: number;
}

/** Latencies of one run at a given rate, in microseconds. */
export interface LatencySample {
  readonly requestsPerSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly failures: number;
}

/** Everything measured of one processor in one case. Samples are in the order of the rounds. */
export interface ProcessorResult {
  readonly name: ProcessorName;
  readonly cpu: readonly CpuSample[];
  /** Empty where latency was not measured. */
  readonly latency: readonly LatencySample[];
  /** After all rounds. */
  readonly residentMb: number;
  /** Of all rounds, with exceptions that the processor caught. */
  readonly failures: number;
}

export interface CaseResult {
  readonly name: string;
  readonly about: string;
  readonly mode: BenchCase['mode'];
  readonly bodyBytes: number;
  readonly endpoints: number;
  readonly policy: string;
  readonly processors: readonly ProcessorResult[];
  /** Latencies of the same route without a processor, by round; empty where latency was not measured. */
  readonly unprocessed: readonly LatencySample[];
}

/** What all cases share. */
export interface Bench {
  readonly generator: LoadGenerator;
  readonly processors: readonly ProcessorName[];
  /** Rounds in which CPU is measured, and those in which latency is. */
  readonly repeats: number;
  readonly latencyRepeats: number;
  readonly runMs: number;
  /** Before it is measured, each processor gets this many requests, or so many seconds of load if that is over first. */
  readonly warmUp: { readonly requests: number; readonly seconds: number };
  readonly connections: number;
  /** `ip:port` of at least as many model servers as any case asks for. */
  readonly upstream: readonly string[];
  readonly redisUrl: string;
  readonly goBinary?: string | undefined;
  readonly profileFolder?: string | undefined;
  readonly measureLatency: boolean;
  /** Told what goes on. */
  say(line: string): void;
}

const pathname = '/v1/chat/completions';
/** After a run: connections close, records of its last requests arrive. */
const settleMs = 300;

interface Contestant {
  readonly processor: Processor;
  readonly gateway: Gateway;
  readonly cpu: CpuSample[];
  readonly latency: LatencySample[];
}

/** Runs a case. Rejects when something cannot be started; failed requests are counted. */
export async function measureCase(benchCase: BenchCase, bench: Bench): Promise<CaseResult> {
  const endpoints = bench.upstream.slice(0, benchCase.endpoints);
  const requests = makeRequests(benchCase.requests);
  const started: { stop(): Promise<void> }[] = [];
  try {
    const contestants: Contestant[] = [];
    for (const name of bench.processors) {
      const start: ProcessorStart = { ...bench, policy: benchCase.policy, firstToken: benchCase.firstToken, endpoints, headersOnly: benchCase.baselineMode === 'NONE' };
      const processor = await startProcessor(name, start);
      started.push(processor);
      const gateway = await startGateway(processor, benchCase, endpoints);
      started.push(gateway);
      contestants.push({ processor, gateway, cpu: [], latency: [] });
    }
    // Compilers and caches come to rest first.
    for (const contestant of contestants) await warmUp(contestant, bench, requests);
    for (let round = 0; round < bench.repeats; round += 1) {
      for (const contestant of inTurn(contestants, round)) contestant.cpu.push(await measureCpu(contestant, bench, requests));
    }
    const unprocessed = benchCase.latency && bench.measureLatency ? await measureLatencies(contestants, bench, requests) : [];
    const processors: ProcessorResult[] = [];
    for (const { processor, cpu, latency } of contestants) {
      const caught = await processor.internalErrors();
      const failures = [...cpu, ...latency].reduce((sum, sample) => sum + sample.failures, caught);
      processors.push({ name: processor.name, cpu, latency, residentMb: readResidentMb(processor.pid), failures });
    }
    const { name, about, mode, policy } = benchCase;
    return { name, about, mode, policy, endpoints: endpoints.length, bodyBytes: benchCase.requests.bodyBytes, processors, unprocessed };
  } finally {
    // Gateways first: each was started after its processor.
    for (const part of started.reverse()) await part.stop();
  }
}

/** There and back, so that none is always the first or the last of its round. */
function inTurn<T>(all: readonly T[], round: number): readonly T[] {
  return round % 2 === 0 ? all : all.toReversed();
}

function closedLoop(bench: Bench, requests: readonly RequestTemplate[]): { pathname: string; requests: readonly RequestTemplate[]; connections: number; thinkMs: number } {
  return { pathname, requests, connections: bench.connections, thinkMs: 0 };
}

/** What is compiled beforehand needs no more than its caches. */
const warmUpRequestsOfGo = 4_000;

/** Node compiles what is called often, and again what is called very often, after some ten thousand calls; until then it costs up to twice as much, and compiling is work too. */
async function warmUp({ gateway, processor }: Contestant, bench: Bench, requests: readonly RequestTemplate[]): Promise<void> {
  const wanted = processor.name === 'go' ? warmUpRequestsOfGo : bench.warmUp.requests;
  let [sent, seconds] = [0, 0];
  while (sent < wanted && seconds < bench.warmUp.seconds) {
    const result = await bench.generator.run({ ...closedLoop(bench, requests), origin: gateway.url, durationMs: 1_000 });
    sent += result.requests;
    seconds += result.seconds;
  }
}

async function measureCpu({ processor, gateway }: Contestant, bench: Bench, requests: readonly RequestTemplate[]): Promise<CpuSample> {
  const before = { counts: await gateway.counts(), cpuUs: readCpuUs(processor.pid), envoyCpuUs: readCpuUs(gateway.pid) };
  const result = await bench.generator.run({ ...closedLoop(bench, requests), origin: gateway.url, durationMs: bench.runMs });
  const after = { cpuUs: readCpuUs(processor.pid), envoyCpuUs: readCpuUs(gateway.pid) };
  await sleep(settleMs);
  const counts = await gateway.counts();
  const streams = counts.streams - before.counts.streams;
  return {
    requestsPerSecond: result.requests / result.seconds,
    // Requests that the end of the run cut short cost too: what Envoy began is what was worked on.
    cpuUs: (after.cpuUs - before.cpuUs) / streams,
    envoyCpuUs: (after.envoyCpuUs - before.envoyCpuUs) / streams,
    failures: result.failures + counts.failures - before.counts.failures,
  };
}

/** At half of what the slowest of them takes at most, with the route that has no processor as one more in each round. */
async function measureLatencies(contestants: readonly Contestant[], bench: Bench, requests: readonly RequestTemplate[]): Promise<LatencySample[]> {
  const rate = Math.min(...contestants.map(({ cpu }) => median(cpu.map(({ requestsPerSecond }) => requestsPerSecond)))) / 2;
  // At half load an answer takes little beside the pause.
  const thinkMs = (bench.connections / rate) * 1_000;
  const paced = { requests, thinkMs, connections: bench.connections, durationMs: bench.runMs };
  const base = contestants.find(({ processor }) => processor.name === 'go') ?? contestants[0];
  const unprocessed: LatencySample[] = [];
  if (base === undefined) return unprocessed;
  bench.say(`  latency at ${rate.toFixed(0)} requests/s`);
  for (let round = 0; round < bench.latencyRepeats; round += 1) {
    unprocessed.push(toLatency(await bench.generator.run({ ...paced, origin: base.gateway.url, pathname: unprocessedPrefix + pathname }), 0));
    for (const { gateway, latency } of inTurn(contestants, round)) {
      const before = await gateway.counts();
      const result = await bench.generator.run({ ...paced, origin: gateway.url, pathname });
      await sleep(settleMs);
      latency.push(toLatency(result, (await gateway.counts()).failures - before.failures));
    }
  }
  return unprocessed;
}

function toLatency({ requests, seconds, failures, p50Us, p99Us }: LoadResult, processingFailures: number): LatencySample {
  return { requestsPerSecond: requests / seconds, p50Us, p99Us, failures: failures + processingFailures };
}
