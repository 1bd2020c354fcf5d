import type { z } from 'zod';
import type { Filter, Picker, Scorer } from '../core/policy.ts';
import type { FactNeed } from '../core/request-facts.ts';

/** A strategy as the registry knows it: its name in configuration, its strict parameters, the facts it needs, how to make it. */
export interface Strategy<Kind extends string, S, P extends z.ZodType = z.ZodType> {
  readonly kind: Kind;
  /** Name in configuration, traces and metrics; also the file's name. */
  readonly type: string;
  readonly parameters: P;
  readonly needs: readonly FactNeed[];
  create(parameters: z.output<P>): S;
}

export type FilterStrategy = Strategy<'filter', Filter>;
export type ScorerStrategy = Strategy<'scorer', Scorer>;
export type PickerStrategy = Strategy<'picker', Picker>;

type Definition<K extends string, S, P extends z.ZodType> = Omit<Strategy<K, S, P>, 'kind'>;

/** Declares a filter. */
export function defineFilter<P extends z.ZodType>(definition: Definition<'filter', Filter, P>): Strategy<'filter', Filter, P> {
  return { kind: 'filter', ...definition };
}

/** Declares a scorer. */
export function defineScorer<P extends z.ZodType>(definition: Definition<'scorer', Scorer, P>): Strategy<'scorer', Scorer, P> {
  return { kind: 'scorer', ...definition };
}

/** Declares a picker. */
export function definePicker<P extends z.ZodType>(definition: Definition<'picker', Picker, P>): Strategy<'picker', Picker, P> {
  return { kind: 'picker', ...definition };
}
