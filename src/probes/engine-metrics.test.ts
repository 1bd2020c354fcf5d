import { describe, expect, it } from 'vitest';
import { type EngineKind, metricsPaths, parseEngineMetrics } from './engine-metrics.ts';

const parse = (page: string, kind: EngineKind | 'auto' = 'auto', rank?: number): ReturnType<typeof parseEngineMetrics> =>
  parseEngineMetrics(Buffer.from(page), kind, 1_234, rank);

const vllm = `# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 900.0
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.25
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_cpu_blocks="None",num_gpu_blocks="2048"} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.7e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql, legal",waiting_lora_adapters="chat"} 1.700000001e+09
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001"} 0.0
`;

const sglang = `sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 5.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 7.0
sglang:token_usage{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 0.5
sglang:max_total_num_tokens{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 100000.0
`;

const trtllm = `trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 4.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 6.0
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.75
trtllm_kv_cache_max_blocks{engine_type="trtllm",model_name="m"} 1000.0
trtllm_kv_cache_tokens_per_block{engine_type="trtllm",model_name="m"} 32.0
`;

const triton = `nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 9
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 12
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 100
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
`;

const noAdapters = { adapters: undefined, adaptersMax: undefined };
const expected = {
  vllm: { requestsRunning: 3, requestsQueued: 2, kvUsage: 0.25, kvTokensMax: 32_768, adapters: new Set(['sql', 'legal', 'chat']), adaptersMax: 4 },
  sglang: { requestsRunning: 5, requestsQueued: 7, kvUsage: 0.5, kvTokensMax: 100_000, ...noAdapters },
  trtllm: { requestsRunning: 4, requestsQueued: 6, kvUsage: 0.75, kvTokensMax: 32_000, ...noAdapters },
  triton: { requestsRunning: 9, requestsQueued: 2, kvUsage: 0.4, kvTokensMax: 64 * 6_239, ...noAdapters },
};
const pages = { vllm, sglang, trtllm, triton };
const kinds = Object.keys(pages) as EngineKind[];

