import type { EngineMetrics } from '../core/fleet-snapshot.ts';
import { findSamples, type Sample } from './prometheus-text.ts';

/** Model servers whose metrics are understood. */
export type EngineKind = 'vllm' | 'sglang' | 'trtllm' | 'triton';

/** What one page says, by metric. */
type Find = (name: string) => readonly Sample[];
type Told = Omit<EngineMetrics, 'scrapedMs'>;

/** How one kind of model server tells how it is. */
interface EngineDialect {
  /** Where it serves its metrics unless configured otherwise. */
  readonly path: string;
  /** Label that holds a data-parallel rank, where it has one. */
  readonly rankLabel: string | undefined;
  readonly read: (find: Find) => Told;
}

/** Most that is believed of a count. */
const countMax = 1e12;
/** Adapters taken from one line, and the longest name of one. */
const adaptersKeptMax = 1_024;
const adapterCharsMax = 256;

/**
 * vLLM (docs/design/metrics.md and vllm/v1/metrics/loggers.py): one series per engine of a data-parallel server; `gpu_cache_usage_perc` is
 * the older name. Names end in perc, but run from 0 to 1.
 */
const vllm: EngineDialect = {
  path: '/metrics',
  rankLabel: 'engine',
  read: (find) => ({
    requestsRunning: sum(find('vllm:num_requests_running')),
    requestsQueued: sum(find('vllm:num_requests_waiting')),
    kvUsage: share(mean(find('vllm:kv_cache_usage_perc')) ?? mean(find('vllm:gpu_cache_usage_perc'))),
    kvTokensMax: sumOf(find('vllm:cache_config_info'), ({ labels }) => {
      // The newer label counts what hybrid models really hold; the product of the others is right for plain ones. "None" until known.
      return numeric(labels.get('kv_cache_size_tokens')) ?? product(numeric(labels.get('num_gpu_blocks')), numeric(labels.get('block_size')));
    }),
    ...readAdapters(find('vllm:lora_requests_info')),
  }),
};

/**
 * SGLang (docs/references/production_metrics.md and srt/observability/metrics_collector.py). Tensor- and pipeline-parallel ranks repeat
 * what their group says; with priorities, series by priority add up to the one whose priority is empty. Its metrics do not name adapters.
 */
const sglang: EngineDialect = {
  path: '/metrics',
  rankLabel: 'dp_rank',
  read: (find) => {
    const total = (name: string): readonly Sample[] => onePerGroup(find(name).filter(({ labels }) => (labels.get('priority') ?? '') === ''));
    return {
      requestsRunning: sum(total('sglang:num_running_reqs')),
      requestsQueued: sum(total('sglang:num_queue_reqs')),
      kvUsage: share(mean(total('sglang:token_usage'))),
      kvTokensMax:
        positive(sum(total('sglang:max_total_num_tokens'))) ??
        positive(product(sum(total('sglang:num_pages')), mean(total('sglang:page_size')))) ??
        sumOf(total('sglang:cache_config_info'), ({ labels }) => product(numeric(labels.get('num_pages')), numeric(labels.get('page_size')))),
      adapters: undefined,
      adaptersMax: undefined,
    };
  },
};

/** TensorRT-LLM's `trtllm-serve` (tensorrt_llm/metrics/collector.py). Its `/metrics` is JSON, and reading that takes it from others. */
const trtllm: EngineDialect = {
  path: '/prometheus/metrics',
  rankLabel: undefined,
  read: (find) => {
    const blocks = sum(find('trtllm_kv_cache_max_blocks'));
    return {
      requestsRunning: sum(find('trtllm_num_requests_running')),
      requestsQueued: sum(find('trtllm_num_requests_waiting')),
      kvUsage: share(mean(find('trtllm_kv_cache_utilization')) ?? ratio(sum(find('trtllm_kv_cache_used_blocks')), blocks)),
      kvTokensMax: positive(product(blocks, mean(find('trtllm_kv_cache_tokens_per_block')))),
      adapters: undefined,
      adaptersMax: undefined,
    };
  },
};

/**
 * Triton with its TensorRT-LLM backend (custom_metrics_reporter.cc): one series per type of request and of block. `waiting` and `fraction`
 * are newer; before them, requests that are active but not scheduled wait.
 */
const triton: EngineDialect = {
  path: '/metrics',
  rankLabel: undefined,
  read: (find) => {
    const requests = find('nv_trt_llm_request_metrics');
    const blocks = find('nv_trt_llm_kv_cache_block_metrics');
    const ofRequests = (type: string): number | undefined => sum(requests.filter(({ labels }) => labels.get('request_type') === type));
    const ofBlocks = (type: string): readonly Sample[] => blocks.filter(({ labels }) => labels.get('kv_cache_block_type') === type);
    const active = ofRequests('active');
    const scheduled = ofRequests('scheduled');
    const unscheduled = active === undefined || scheduled === undefined ? undefined : Math.max(0, active - scheduled);
    return {
      requestsRunning: scheduled ?? active,
      requestsQueued: ofRequests('waiting') ?? unscheduled,
      kvUsage: share(mean(ofBlocks('fraction')) ?? ratio(sum(ofBlocks('used')), sum(ofBlocks('max')))),
      kvTokensMax: positive(product(sum(ofBlocks('max')), mean(ofBlocks('tokens_per')))),
      adapters: undefined,
      adaptersMax: undefined,
    };
  },
};

