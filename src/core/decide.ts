/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per candidate would cost time */
import { countRejections, type Decision, type DecisionTrace, type NoneCause, type Rejection, type RejectionCount } from './decision.ts';
import { toHostPort } from './data-parallel-rank.ts';
import { filter, filterOnce, rememberedOf } from './filtering.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import { LeftOut } from './left-out.ts';
import type { DecisionInput, Policy, Preference } from './policy.ts';

/** The filter code that means "would serve it, but not now": these make a pool saturated rather than not ready. */
export const atLimit = 'at-limit';
/** The same for an endpoint whose KV cache has no room now. */
export const kvFull = 'kv-full';
/** The filter code for a prompt that an endpoint's model could never take. */
export const contextTooLong = 'context-too-long';

/**
 * Chooses endpoints for one request: subset, filters, scorers, picker. Pure: no clock, chance or memory of its own.
 * The gateway's subset comes before every policy and is matched on address and port (Endpoint Picker Protocol 1.0).
 *
 * What nobody may ever ask for is not written out: a decision among thousands of endpoints names a few, and its trace keeps what it takes to
 * name all of them later. That comes out as it would have at the moment of the decision, however the fleet has changed since.
 */
export function decide(policy: Policy, input: DecisionInput): Decision {
  const leftOut = new LeftOut();
  const { subset } = input.facts;
  const { filters } = policy;
  let remembered = rememberedOf(policy, input.pool);
  let candidates = input.pool.endpoints;
  if (subset !== undefined) {
    const inside = filter({ name: 'subset', run: ({ address }) => (subset.has(toHostPort(address)) ? undefined : 'outside-subset') }, candidates, input);
    if (inside.leftOut !== undefined) leftOut.add(inside.leftOut);
    candidates = inside.passed;
    remembered = undefined;
  }
  for (const soft of demandsThenPreferences) {
    for (let i = 0; i < filters.length; i += 1) {
      const step = filters[i];
      if (step === undefined || (step.soft === true) !== soft) continue;
      const kept = filterOnce(step, i, candidates, input, remembered);
      // A preference that nobody meets is none.
      if (kept?.leftOut === undefined || (soft && kept.passed.length === 0)) continue;
      leftOut.add(kept.leftOut);
      candidates = kept.passed;
      // Who comes to the next filters hangs on this request from here on.
      if (step.run.standing !== true) remembered = undefined;
    }
  }
  if (candidates.length === 0) {
    const trace = new LazyTrace(policy.name, candidates, leftOut, []);
    return { kind: 'none', cause: causeOfNone(countRejections(trace)), trace };
  }

  const scores = policy.scorers.length === 0 ? noScores : policy.scorers.map(({ name, run, weight }) => ({ scorer: name, weight, ratings: run(candidates, input) }));
  const preference = policy.picker.run(candidates, toTotals(scores, candidates.length), input);
  return new LazyRoute(preference, new LazyTrace(policy.name, candidates, leftOut, scores, preference.costs));
}

/** Weighted sums of the scores, in the candidates' order. */
function toTotals(scores: DecisionTrace['scores'], candidates: number): readonly number[] {
  const [first, ...others] = scores;
  if (first === undefined) return zerosFor(candidates);
  const totals = new Array<number>(candidates);
  const rated = Math.min(candidates, first.ratings.length);
  for (let i = 0; i < rated; i += 1) totals[i] = first.weight * first.ratings[i]!;
  for (let i = rated; i < candidates; i += 1) totals[i] = first.weight * unknownRating;
  for (const score of others) addScore(totals, score);
  return totals;
}

/** No rating is looked at whether it is there: of a fraction out of an array, V8 would make an object first. */
function addScore(totals: number[], { weight, ratings }: DecisionTrace['scores'][number]): void {
  const rated = Math.min(totals.length, ratings.length);
  for (let i = 0; i < rated; i += 1) totals[i] = totals[i]! + weight * ratings[i]!;
  for (let i = rated; i < totals.length; i += 1) totals[i] = totals[i]! + weight * unknownRating;
}

/** Zeros for so many candidates, or for more; written to by nobody. */
function zerosFor(candidates: number): readonly number[] {
  if (zeros.length < candidates) zeros = new Array<number>(2 * candidates).fill(0);
  return zeros;
}

function causeOfNone(rejected: readonly RejectionCount[]): NoneCause {
  if (rejected.some(({ reason }) => reason === atLimit || reason === kvFull)) return 'saturated';
  const inside = rejected.filter(({ filter }) => filter !== 'subset');
  if (inside.length > 0 && inside.every(({ reason }) => reason === contextTooLong)) return 'too-long';
  return inside.length === 0 && rejected.length > 0 ? 'subset' : 'not-ready';
}

/** Whether filters are soft: hard ones are applied first. */
const demandsThenPreferences = [false, true] as const;
const noScores: DecisionTrace['scores'] = [];
let zeros: readonly number[] = [];
/** What a rating that a scorer leaves out is taken for. */
const unknownRating = 0.5;

class LazyTrace implements DecisionTrace {
  readonly policy: string;
  readonly scores: DecisionTrace['scores'];
  declare readonly costs?: readonly number[];
  readonly #candidates: readonly EndpointSnapshot[];
  readonly #leftOut: LeftOut;
  #names: readonly string[] | undefined;
  #rejections: readonly Rejection[] | undefined;
  #counts: readonly RejectionCount[] | undefined;

  constructor(policy: string, candidates: readonly EndpointSnapshot[], leftOut: LeftOut, scores: DecisionTrace['scores'], costs?: readonly number[]) {
    this.policy = policy;
    this.scores = scores;
    this.#candidates = candidates;
    this.#leftOut = leftOut;
    if (costs !== undefined) this.costs = costs;
  }

  get candidates(): readonly string[] {
    return (this.#names ??= this.#candidates.map(({ address }) => address));
  }

  get rejections(): readonly Rejection[] {
    return (this.#rejections ??= this.#leftOut.toRejections());
  }

  get rejectionCounts(): readonly RejectionCount[] {
    return (this.#counts ??= this.#leftOut.toCounts());
  }

  get endpoints(): number {
    return this.#candidates.length + this.#leftOut.length;
  }
}

type Route = Extract<Decision, { kind: 'route' }>;

class LazyRoute implements Route {
  readonly kind = 'route';
  readonly reason: string;
  readonly home: string | undefined;
  readonly best: readonly string[];
  readonly trace: DecisionTrace;
  readonly #preference: Preference;
  #addresses: readonly string[] | undefined;

  constructor(preference: Preference, trace: DecisionTrace) {
    this.reason = preference.reason;
    this.home = preference.home;
    this.best = (preference.best ?? preference.order).map(({ address }) => address);
    this.trace = trace;
    this.#preference = preference;
  }

  get addresses(): readonly string[] {
    return (this.#addresses ??= this.#preference.order.map(({ address }) => address));
  }
}
