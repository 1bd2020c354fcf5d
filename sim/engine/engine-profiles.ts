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

/** Every profile by name. */
export const engineProfiles = { demo, 'dynamo-mocker': dynamoMocker } as const;

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
