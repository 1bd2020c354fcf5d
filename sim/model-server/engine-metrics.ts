import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStats } from '../engine/engine.ts';
import { contextTokensMax, type EngineProfile } from '../engine/engine-profiles.ts';

/** Whose metrics a simulated server serves. */
export type EngineMetricsKind = 'vllm' | 'sglang' | 'trtllm' | 'triton';
export const engineMetricsKinds: readonly EngineMetricsKind[] = ['vllm', 'sglang', 'trtllm', 'triton'];

/** LoRA adapters of the requests in flight, and how many fit at once. */
export interface AdaptersInUse {
  readonly running: readonly string[];
  readonly max: number;
}

/** The metrics of one simulated server. */
export interface EngineMetrics {
  readonly registry: Registry;
  /** Where it serves them. */
  readonly path: string;
  firstToken(ttftMs: number): void;
  finished(reason: 'stop' | 'length', latencyMs: number): void;
}

export interface EngineMetricsOptions {
  readonly kind: EngineMetricsKind;
  readonly model: string;
  readonly profile: EngineProfile;
  readonly stats: () => EngineStats;
  /** Undefined: the server has no adapters. */
  readonly adapters: (() => AdaptersInUse) | undefined;
}

const secondsBuckets = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

/** Metrics under the names that the real servers use, read from the engine when scraped. */
export function createEngineMetrics(options: EngineMetricsOptions): EngineMetrics {
  switch (options.kind) {
    case 'vllm':
      return createVllmMetrics(options);
    case 'sglang':
      return createSglangMetrics(options);
    case 'trtllm':
      return createTrtllmMetrics(options);
    case 'triton':
      return createTritonMetrics(options);
  }
}

type Reading = (now: EngineStats) => number;

/** Registers gauges and counters that are read when somebody asks. */
function readings(registry: Registry, stats: () => EngineStats): { gauge: (name: string, help: string, value: Reading) => void; counter: (name: string, help: string, value: Reading) => void } {
  const registers = [registry];
  return {
    gauge: (name, help, value) => {
      new Gauge({
        name,
        help: `${help} (simulated).`,
        registers,
        collect() {
          this.set(value(stats()));
        },
      });
    },
    counter: (name, help, value) => {
      new Counter({
        name,
        help: `${help} (simulated).`,
        registers,
        collect() {
          this.reset();
          this.inc(value(stats()));
        },
      });
    },
  };
}

/** What a server tells of times and ends, under names with its prefix. */
function endings(registry: Registry, prefix: string): Pick<EngineMetrics, 'firstToken' | 'finished'> {
  const registers = [registry];
  const success = new Counter({ name: `${prefix}request_success_total`, help: 'Requests finished (simulated).', labelNames: ['finished_reason'], registers });
  const histogram = (name: string, help: string): Histogram => new Histogram({ name: `${prefix}${name}`, help, buckets: secondsBuckets, registers });
  const ttft = histogram('time_to_first_token_seconds', 'Time to first token (simulated).');
  const latency = histogram('e2e_request_latency_seconds', 'Time to last token (simulated).');
  return {
    firstToken(ttftMs) {
      ttft.observe(ttftMs / 1000);
    },
    finished(reason, latencyMs) {
      success.inc({ finished_reason: reason });
      latency.observe(latencyMs / 1000);
    },
  };
}

/** As vLLM's V1 engine (vLLM docs, "Production Metrics"). */
function createVllmMetrics({ model, profile, stats, adapters }: EngineMetricsOptions): EngineMetrics {
  const registry = new Registry();
  registry.setDefaultLabels({ model_name: model, engine: '0' });
  const registers = [registry];
  const { gauge, counter } = readings(registry, stats);
  gauge('vllm:num_requests_running', 'Requests in the running batch', ({ running }) => running);
  gauge('vllm:num_requests_waiting', 'Requests waiting to be scheduled', ({ waiting }) => waiting);
  gauge('vllm:kv_cache_usage_perc', 'Share of the KV blocks in use, 0 to 1', ({ blocksHeld, blocks }) => blocksHeld / blocks);
  counter('vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache', ({ queriedTokens }) => queriedTokens);
  counter('vllm:prefix_cache_hits_total', 'Prompt tokens found in the prefix cache', ({ cachedTokens }) => cachedTokens);
  // Like vLLM's, it counts whole prompts, cached or not.
  counter('vllm:prompt_tokens_total', 'Prompt tokens taken in', ({ queriedTokens }) => queriedTokens);
  counter('vllm:generation_tokens_total', 'Tokens generated', ({ generatedTokens }) => generatedTokens);
  counter('vllm:num_preemptions_total', 'Requests preempted for want of KV blocks', ({ preemptions }) => preemptions);
  new Gauge({
    name: 'vllm:cache_config_info',
    help: 'KV cache configuration (simulated).',
    labelNames: ['block_size', 'num_gpu_blocks', 'enable_prefix_caching'],
    registers,
  }).set({ block_size: profile.blockTokens, num_gpu_blocks: profile.blocks, enable_prefix_caching: 'True' }, 1);
  if (adapters !== undefined) {
    new Gauge({
      name: 'vllm:lora_requests_info',
      help: 'LoRA adapters with requests; the value is the time of writing (simulated).',
      labelNames: ['max_lora', 'running_lora_adapters', 'waiting_lora_adapters'],
      registers,
      collect() {
        // Like vLLM's, a series stays for every set of adapters that ever was.
        const { running, max } = adapters();
        this.set({ max_lora: max, running_lora_adapters: running.join(','), waiting_lora_adapters: '' }, Date.now() / 1000);
      },
    });
  }
  return { registry, path: '/metrics', ...endings(registry, 'vllm:') };
}

