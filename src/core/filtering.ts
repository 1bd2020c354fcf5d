import type { EndpointSnapshot } from './fleet-snapshot.ts';
import { LeftOutByOne } from './left-out.ts';
import { perVersion } from './per-version.ts';
import type { DecisionInput, Filter, Policy, Step } from './policy.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';

/** What one filter made of those who came to it. */
export interface Filtered {
  /** Who came to it. */
  readonly from: readonly EndpointSnapshot[];
  /** Those it lets pass, in their order; the same array where it lets all pass. */
  readonly passed: readonly EndpointSnapshot[];
  /** Undefined: nobody. */
  readonly leftOut: LeftOutByOne | undefined;
}

/** Asks a filter about each of them. */
export function filter({ name, run }: Step<Filter>, from: readonly EndpointSnapshot[], input: DecisionInput): Filtered {
  let passed: EndpointSnapshot[] | undefined;
  let leftOut: LeftOutByOne | undefined;
  for (let i = 0; i < from.length; i += 1) {
    const endpoint = from[i];
    if (endpoint === undefined) continue;
    const reason = run(endpoint, input);
    if (reason === undefined) {
      passed?.push(endpoint);
      continue;
    }
    passed ??= from.slice(0, i);
    leftOut ??= new LeftOutByOne(name);
    leftOut.add(endpoint, reason);
  }
  return { from, passed: passed ?? from, leftOut };
}

/** What the standing filters of a policy last made of a pool, by their place in the policy. */
export type Remembered = (Filtered | undefined)[];

const rememberedBy = new WeakMap<Policy, (pool: PoolSnapshot) => Remembered | undefined>();

/** What is remembered of this policy on this pool, to be added to; undefined: nothing may be. */
export function rememberedOf(policy: Policy, pool: PoolSnapshot): Remembered | undefined {
  let remembered = rememberedBy.get(policy);
  if (remembered === undefined) {
    remembered = perVersion((): Remembered => policy.filters.map(() => undefined));
    rememberedBy.set(policy, remembered);
  }
  return remembered(pool);
}

/**
 * The same as `filter`, for the filter at a place of the policy, without asking where the answer is known: undefined where the filter surely
 * lets all pass; what was remembered where its answer hangs on the endpoints' standing alone, and the same endpoints came to it.
 */
export function filterOnce(
  step: Step<Filter>,
  place: number,
  from: readonly EndpointSnapshot[],
  input: DecisionInput,
  remembered: Remembered | undefined,
): Filtered | undefined {
  const { run } = step;
  if (run.standing === true && remembered !== undefined) {
    const known = remembered[place];
    if (known?.from === from) return known;
    return (remembered[place] = filter(step, from, input));
  }
  if (run.passesAll?.(input) === true) return undefined;
  return filter(step, from, input);
}
