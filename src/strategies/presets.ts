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

/** Policies known by name. A preset's `parameters` go to its picker. */
export const presets: Readonly<Record<string, PipelineSpec>> = {
  'round-robin': { filters: standing, scorers: [], picker: { type: 'round-robin' } },
  'least-requests': { filters: standing, scorers: [{ type: 'least-requests' }, { type: 'lean', weight: 0.05 }], picker: { type: 'highest-score' } },
  'session-affinity': { filters: standing, scorers: [{ type: 'least-requests' }], picker: { type: 'session-affinity' } },
};
