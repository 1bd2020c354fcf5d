/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per member would cost time */
import { columnsOf } from './endpoint-columns.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import { type Hash64, pairFraction } from './hash.ts';
import { KeyedFractions } from './keyed-fractions.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';

/** What rendezvous hashing needs to know of a member. */
export interface RendezvousMember {
  readonly hash: Hash64;
  /** Relative share of keys; > 0. */
  readonly weight: number;
}

/**
 * A member's claim to a key: the highest claim is the key's home. Weighted rendezvous hashing, −w / ln(u) with u even in
 * (0, 1): a member of twice the weight wins twice the keys, and removing a member moves only the keys it had
 * (Schindelhauer & Schomaker, "Weighted Distributed Hash Tables", SPAA 2005).
 */
export function rendezvousClaim(key: Hash64, member: RendezvousMember): number {
  return -member.weight / Math.log(pairFraction(key, member.hash));
}

/** What rendezvous hashing reads of members, in columns that never change: each member's own is at its index of `at`. */
export interface RendezvousColumns {
  readonly at: Int32Array;
  readonly weights: Float64Array;
  readonly fractions: KeyedFractions;
}

/** These columns of a pool's candidates, as they are now: what is worked out later must not go by another weight. */
export function rendezvousColumnsOf(candidates: readonly EndpointSnapshot[], pool: PoolSnapshot): RendezvousColumns {
  const { at, columns } = columnsOf(candidates, pool);
  const { weights, fractions } = columns;
  return { at, weights, fractions };
}

/** Members by falling claim to the key: home first. Members of equal claim keep their order. `columns`: the members' own, where there are some. */
export function rendezvousOrder<M extends RendezvousMember>(
  key: Hash64,
  members: readonly M[],
  { at, weights, fractions }: RendezvousColumns = toColumns(members),
): M[] {
  const u = fractions.of(key);
  const claims = members.map((member, i) => ({ member, claim: -weights[at[i]!]! / Math.log(u[at[i]!]!) }));
  claims.sort((a, b) => b.claim - a.claim);
  return claims.map(({ member }) => member);
}

/** The member with the highest claim to the key; the first of equals. */
export function rendezvousHome<M extends RendezvousMember>(key: Hash64, members: readonly M[], columns?: RendezvousColumns): M | undefined {
  return rendezvousBest(key, members, 1, undefined, columns)[0];
}

/** Room for errors of rounding in a bound. */
const slack = 1 + 1e-9;

/**
 * The first of `rendezvousOrder`, `max` of them at most, without ordering all. Of members that `takes` refuses by their index none is
 * among them; it is asked only about those that would be. `columns`: the members' own, where there are some.
 *
 * Few members need their logarithm taken: −ln(u) ≥ 1 − u bounds a claim by w / (1 − u), all the closer the higher the claim.
 */
export function rendezvousBest<M extends RendezvousMember>(
  key: Hash64,
  members: readonly M[],
  max: number,
  takes?: (index: number) => boolean,
  { at: places, weights, fractions }: RendezvousColumns = toColumns(members),
): M[] {
  if (max <= 0) return [];
  /** Indices of the best so far and their claims, best first. By hand: `splice` makes an array each time. */
  const best: number[] = [];
  const claims: number[] = [];
  const fractionsAt = fractions.of(key);
  /** What a claim has to exceed. */
  let lowest = -Infinity;
  for (let i = 0; i < places.length; i += 1) {
    const place = places[i]!;
    const weight = weights[place]!;
    const u = fractionsAt[place]!;
    if (weight * slack < lowest * (1 - u)) continue;
    const claim = -weight / Math.log(u);
    if (claim <= lowest || takes?.(i) === false) continue;
    if (claims.length < max) {
      claims.push(claim);
      best.push(i);
    }
    let at = claims.length - 1;
    for (; at > 0 && claims[at - 1]! < claim; at -= 1) {
      claims[at] = claims[at - 1]!;
      best[at] = best[at - 1]!;
    }
    claims[at] = claim;
    best[at] = i;
    if (claims.length === max) lowest = claims[max - 1]!;
  }
  return best.map((i) => members[i]!);
}

function toColumns(members: readonly RendezvousMember[]): RendezvousColumns {
  return {
    at: Int32Array.from(members, (_, i) => i),
    weights: Float64Array.from(members, ({ weight }) => weight),
    fractions: new KeyedFractions(members),
  };
}