describe('parseEngineMetrics', () => {
  it.each(kinds)('reads %s, named or found out', (kind) => {
    expect(parse(pages[kind], kind)).toEqual({ scrapedMs: 1_234, ...expected[kind] });
    expect(parse(pages[kind])).toEqual({ scrapedMs: 1_234, ...expected[kind] });
  });

  it.each(kinds)('does not take another server for %s', (kind) => {
    for (const other of kinds) if (other !== kind) expect(parse(pages[other], kind)).toBeUndefined();
  });

  it.each(['', 'up 1\n', '{"error":"not found"}', 'vllm:num_requests_running NaN\n', 'vllm:num_requests_running -1\nvllm:num_requests_waiting 1e300\n'])(
    'finds nothing in %j',
    (page) => {
      expect(parse(page)).toBeUndefined();
    },
  );

  it('takes what there is, and leaves the rest unknown', () => {
    expect(parse('vllm:num_requests_waiting 4\n')).toEqual({
      ...{ scrapedMs: 1_234, requestsRunning: undefined, requestsQueued: 4, kvUsage: undefined, kvTokensMax: undefined, ...noAdapters },
    });
  });

  it.each([
    [0.3, 0.3],
    [1, 1],
    [1.01, 1],
    [30, undefined],
    [-0.1, undefined],
  ])('reads a share of %d as %s', (written, share) => {
    expect(parse(`vllm:num_requests_running 0\nvllm:kv_cache_usage_perc ${written}\n`)?.kvUsage).toBe(share);
  });

  describe('of vLLM', () => {
    it("reads the older name of the KV cache's usage", () => {
      expect(parse('vllm:gpu_cache_usage_perc{model_name="m"} 0.6\n')?.kvUsage).toBe(0.6);
    });

    it('knows no size while the server does not', () => {
      const info = (labels: string): unknown => parse(`vllm:num_requests_running 0\nvllm:cache_config_info{${labels}} 1\n`)?.kvTokensMax;
      expect(info('block_size="16",num_gpu_blocks="None"')).toBeUndefined();
      expect(info('block_size="16"')).toBeUndefined();
      expect(info('block_size="8",kv_cache_size_tokens="463459",num_gpu_blocks="320"')).toBe(463_459);
    });

    const ranks = [0, 1]
      .map((engine) =>
        [
          `vllm:num_requests_running{engine="${engine}"} ${engine + 1}`,
          `vllm:num_requests_waiting{engine="${engine}"} ${engine * 4}`,
          `vllm:kv_cache_usage_perc{engine="${engine}"} ${0.2 + engine * 0.4}`,
          `vllm:cache_config_info{block_size="16",engine="${engine}",num_gpu_blocks="100"} 1`,
        ].join('\n'),
      )
      .join('\n');

    it('adds up data-parallel engines', () => {
      expect(parse(ranks)).toMatchObject({ requestsRunning: 3, requestsQueued: 4, kvUsage: 0.4, kvTokensMax: 3_200 });
    });

    it('reads one of them where that is asked for', () => {
      expect(parse(ranks, 'vllm', 1)).toMatchObject({ requestsRunning: 2, requestsQueued: 4, kvUsage: expect.closeTo(0.6) as number, kvTokensMax: 1_600 });
      // A page that does not tell ranks apart tells of all.
      expect(parse(vllm, 'vllm', 3)).toMatchObject({ requestsRunning: 3 });
    });

    it.each([
      ['none', 'max_lora="2",running_lora_adapters="",waiting_lora_adapters=""', [], 2],
      ['waiting ones while there is room', 'max_lora="2",running_lora_adapters="a",waiting_lora_adapters="b,c"', ['a', 'b'], 2],
      ['no waiting ones where the limit is unknown', 'running_lora_adapters="a",waiting_lora_adapters="b"', ['a'], undefined],
      ['no names longer than 256 characters', `max_lora="2",running_lora_adapters="a,${'x'.repeat(257)}"`, ['a'], 2],
    ])('reads adapters: %s', (_, labels, adapters, adaptersMax) => {
      expect(parse(`vllm:num_requests_running 0\nvllm:lora_requests_info{${labels}} 1.7e9\n`)).toMatchObject({ adapters: new Set(adapters), adaptersMax });
    });
  });

  describe('of SGLang', () => {
    it('counts tensor-parallel ranks once, and adds up data-parallel ones', () => {
      const page = [
        ['0', '0', 2],
        ['0', '1', 2],
        ['1', '2', 3],
        ['1', '3', 3],
      ]
        .map(([dp, tp, value]) => `sglang:num_queue_reqs{dp_rank="${dp ?? ''}",tp_rank="${tp ?? ''}"} ${value ?? ''}`)
        .join('\n');
      expect(parse(page)?.requestsQueued).toBe(5);
      expect(parse(page, 'sglang', 1)?.requestsQueued).toBe(3);
    });

    it('counts requests once, though it tells them by priority too', () => {
      expect(parse('sglang:num_queue_reqs{priority=""} 3\nsglang:num_queue_reqs{priority="1"} 2\nsglang:num_queue_reqs{priority="5"} 1\n')?.requestsQueued).toBe(3);
    });

    it('reads the size of the cache in pages, as gauges or labels', () => {
      expect(parse('sglang:num_running_reqs 0\nsglang:num_pages 100\nsglang:page_size 64\n')?.kvTokensMax).toBe(6_400);
      expect(parse('sglang:num_running_reqs 0\nsglang:cache_config_info{num_pages="10",page_size="64"} 1\n')?.kvTokensMax).toBe(640);
    });
  });

  it("reads TensorRT-LLM's blocks where it tells no utilization", () => {
    expect(parse('trtllm_kv_cache_used_blocks 25\ntrtllm_kv_cache_max_blocks 100\n')).toMatchObject({ kvUsage: 0.25, kvTokensMax: undefined });
    expect(parse('trtllm_num_requests_running 0\ntrtllm_kv_cache_used_blocks 0\ntrtllm_kv_cache_max_blocks 0\n')?.kvUsage).toBeUndefined();
  });

  it('reads older Tritons, which count neither waiting requests nor a fraction', () => {
    const older = triton.replace(/.*(waiting|fraction).*\n/g, '');
    expect(parse(older)).toMatchObject({ requestsRunning: 9, requestsQueued: 3, kvUsage: 100 / 6_239 });
  });
});

describe('metricsPaths', () => {
  it('knows where each kind has them', () => {
    expect([...kinds, 'auto' as const].map((kind) => metricsPaths(kind))).toEqual([
      ['/metrics'],
      ['/metrics'],
      ['/prometheus/metrics'],
      ['/metrics'],
      ['/metrics', '/prometheus/metrics'],
    ]);
  });
});
