/**
 * What one simulated model server can do: speed, batch limits, KV memory. The only place with such constants.
 *
 * Times follow two polynomials per step: prefill `a·P² + b·P + c` for P new prompt tokens, decode `d + e·x + f·x²` where x is the
 * share of the KV memory's tokens that the decoding sequences attend to.
 */
export interface EngineProfile {
  readonly name: string;
  /** Where the constants come from. */
  readonly source: string;
  /** Milliseconds of prefill for P tokens: quadratic·P² + linear·P + constant. */
  readonly prefill: { readonly quadratic: number; readonly linear: number; readonly constant: number };
  /** Milliseconds of one decode step at context share x: constant + linear·x + quadratic·x². */
  readonly decode: { readonly constant: number; readonly linear: number; readonly quadratic: number };
  /** Tokens a step may work on: one per decoding sequence, the rest for prefill. */
  readonly stepTokensMax: number;
  /** Sequences that may run at once. */
  readonly sequencesMax: number;
  /** Requests that may wait once every sequence is taken; `Infinity` for no bound. */
  readonly queueMax: number;
  /** Tokens in a KV block. */
  readonly blockTokens: number;
  /** KV blocks in all. */
  readonly blocks: number;
}

const dynamoMocker: EngineProfile = {
  name: 'dynamo-mocker',
  source: "calibrated on NVIDIA Dynamo's engine mocker (PyPI ai-dynamo 1.6), 5859 blocks a worker as in its replays of the Mooncake traces",
  prefill: { quadratic: 4.209989e-7, linear: 0.01518344, constant: 16.50142 },
  decode: { constant: 5.74, linear: 54.01, quadratic: -25.74 },
  stepTokensMax: 8192,
  sequencesMax: 256,
  queueMax: Infinity,
  blockTokens: 512,
  blocks: 5859,
};

const demo: EngineProfile = {
  name: 'demo',
  source:
    'invented: a small GPU for laptops; 2000 uncached tokens cost 150 ms, a decode step about 4 ms, ' +
    'and 60 000 tokens of KV memory hold few enough sessions that placement shows',
  prefill: { quadratic: 2.5e-6, linear: 0.065, constant: 10 },
  decode: { constant: 3.6, linear: 2.4, quadratic: -0.8 },
  stepTokensMax: 2048,
  sequencesMax: 8,
  queueMax: 64,
  blockTokens: 16,
  blocks: 3750,
};

/** What an accelerator's data sheet says: dense BF16 operations a second, memory bandwidth and size in bytes. */
interface Accelerator {
  readonly flops: number;
  readonly bytesPerSecond: number;
  readonly memoryBytes: number;
}

/** Llama 3.1 8B, from its model card and configuration: 32 layers of width 4096, 8 KV heads of 128, in BF16. */
const llama8b = { parameters: 8.03e9, layers: 32, width: 4_096, kvBytesPerToken: 2 * 32 * 8 * 128 * 2 };

/** Shares of the data sheet's figures that a well-tuned server reaches, and what a step costs beside, in ms: assumed. */
const computeShare = 0.5;
const bandwidthShare = 0.75;
const stepOverheadMs = 2;
/** Share of the memory that vLLM takes (gpu_memory_utilization), and what of it goes into activations and graphs, in bytes: its default; assumed. */
const memoryShare = 0.9;
const workingBytes = 2e9;
const vllmBlockTokens = 16;

/**
 * A server by the roofline: prefill is bound by operations (2 a parameter and token, and causal attention's 2·width a layer and pair of
 * tokens), a decode step by reading the weights once and the KV memory that is attended to.
 */
function roofline({ flops, bytesPerSecond, memoryBytes }: Accelerator): Pick<EngineProfile, 'prefill' | 'decode' | 'blockTokens' | 'blocks'> {
  const weightBytes = 2 * llama8b.parameters;
  const kvBytes = memoryBytes * memoryShare - weightBytes - workingBytes;
  const operationsPerMs = (flops * computeShare) / 1_000;
  const bytesPerMs = (bytesPerSecond * bandwidthShare) / 1_000;
  return {
    prefill: { quadratic: (2 * llama8b.width * llama8b.layers) / operationsPerMs, linear: (2 * llama8b.parameters) / operationsPerMs, constant: stepOverheadMs },
    decode: { constant: weightBytes / bytesPerMs + stepOverheadMs, linear: kvBytes / bytesPerMs, quadratic: 0 },
    blockTokens: vllmBlockTokens,
    blocks: Math.floor(kvBytes / llama8b.kvBytesPerToken / vllmBlockTokens),
  };
}

