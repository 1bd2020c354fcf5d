import { createHmac } from 'node:crypto';

/** 64 bits of hash as two unsigned 32-bit halves: JavaScript has no fast 64-bit integer. */
export interface Hash64 {
  readonly high: number;
  readonly low: number;
}

/**
 * The keyed hash of a session. Routers that share the secret compute the same key; who lacks the secret can neither read a
 * session or tenant out of it nor craft a session that lands on a chosen endpoint.
 */
export interface AffinityKey extends Hash64 {
  /** 128 bits in hex: the name of this session wherever it leaves the process. */
  readonly id: string;
}

/**
 * Returns the function from (tenant, session) to affinity key: HMAC-SHA-256 over both, each prefixed by its length so that
 * no two pairs run together ("ab" + "c" and "a" + "bc" differ).
 */
export function createAffinityHasher(secret: string): (tenant: string, session: string) => AffinityKey {
  // A request asks more than once, mostly with nobody in between: what its decision wants to know, then the decision.
  let last: { readonly tenant: string; readonly session: string; readonly key: AffinityKey } | undefined;
  return (tenant, session) => {
    if (last?.session === session && last.tenant === tenant) return last.key;
    const tenantBytes = Buffer.from(tenant, 'utf8');
    const sessionBytes = Buffer.from(session, 'utf8');
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32BE(tenantBytes.length, 0);
    lengths.writeUInt32BE(sessionBytes.length, 4);
    const digest = createHmac('sha256', secret).update(lengths).update(tenantBytes).update(sessionBytes).digest();
    const key = { id: digest.toString('hex', 0, 16), high: digest.readUInt32BE(16), low: digest.readUInt32BE(20) };
    last = { tenant, session, key };
    return key;
  };
}

/** What the prefix hashes of a fleet start from: who lacks the secret cannot look a prompt up by them. */
export function createPrefixSeed(secret: string): Hash64 {
  const digest = createHmac('sha256', secret).update('fairlead prefix hashes').digest();
  return { high: digest.readUInt32BE(0), low: digest.readUInt32BE(4) };
}

/** Final mixing of 32 bits; constants from MurmurHash3's fmix32 (Austin Appleby, public domain). */
function mix32(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A hash of a name that is the same in every process: FNV-1a over UTF-16 units in two lanes, then mixed. */
export function hashName(name: string): Hash64 {
  let high = 0x811c9dc5;
  let low = 0x9747b28c;
  for (let i = 0; i < name.length; i += 1) {
    const unit = name.charCodeAt(i);
    high = Math.imul(high ^ unit, 0x01000193);
    low = Math.imul(low ^ unit, 0x01000193) + 0x9e3779b9;
  }
  return { high: mix32(high ^ name.length), low: mix32(low ^ high) };
}

/** Two hashes combined into a fraction in the open interval (0, 1), even to 2⁻⁵³. */
export function pairFraction(a: Hash64, b: Hash64): number {
  const low = mix32(a.low ^ mix32(b.low ^ 0x6a09e667) ^ Math.imul(a.high, 0x9e3779b1));
  const high = mix32(a.high ^ mix32(b.high ^ low) ^ 0xbb67ae85);
  // All bits set would round up to 1, whose logarithm is 0.
  return Math.min(((high >>> 6) * 0x8000000 + (low >>> 5) + 0.5) / 0x20000000000000, 1 - Number.EPSILON / 2);
}
