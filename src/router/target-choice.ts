import { type AffinityKey, type Hash64, hashName, pairFraction } from '../core/hash.ts';
import { rendezvousClaim } from '../core/rendezvous.ts';
import type { RouteWeights } from './route-weights.ts';
import type { Route, RouteTarget } from './routing-table.ts';
import { shiftedShare } from './weight-shift.ts';

/** A target, and a draw that is still even in [0, 1): for a choice by chance, what the choice left of it. */
export interface TargetChoice {
  readonly target: RouteTarget;
  readonly draw: number;
}

/** What a choice depends on beside the route. */
export interface TargetChoiceInput {
  /** Undefined: the request has no session, and chance decides. */
  readonly key: AffinityKey | undefined;
  /** Even in [0, 1). */
  readonly draw: number;
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: number;
  /** What operators set in place of the configured weights. */
  readonly weights?: RouteWeights | undefined;
}

/**
 * Picks one of the route's targets by weight: by the session where there is one, so that it stays; else by the draw. Undefined: no
 * target has any weight.
 *
 * Sessions are split by weighted rendezvous hashing: with weights changed, a session moves only to a target whose share grew. What a
 * shift moves are the sessions whose hash lies below a threshold that only grows. So neither moves a session twice on its way.
 */
export function chooseTarget(route: Route, { key, draw, wallMs, weights }: TargetChoiceInput): TargetChoice | undefined {
  const overlay = weights?.of(route.name);
  const first = chooseByWeight(route, key, draw, overlay?.weights);
  const { shift } = route;
  if (first === undefined || shift === undefined || first.target.pool.name !== shift.from) return first;
  const share = overlay?.shiftShare ?? shiftedShare(shift, wallMs);
  if (key !== undefined) return pairFraction(key, hashesOf(route).shift) < share ? { target: shift.to, draw } : first;
  if (first.draw < share) return { target: shift.to, draw: first.draw / share };
  return { target: first.target, draw: (first.draw - share) / (1 - share) };
}

function chooseByWeight(route: Route, key: AffinityKey | undefined, draw: number, overlay: readonly number[] | undefined): TargetChoice | undefined {
  const { targets } = route;
  const weightOf = (index: number): number => overlay?.[index] ?? targets[index]?.weight ?? 0;
  if (key !== undefined && targets.length > 1) {
    const { targets: hashes } = hashesOf(route);
    let chosen: RouteTarget | undefined;
    let highest = 0;
    targets.forEach((target, index) => {
      const hash = hashes[index];
      const claim = hash === undefined ? 0 : rendezvousClaim(key, { hash, weight: weightOf(index) });
      if (claim > highest) {
        highest = claim;
        chosen = target;
      }
    });
    return chosen && { target: chosen, draw };
  }
  const [only] = targets;
  if (only !== undefined && targets.length === 1) return weightOf(0) > 0 ? { target: only, draw } : undefined;
  let total = 0;
  for (let index = 0; index < targets.length; index += 1) total += weightOf(index);
  let left = draw * total;
  let last: RouteTarget | undefined;
  for (let index = 0; index < targets.length; index += 1) {
    const target = targets[index];
    const weight = weightOf(index);
    if (target === undefined) continue;
    if (left < weight) return { target, draw: key === undefined ? left / weight : draw };
    left -= weight;
    if (weight > 0) last = target;
  }
  // Rounding may leave a rest.
  return last && { target: last, draw };
}

/** Hashes that tell a route's targets apart: by what they are, so that their order in the configuration moves nobody. */
interface RouteHashes {
  readonly targets: readonly Hash64[];
  readonly shift: Hash64;
}

const hashes = new WeakMap<Route, RouteHashes>();

function hashesOf(route: Route): RouteHashes {
  let made = hashes.get(route);
  if (made === undefined) {
    const seen = new Map<string, number>();
    const targets = route.targets.map(({ pool, model }) => {
      const name = `${route.name}\n${pool.name}\n${model ?? ''}`;
      const before = seen.get(name) ?? 0;
      seen.set(name, before + 1);
      return hashName(`${name}\n${before}`);
    });
    made = { targets, shift: hashName(`${route.name}\nshift`) };
    hashes.set(route, made);
  }
  return made;
}
