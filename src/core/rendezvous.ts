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
  let home: M | undefined;
  let highest = -Infinity;
  for (const member of members) {
    const claim = rendezvousClaim(key, member);
    if (claim > highest) {
      highest = claim;
      home = member;
    }
  }
  return home;
}
