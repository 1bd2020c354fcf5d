import { labels } from './filters/labels.ts';
import { notEjected } from './filters/not-ejected.ts';
import { ready } from './filters/ready.ts';
import { region } from './filters/region.ts';
import { slowStart } from './filters/slow-start.ts';
import { withinLimits } from './filters/within-limits.ts';
import { highestScore } from './pickers/highest-score.ts';
import { powerOfTwo } from './pickers/power-of-two.ts';
import { prefixAffinity } from './pickers/prefix-affinity.ts';
import { random } from './pickers/random.ts';
import { roundRobin } from './pickers/round-robin.ts';
import { sessionAffinity } from './pickers/session-affinity.ts';
import { sticky } from './pickers/sticky.ts';
import { weightedFair } from './pickers/weighted-fair.ts';
import { weightedRoundRobin } from './pickers/weighted-round-robin.ts';
import { kvUsage } from './scorers/kv-usage.ts';
import { lean } from './scorers/lean.ts';
import { leastLatency } from './scorers/least-latency.ts';
import { leastRequests } from './scorers/least-requests.ts';
import { leastTokens } from './scorers/least-tokens.ts';
import { lora } from './scorers/lora.ts';
import { queueDepth } from './scorers/queue-depth.ts';
import { sessionGrowth } from './scorers/session-growth.ts';
import { tailLatency } from './scorers/tail-latency.ts';
import { weightedLeastRequests } from './scorers/weighted-least-requests.ts';
import type { FilterStrategy, PickerStrategy, ScorerStrategy } from './strategy.ts';

const filters = [ready, withinLimits, notEjected, labels, region, slowStart];
const scorers = [leastRequests, lean, weightedLeastRequests, leastTokens, leastLatency, tailLatency, queueDepth, kvUsage, lora, sessionGrowth];
const pickers = [highestScore, roundRobin, sessionAffinity, sticky, weightedRoundRobin, random, powerOfTwo, weightedFair, prefixAffinity];

function byType<S extends { readonly type: string }>(strategies: readonly S[]): ReadonlyMap<string, S> {
  return new Map(strategies.map((strategy) => [strategy.type, strategy]));
}

/** Every strategy that configuration can name, by kind and type. */
export const registry: {
  readonly filters: ReadonlyMap<string, FilterStrategy>;
  readonly scorers: ReadonlyMap<string, ScorerStrategy>;
  readonly pickers: ReadonlyMap<string, PickerStrategy>;
} = { filters: byType(filters), scorers: byType(scorers), pickers: byType(pickers) };