/** As SGLang's scheduler (SGLang docs, "Production Metrics"), of a server with two tensor-parallel ranks that both tell. */
function createSglangMetrics({ model, profile, stats }: EngineMetricsOptions): EngineMetrics {
  const registry = new Registry();
  const gauge = (name: string, help: string, value: Reading): void => {
    new Gauge({
      name,
      help: `${help} (simulated).`,
      labelNames: ['model_name', 'tp_rank', 'pp_rank'],
      registers: [registry],
      collect() {
        for (const rank of ['0', '1']) this.set({ model_name: model, tp_rank: rank, pp_rank: '0' }, value(stats()));
      },
    });
  };
  gauge('sglang:num_running_reqs', 'Requests in the running batch', ({ running }) => running);
  gauge('sglang:num_queue_reqs', 'Requests in the waiting queue', ({ waiting }) => waiting);
  gauge('sglang:token_usage', 'Share of the KV tokens in use, 0 to 1', ({ blocksHeld, blocks }) => blocksHeld / blocks);
  gauge('sglang:max_total_num_tokens', 'KV tokens in all', () => contextTokensMax(profile));
  return { registry, path: '/metrics', ...endings(registry, 'sglang:') };
}

/** As TensorRT-LLM's trtllm-serve (its metrics collector). */
function createTrtllmMetrics({ model, profile, stats }: EngineMetricsOptions): EngineMetrics {
  const registry = new Registry();
  registry.setDefaultLabels({ model_name: model, engine_type: 'trtllm' });
  const { gauge } = readings(registry, stats);
  gauge('trtllm_num_requests_running', 'Active requests', ({ running }) => running);
  gauge('trtllm_num_requests_waiting', 'Queued requests', ({ waiting }) => waiting);
  gauge('trtllm_kv_cache_utilization', 'KV cache utilization, 0 to 1', ({ blocksHeld, blocks }) => blocksHeld / blocks);
  gauge('trtllm_kv_cache_max_blocks', 'KV cache blocks in all', ({ blocks }) => blocks);
  gauge('trtllm_kv_cache_used_blocks', 'KV cache blocks in use', ({ blocksHeld }) => blocksHeld);
  gauge('trtllm_kv_cache_tokens_per_block', 'Tokens in a KV cache block', () => profile.blockTokens);
  return { registry, path: '/prometheus/metrics', ...endings(registry, 'trtllm_') };
}

/** As Triton with its TensorRT-LLM backend (its custom metrics reporter). */
function createTritonMetrics({ model, profile, stats }: EngineMetricsOptions): EngineMetrics {
  const registry = new Registry();
  registry.setDefaultLabels({ model, version: '1' });
  const group = (name: string, help: string, label: string, values: Readonly<Record<string, Reading>>): void => {
    new Gauge({
      name,
      help: `${help} (simulated).`,
      labelNames: [label],
      registers: [registry],
      collect() {
        for (const [type, value] of Object.entries(values)) this.set({ [label]: type }, value(stats()));
      },
    });
  };
  group('nv_trt_llm_request_metrics', 'TRT LLM request metrics', 'request_type', {
    waiting: ({ waiting }) => waiting,
    scheduled: ({ running }) => running,
    active: ({ running, waiting }) => running + waiting,
    max: () => profile.sequencesMax,
  });
  group('nv_trt_llm_kv_cache_block_metrics', 'TRT LLM KV cache block metrics', 'kv_cache_block_type', {
    fraction: ({ blocksHeld, blocks }) => blocksHeld / blocks,
    used: ({ blocksHeld }) => blocksHeld,
    free: ({ blocksHeld, blocks }) => blocks - blocksHeld,
    max: ({ blocks }) => blocks,
    tokens_per: () => profile.blockTokens,
  });
  return { registry, path: '/metrics', firstToken: () => undefined, finished: () => undefined };
}
