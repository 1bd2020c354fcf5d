import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BenchCase, cases, limits } from '../../bench/hot-path/cases.ts';
import { createLoadGenerator } from '../../bench/hot-path/load.ts';
import { type Bench, type CaseResult, measureCase, type ProcessorResult } from '../../bench/hot-path/measure.ts';
import { addedUs, cpuRatio, failuresOf, formatVerdicts, judge } from '../../bench/hot-path/report.ts';
import { makeRequests, nonceDigits } from '../../bench/hot-path/requests.ts';
import { startUpstream, type Upstream } from '../../bench/hot-path/upstream.ts';
import { type RedisProcess, startRedis } from '../../lab/redis-process.ts';
import { RunningParts } from './running-parts.ts';

// That the benchmark works, not what it finds: that takes minutes on a quiet machine (docs/performance.md).

const caseNamed = (name: string): BenchCase => cases.find((one) => one.name === name)!;

describe('the benchmark of the hot path', () => {
  const parts = new RunningParts();
  let upstream: Upstream;
  let redis: RedisProcess;
  let bench: Bench;

  beforeAll(async () => {
    [upstream, redis] = await Promise.all([parts.add(startUpstream(5)), parts.add(startRedis())]);
    bench = {
      generator: createLoadGenerator('node'),
      processors: ['fairlead', 'grpc-js'],
      repeats: 1,
      latencyRepeats: 2,
      runMs: 500,
      warmUp: { requests: 0, seconds: 0 },
      connections: 4,
      upstream: upstream.endpoints,
      redisUrl: redis.url,
      measureLatency: true,
      say: () => undefined,
    };
  });
  afterAll(() => parts.stop());

  it('measures processors side by side, on headers and with the body', async () => {
    const result = await measureCase(caseNamed('buffered-4k'), bench);
    expect(result.processors.map(({ name }) => name)).toEqual(['fairlead', 'grpc-js']);
    for (const { name, cpu, latency, residentMb, failures } of result.processors) {
      expect(failures, name).toBe(0);
      expect([cpu.length, latency.length]).toEqual([1, 2]);
      expect(cpu[0]!.requestsPerSecond).toBeGreaterThan(0);
      expect(cpu[0]!.cpuUs).toBeGreaterThan(0);
      expect(latency[0]!.p99Us).toBeGreaterThanOrEqual(latency[0]!.p50Us);
      expect(residentMb).toBeGreaterThan(10);
    }
    expect(result.unprocessed[0]!.p50Us).toBeGreaterThan(0);
    expect(cpuRatio(result, 'fairlead', 'grpc-js')).toBeGreaterThan(0);
    // Go did not run: a limit against it must not pass for one that holds.
    const verdicts = judge([result], false);
    expect(verdicts.find(({ against }) => against === 'go')).toMatchObject({ ratio: NaN, holds: false });
  });

  it('runs Fairlead with whole bodies through it both ways', async () => {
    const result = await measureCase(caseNamed('duplex-220k'), { ...bench, processors: ['fairlead'], measureLatency: false });
    expect(failuresOf([result])).toEqual([]);
    expect(result.processors[0]!.cpu[0]!.requestsPerSecond).toBeGreaterThan(0);
  });

  it('counts a request that fails', async () => {
    // Nothing listens there: Envoy answers 503 to each.
    const nobody = { ...bench, processors: ['fairlead' as const], upstream: ['127.0.0.1:1'], measureLatency: false };
    const result = await measureCase({ ...caseNamed('header-round-robin'), endpoints: 1 }, nobody);
    expect(result.processors[0]!.failures).toBeGreaterThan(0);
  });
});

describe('requests of the benchmark', () => {
  it.each(cases.map(({ name, requests }) => [name, requests] as const))('%s have the size they should have, and are chat completions', (_name, shape) => {
    const templates = makeRequests(shape);
    expect(templates).toHaveLength(shape.variants);
    const bodies = templates.slice(0, 3).map(({ before, after }) => `${before}${'7'.repeat(nonceDigits)}${after}`);
    expect(new Set(bodies).size).toBe(bodies.length);
    for (const body of bodies) {
      expect(Buffer.byteLength(body)).toBe(shape.bodyBytes);
      const parsed = JSON.parse(body) as { messages: { content: string }[]; prompt_cache_key?: string };
      expect(parsed.messages.length).toBeGreaterThanOrEqual(2);
      expect(parsed.prompt_cache_key !== undefined).toBe(shape.session === 'body');
    }
    expect(templates.every(({ headers }) => headers['x-session-id'] !== undefined)).toBe(shape.session === 'header');
  });
});

describe('the report of the benchmark', () => {
  const result = (name: ProcessorResult['name'], cpuUs: number[], p50Us: number[]): ProcessorResult => ({
    name,
    cpu: cpuUs.map((us) => ({ cpuUs: us, envoyCpuUs: 1, requestsPerSecond: 1, failures: 0 })),
    latency: p50Us.map((us) => ({ p50Us: us, p99Us: 2 * us, requestsPerSecond: 1, failures: 0 })),
    residentMb: 1,
    failures: 0,
  });
  const header: CaseResult = {
    ...caseNamed('header'),
    endpoints: 5,
    bodyBytes: 0,
    // Round two ran while the machine was twice as slow: both sides of its ratio show it.
    processors: [result('fairlead', [90, 180, 95], [300, 900, 300]), result('go', [100, 200, 100], [200, 600, 200])],
    unprocessed: [100, 300, 100].map((p50Us) => ({ p50Us, p99Us: 2 * p50Us, requestsPerSecond: 1, failures: 0 })),
  };

  it('compares within rounds and takes the median', () => {
    expect(cpuRatio(header, 'fairlead', 'go')).toBeCloseTo(0.9);
    expect(addedUs(header, 'fairlead', 'p50Us')).toBe(200);
    const verdicts = judge([header], true);
    expect(verdicts.map(({ measure, holds }) => [measure, holds])).toEqual([
      ['cpu', true],
      ['latencyP50', false],
      ['latencyP99', false],
    ]);
    expect(verdicts[1]!.ratio).toBeCloseTo(2);
    expect(formatVerdicts(verdicts)).toMatch(/\| header +\| CPU, fairlead ÷ go +\| 0\.90 +\| ≤ 1 +\| PASS \|/);
  });

  it('holds every limit against a case that there is', () => {
    expect(limits.filter(({ caseName }) => !cases.some(({ name }) => name === caseName))).toEqual([]);
  });
});
