import type { z } from 'zod';
import type { Filter, Picker, Scorer } from '../core/policy.ts';
import type { FactNeed } from '../core/request-facts.ts';

/**
 * A strategy as the registry knows it: its name in configuration, its strict parameters (each described), the facts it needs, how to make
 * it, and what its page in the documentation says.
 */
export interface Strategy<Kind extends string, S, P extends z.ZodType = z.ZodType> {
  readonly kind: Kind;
  /** Name in configuration, traces and metrics; also the file's name. */
  readonly type: string;
  /** What it prefers or leaves out, in one or two sentences. */
  readonly prefers: string;
  /** When another strategy is the better choice, and why. */
  readonly wrongWhen: string;
  /** What it computes, in one line of plain text. */
  readonly formula: string;
  /** Where formula and defaults come from. */
  readonly source: string;
  readonly parameters: P;
  /** Parameters to show in its documentation; needed where it does nothing, or cannot be made, without any. */
  readonly example?: z.input<P>;
  readonly needs: readonly FactNeed[];
  /** Chooses much better where the first token of each response is noticed; see `observe.firstToken`. */
  readonly wantsFirstToken?: boolean;
  /** Goes by what model servers tell in their metrics, and does nothing without; see `pools[].metrics`. */
  readonly wantsMetrics?: boolean;
  create(parameters: z.output<P>): S;
}

/** What only filters have. */
interface FilterTraits<P extends z.ZodType> {
  /** The whole filter is a preference: see `Policy.filters`. */
  readonly soft?: boolean;
  /** The part of it that is a preference, where parameters ask for one; run as a soft filter of the same name. */
  createPreference?(parameters: z.output<P>): Filter | undefined;
  /** Names of request headers, in lower case, that it looks up in `RequestFacts.headers`. */
  headersOf?(parameters: z.output<P>): readonly string[];
}

export type FilterStrategy<P extends z.ZodType = z.ZodType> = Strategy<'filter', Filter, P> & FilterTraits<P>;
export type ScorerStrategy = Strategy<'scorer', Scorer>;
export type PickerStrategy = Strategy<'picker', Picker>;

type Definition<K extends string, S, P extends z.ZodType> = Omit<Strategy<K, S, P>, 'kind'>;

/** Declares a filter. */
export function defineFilter<P extends z.ZodType>(definition: Definition<'filter', Filter, P> & FilterTraits<P>): FilterStrategy<P> {
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
