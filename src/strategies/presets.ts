/** One step of a pipeline as configuration writes it. */
export interface StepSpec {
  readonly type: string;
  readonly weight?: number | undefined;
  readonly parameters?: Readonly<Record<string, unknown>> | undefined;
}

/** A policy as configuration writes it. */
export interface PipelineSpec {
  readonly filters: readonly StepSpec[];
  readonly scorers: readonly StepSpec[];
  readonly picker: StepSpec;
}

const standing: readonly StepSpec[] = [{ type: 'ready' }, { type: 'within-limits' }];

const leanLittle: StepSpec = { type: 'lean', weight: 0.05 };
/** Beside what is measured now and then: load that is known at once keeps requests from all going where it was best a moment ago. */
const byLoadToo: StepSpec = { type: 'weighted-least-requests', weight: 0.5 };

/**
 * Policies known by name. A preset's `parameters` go to its picker; `filters` written beside it come after its own. `slow-start` is in none:
 * under affinity a new endpoint is not flooded anyway, and one that flaps would lose its sessions.
 */
export const presets: Readonly<Record<string, PipelineSpec>> = {
  sticky: { filters: standing, scorers: [], picker: { type: 'sticky' } },
  'round-robin': { filters: standing, scorers: [], picker: { type: 'round-robin' } },
  'weighted-round-robin': { filters: standing, scorers: [], picker: { type: 'weighted-round-robin' } },
  random: { filters: standing, scorers: [], picker: { type: 'random' } },
  'least-requests': { filters: standing, scorers: [{ type: 'least-requests' }, leanLittle], picker: { type: 'highest-score' } },
  'weighted-least-requests': { filters: standing, scorers: [{ type: 'weighted-least-requests' }, leanLittle], picker: { type: 'highest-score' } },
  'power-of-two': { filters: standing, scorers: [{ type: 'weighted-least-requests' }], picker: { type: 'power-of-two' } },
  'weighted-fair': { filters: standing, scorers: [], picker: { type: 'weighted-fair' } },
  'least-tokens': { filters: standing, scorers: [{ type: 'least-tokens' }, leanLittle], picker: { type: 'highest-score' } },
  'least-latency': { filters: standing, scorers: [{ type: 'least-latency' }, leanLittle], picker: { type: 'highest-score' } },
  'tail-latency': { filters: standing, scorers: [{ type: 'tail-latency' }, byLoadToo, leanLittle], picker: { type: 'highest-score' } },
  'queue-depth': { filters: standing, scorers: [{ type: 'queue-depth' }, byLoadToo, leanLittle], picker: { type: 'highest-score' } },
  'kv-usage': { filters: standing, scorers: [{ type: 'kv-usage' }, byLoadToo, leanLittle], picker: { type: 'highest-score' } },
  lora: { filters: standing, scorers: [{ type: 'lora', weight: 2 }, { type: 'queue-depth' }, byLoadToo, leanLittle], picker: { type: 'highest-score' } },
  'session-affinity': { filters: standing, scorers: [{ type: 'least-requests' }], picker: { type: 'session-affinity' } },
  'prefix-affinity': { filters: standing, scorers: [{ type: 'least-tokens' }], picker: { type: 'prefix-affinity' } },
};
