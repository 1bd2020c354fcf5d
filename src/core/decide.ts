import { countRejections, type Decision, type DecisionTrace, type NoneCause, type Rejection, type RejectionCount } from './decision.ts';
import { toHostPort } from './data-parallel-rank.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import type { DecisionInput, Filter, Policy, Preference, Step } from './policy.ts';

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
  let candidates = input.pool.endpoints;
  if (subset !== undefined) {
    candidates = keep({ name: 'subset', run: ({ address }) => (subset.has(toHostPort(address)) ? undefined : 'outside-subset') }, candidates, input, leftOut);
  }
  for (const filter of policy.filters) if (filter.soft !== true) candidates = keep(filter, candidates, input, leftOut);
  for (const filter of policy.filters) {
    if (filter.soft !== true || candidates.length === 0) continue;
    const before = leftOut.length;
    const preferred = keep(filter, candidates, input, leftOut);
    if (preferred.length === 0) leftOut.cutTo(before);
    else candidates = preferred;
  }
  if (candidates.length === 0) {
    const trace = new LazyTrace(policy.name, candidates, leftOut, []);
    return { kind: 'none', cause: causeOfNone(countRejections(trace)), trace };
  }

  const totals = new Array<number>(candidates.length).fill(0);
  const scores = policy.scorers.length === 0 ? noScores : policy.scorers.map(({ name, run, weight }) => {
    const ratings = run(candidates, input);
    for (let i = 0; i < totals.length; i += 1) totals[i] = (totals[i] ?? 0) + weight * (ratings[i] ?? 0.5);
    return { scorer: name, weight, ratings };
  });
  const preference = policy.picker.run(candidates, totals, input);
  return new LazyRoute(preference, new LazyTrace(policy.name, candidates, leftOut, scores, preference.costs));
}

/** Those that a filter lets pass, in their order; the same array where it lets all pass. */
function keep({ name, run }: Step<Filter>, candidates: readonly EndpointSnapshot[], input: DecisionInput, leftOut: LeftOut): readonly EndpointSnapshot[] {
  let kept: EndpointSnapshot[] | undefined;
  for (let i = 0; i < candidates.length; i += 1) {
    const endpoint = candidates[i];
    if (endpoint === undefined) continue;
    const reason = run(endpoint, input);
    if (reason === undefined) {
      kept?.push(endpoint);
      continue;
    }
    kept ??= candidates.slice(0, i);
    leftOut.add(endpoint, name, reason);
  }
  return kept ?? candidates;
}

function causeOfNone(rejected: readonly RejectionCount[]): NoneCause {
  if (rejected.some(({ reason }) => reason === atLimit || reason === kvFull)) return 'saturated';
  const inside = rejected.filter(({ filter }) => filter !== 'subset');
  if (inside.length > 0 && inside.every(({ reason }) => reason === contextTooLong)) return 'too-long';
  return inside.length === 0 && rejected.length > 0 ? 'subset' : 'not-ready';
}

/** Written to by nobody. */
const noNames: string[] = [];

/** Endpoints that were left out, and why, in three columns. */
class LeftOut {
  // Where nobody is left out, as mostly, no list is made.
  #endpoints: EndpointSnapshot[] | undefined;
  #filters: string[] = noNames;
  #reasons: string[] = noNames;

  get length(): number {
    return this.#endpoints?.length ?? 0;
  }

  add(endpoint: EndpointSnapshot, filter: string, reason: string): void {
    if (this.#endpoints === undefined) {
      this.#endpoints = [];
      this.#filters = [];
      this.#reasons = [];
    }
    this.#endpoints.push(endpoint);
    this.#filters.push(filter);
    this.#reasons.push(reason);
  }

  /** Forgets all but the first so many. */
  cutTo(length: number): void {
    if (this.#endpoints === undefined) return;
    this.#endpoints.length = length;
    this.#filters.length = length;
    this.#reasons.length = length;
  }

  toRejections(): Rejection[] {
    return (this.#endpoints ?? []).map(({ address }, i) => ({ address, filter: this.#filters[i] ?? '', reason: this.#reasons[i] ?? '' }));
  }

  /** In the order in which each filter and reason came up first. */
  toCounts(): RejectionCount[] {
    const counts: { filter: string; reason: string; count: number }[] = [];
    // Many endpoints in a row are mostly left out for the same reason, and there are few reasons.
    let last: (typeof counts)[number] | undefined;
    for (let i = 0; i < this.length; i += 1) {
      const filter = this.#filters[i] ?? '';
      const reason = this.#reasons[i] ?? '';
      if (last?.reason !== reason || last.filter !== filter) {
        last = counts.find((known) => known.filter === filter && known.reason === reason);
        if (last === undefined) counts.push((last = { filter, reason, count: 0 }));
      }
      last.count += 1;
    }
    return counts;
  }
}

const noCounts: readonly RejectionCount[] = [];
const noScores: DecisionTrace['scores'] = [];

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
    return (this.#counts ??= this.#leftOut.length === 0 ? noCounts : this.#leftOut.toCounts());
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
