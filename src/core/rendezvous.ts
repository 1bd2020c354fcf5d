import { type Hash64, pairFraction } from './hash.ts';

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

/** Members by falling claim to the key: home first. Members of equal claim keep their order. */
export function rendezvousOrder<M extends RendezvousMember>(key: Hash64, members: readonly M[]): M[] {
  const claims = members.map((member) => ({ member, claim: rendezvousClaim(key, member) }));
  claims.sort((a, b) => b.claim - a.claim);
  return claims.map(({ member }) => member);
}

/** The member with the highest claim to the key; the first of equals. */
export function rendezvousHome<M extends RendezvousMember>(key: Hash64, members: readonly M[]): M | undefined {
  return rendezvousBest(key, members, 1)[0];
}

/** Room for errors of rounding in a bound. */
const slack = 1 + 1e-9;

/**
 * The first of `rendezvousOrder`, `max` of them at most, without ordering all. Of members that `takes` refuses by their index none is
 * among them; it is asked only about those that would be.
 *
 * Few members need their logarithm taken: −ln(u) ≥ 1 − u bounds a claim by w / (1 − u), all the closer the higher the claim.
 */
export function rendezvousBest<M extends RendezvousMember>(key: Hash64, members: readonly M[], max: number, takes?: (index: number) => boolean): M[] {
  const best: M[] = [];
  const claims: number[] = [];
  if (max <= 0) return best;
  /** What a claim has to exceed. */
  let lowest = -Infinity;
  for (let i = 0; i < members.length; i += 1) {
    const member = members[i];
    if (member === undefined) continue;
    const u = pairFraction(key, member.hash);
    if (member.weight * slack < lowest * (1 - u)) continue;
    const claim = -member.weight / Math.log(u);
    if (claim <= lowest || takes?.(i) === false) continue;
    let at = claims.length;
    while (at > 0 && (claims[at - 1] ?? 0) < claim) at -= 1;
    if (claims.length === max) {
      claims.pop();
      best.pop();
    }
    claims.splice(at, 0, claim);
    best.splice(at, 0, member);
    if (claims.length === max) lowest = claims[max - 1] ?? -Infinity;
  }
  return best;
}
