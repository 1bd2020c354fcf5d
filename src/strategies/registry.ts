import { ready } from './filters/ready.ts';
import { withinLimits } from './filters/within-limits.ts';
import { highestScore } from './pickers/highest-score.ts';
import { roundRobin } from './pickers/round-robin.ts';
import { sessionAffinity } from './pickers/session-affinity.ts';
import { lean } from './scorers/lean.ts';
import { leastRequests } from './scorers/least-requests.ts';
import type { FilterStrategy, PickerStrategy, ScorerStrategy } from './strategy.ts';

const filters = [ready, withinLimits];
const scorers = [leastRequests, lean];
const pickers = [highestScore, roundRobin, sessionAffinity];

function byType<S extends { readonly type: string }>(strategies: readonly S[]): ReadonlyMap<string, S> {
  return new Map(strategies.map((strategy) => [strategy.type, strategy]));
}

/** Every strategy that configuration can name, by kind and type. */
export const registry: {
  readonly filters: ReadonlyMap<string, FilterStrategy>;
  readonly scorers: ReadonlyMap<string, ScorerStrategy>;
  readonly pickers: ReadonlyMap<string, PickerStrategy>;
} = { filters: byType(filters), scorers: byType(scorers), pickers: byType(pickers) };