const dialects: Readonly<Record<EngineKind, EngineDialect>> = { vllm, sglang, trtllm, triton };
const kinds = Object.keys(dialects) as EngineKind[];

/** Paths to look for metrics at, in this order, where none is configured. */
export function metricsPaths(kind: EngineKind | 'auto'): readonly string[] {
  return kind === 'auto' ? [...new Set(kinds.map((each) => dialects[each].path))] : [dialects[kind].path];
}

/**
 * What a model server's page says of its requests, its KV cache and its adapters; `auto` takes the first kind that says anything.
 * Undefined where it says nothing under the names of that kind. With `rank`, of that data-parallel rank alone, where the page tells
 * ranks apart.
 */
export function parseEngineMetrics(page: Buffer, kind: EngineKind | 'auto', scrapedMs: number, rank?: number): EngineMetrics | undefined {
  for (const each of kind === 'auto' ? kinds : [kind]) {
    const { read, rankLabel } = dialects[each];
    const told = read((name) => ofRank(findSamples(page, name), rankLabel, rank));
    if (told.requestsRunning !== undefined || told.requestsQueued !== undefined || told.kvUsage !== undefined) return { scrapedMs, ...told };
  }
  return undefined;
}

function ofRank(samples: readonly Sample[], label: string | undefined, rank: number | undefined): readonly Sample[] {
  if (label === undefined || rank === undefined) return samples;
  const own = samples.filter(({ labels }) => labels.get(label) === String(rank));
  return own.length > 0 ? own : samples;
}

/**
 * Adapters as vLLM tells them: names joined by commas in labels, the time of writing as the value, one line for each set of names that
 * ever was, so that the newest counts. Those that wait are loaded next, while there is room. It names adapters with requests only: one
 * that is idle may still be loaded.
 */
function readAdapters(samples: readonly Sample[]): Pick<Told, 'adapters' | 'adaptersMax'> {
  let newest: Sample | undefined;
  for (const sample of samples) if (newest === undefined || sample.value > newest.value) newest = sample;
  if (newest === undefined) return { adapters: undefined, adaptersMax: undefined };
  const { labels } = newest;
  const adaptersMax = numeric(labels.get('max_lora'));
  const adapters = new Set(splitNames(labels.get('running_lora_adapters')));
  for (const waiting of splitNames(labels.get('waiting_lora_adapters'))) if (adapters.size < (adaptersMax ?? 0)) adapters.add(waiting);
  return { adapters, adaptersMax };
}

function splitNames(text: string | undefined): string[] {
  const names = (text ?? '').split(',', adaptersKeptMax).map((name) => name.trim());
  return names.filter((name) => name !== '' && name.length <= adapterCharsMax);
}

/** Of series that differ only in a rank that repeats its group, the highest. */
function onePerGroup(samples: readonly Sample[]): Sample[] {
  const groups = new Map<string, Sample>();
  for (const sample of samples) {
    const key = JSON.stringify([...sample.labels].filter(([name]) => !repeatedRanks.has(name)).sort(([a], [b]) => (a < b ? -1 : 1)));
    const known = groups.get(key);
    if (known === undefined || sample.value > known.value) groups.set(key, sample);
  }
  return [...groups.values()];
}
const repeatedRanks: ReadonlySet<string> = new Set(['tp_rank', 'pp_rank', 'moe_ep_rank', 'pid']);

function sum(samples: readonly Sample[]): number | undefined {
  return sumOf(samples, ({ value }) => value);
}

/** Undefined where nothing is known, or the sum is no count. */
function sumOf(samples: readonly Sample[], read: (sample: Sample) => number | undefined): number | undefined {
  let total: number | undefined;
  for (const sample of samples) {
    const value = read(sample);
    if (value !== undefined) total = (total ?? 0) + value;
  }
  return total !== undefined && total >= 0 && total <= countMax ? total : undefined;
}

function mean(samples: readonly Sample[]): number | undefined {
  const total = sum(samples);
  return total === undefined ? undefined : total / samples.length;
}

/** What is above 1 by more than rounding is no share: some gateways tell percent. */
function share(value: number | undefined): number | undefined {
  return value !== undefined && value >= 0 && value <= 1.05 ? Math.min(1, value) : undefined;
}

function ratio(part: number | undefined, whole: number | undefined): number | undefined {
  return part === undefined || whole === undefined || whole <= 0 ? undefined : part / whole;
}

function product(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a * b;
}

function positive(value: number | undefined): number | undefined {
  return value !== undefined && value > 0 && value <= countMax ? value : undefined;
}

/** A label's value as a number; undefined for words such as vLLM's "None". */
function numeric(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,12}$/.test(text) ? Number(text) : undefined;
}
