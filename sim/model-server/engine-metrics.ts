import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStats } from '../engine/engine.ts';
import type { EngineProfile } from '../engine/engine-profiles.ts';

/** The metrics of one simulated server. */
export interface EngineMetrics {
  readonly registry: Registry;
  firstToken(ttftMs: number): void;
  finished(reason: 'stop' | 'length', latencyMs: number): void;
}

const secondsBuckets = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

/** Metrics under the names vLLM's V1 engine uses (vLLM docs, "Production Metrics"), read from the engine when scraped. */
export function createEngineMetrics(model: string, profile: EngineProfile, stats: () => EngineStats): EngineMetrics {
  const registry = new Registry();
  registry.setDefaultLabels({ model_name: model, engine: '0' });
  const registers = [registry];

  const gauge = (name: string, help: string, value: (now: EngineStats) => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(value(stats()));
      },
    });
  };
  const counter = (name: string, help: string, value: (now: EngineStats) => number): void => {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(value(stats()));
      },
    });
  };

  gauge('vllm:num_requests_running', 'Requests in the running batch (simulated).', ({ running }) => running);
  gauge('vllm:num_requests_waiting', 'Requests waiting to be scheduled (simulated).', ({ waiting }) => waiting);
  gauge('vllm:kv_cache_usage_perc', 'Share of the KV blocks in use, 0 to 1 (simulated).', ({ blocksHeld, blocks }) => blocksHeld / blocks);
  counter('vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache (simulated).', ({ queriedTokens }) => queriedTokens);
  counter('vllm:prefix_cache_hits_total', 'Prompt tokens found in the prefix cache (simulated).', ({ cachedTokens }) => cachedTokens);
  // Like vLLM's, it counts whole prompts, cached or not.
  counter('vllm:prompt_tokens_total', 'Prompt tokens taken in (simulated).', ({ queriedTokens }) => queriedTokens);
  counter('vllm:generation_tokens_total', 'Tokens generated (simulated).', ({ generatedTokens }) => generatedTokens);
  counter('vllm:num_preemptions_total', 'Requests preempted for want of KV blocks (simulated).', ({ preemptions }) => preemptions);
  new Gauge({
    name: 'vllm:cache_config_info',
    help: 'KV cache configuration (simulated).',
    labelNames: ['block_size', 'num_gpu_blocks', 'enable_prefix_caching'],
    registers,
  }).set({ block_size: profile.blockTokens, num_gpu_blocks: profile.blocks, enable_prefix_caching: 'True' }, 1);

  const success = new Counter({
    name: 'vllm:request_success_total',
    help: 'Requests finished (simulated).',
    labelNames: ['finished_reason'],
    registers,
  });
  const histogram = (name: string, help: string): Histogram => new Histogram({ name, help, buckets: secondsBuckets, registers });
  const ttft = histogram('vllm:time_to_first_token_seconds', 'Time to first token (simulated).');
  const latency = histogram('vllm:e2e_request_latency_seconds', 'Time to last token (simulated).');
  return {
    registry,
    firstToken(ttftMs) {
      ttft.observe(ttftMs / 1000);
    },
    finished(reason, latencyMs) {
      success.inc({ finished_reason: reason });
      latency.observe(latencyMs / 1000);
    },
  };
}