const h100Vllm: EngineProfile = {
  name: 'h100-vllm',
  source:
    'reckoned by the roofline, not measured: Llama 3.1 8B in BF16 on one H100 SXM (NVIDIA H100 data sheet: 989 TFLOPS dense BF16, 3.35 TB/s, 80 GB), ' +
    "vLLM's own limits for it (8192 tokens a step, 1024 sequences, blocks of 16)",
  ...roofline({ flops: 989.4e12, bytesPerSecond: 3.35e12, memoryBytes: 80e9 }),
  stepTokensMax: 8192,
  sequencesMax: 1024,
  queueMax: Infinity,
};

const a10Vllm: EngineProfile = {
  name: 'a10-vllm',
  source:
    'reckoned by the roofline, not measured: Llama 3.1 8B in BF16 on one A10 (NVIDIA A10 data sheet: 125 TFLOPS dense BF16, 600 GB/s, 24 GB), ' +
    "vLLM's own limits for smaller GPUs (2048 tokens a step, 256 sequences, blocks of 16)",
  ...roofline({ flops: 125e12, bytesPerSecond: 600e9, memoryBytes: 24e9 }),
  stepTokensMax: 2048,
  sequencesMax: 256,
  queueMax: Infinity,
};

/** How much slower an L40S computes and reads than an H100 SXM, and how much less it holds, by NVIDIA's data sheets (362 TFLOPS, 864 GB/s, 48 GB). */
const l40s = { compute: 989.4 / 362, bandwidth: 3_350 / 864, memory: 48 / 80 };

const slowGpu: EngineProfile = {
  ...dynamoMocker,
  name: 'slow-gpu',
  source: "dynamo-mocker's constants times what an L40S is slower than an H100 SXM, by NVIDIA's data sheets",
  prefill: {
    quadratic: dynamoMocker.prefill.quadratic * l40s.compute,
    linear: dynamoMocker.prefill.linear * l40s.compute,
    constant: dynamoMocker.prefill.constant * l40s.compute,
  },
  decode: {
    constant: dynamoMocker.decode.constant * l40s.bandwidth,
    linear: dynamoMocker.decode.linear * l40s.bandwidth,
    quadratic: dynamoMocker.decode.quadratic * l40s.bandwidth,
  },
  blocks: Math.floor(dynamoMocker.blocks * l40s.memory),
};

/** Every profile by name. */
export const engineProfiles = { demo, 'dynamo-mocker': dynamoMocker, 'slow-gpu': slowGpu, 'h100-vllm': h100Vllm, 'a10-vllm': a10Vllm } as const;

export type EngineProfileName = keyof typeof engineProfiles;

/** Tokens the KV memory holds: the longest prompt plus output a server with this profile can serve. */
export function contextTokensMax(profile: EngineProfile): number {
  return profile.blocks * profile.blockTokens;
}

/** Milliseconds a step spends on `promptTokens` new prompt tokens; none for none. */
export function prefillMs(profile: EngineProfile, promptTokens: number): number {
  if (promptTokens === 0) return 0;
  const { quadratic, linear, constant } = profile.prefill;
  return (quadratic * promptTokens + linear) * promptTokens + constant;
}

/**
 * Milliseconds a step spends on one token for each decoding sequence, whose lengths sum to `contextTokens`. Sequences that share
 * cached blocks can sum to more than the memory holds; the curve is fitted up to a full memory, so it stays flat beyond.
 */
export function decodeMs(profile: EngineProfile, contextTokens: number): number {
  const { quadratic, linear, constant } = profile.decode;
  const share = Math.min(1, contextTokens / contextTokensMax(profile));
  return (quadratic * share + linear) * share + constant;
}
