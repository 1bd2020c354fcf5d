import { createHmac, hash } from 'node:crypto';

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

/** Keys remembered: as many as this at least, twice as many at most. */
const keysRemembered = 8_192;
/** Longest tenant and session, together in UTF-16 units, whose key is remembered: what clients send must not fill the memory. */
const rememberedUnitsMax = 256;

/**
 * Returns the function from (tenant, session) to affinity key: HMAC-SHA-256 over both, each prefixed by its length so that
 * no two pairs run together ("ab" + "c" and "a" + "bc" differ). Keys asked for lately are remembered: a request asks more than once, a
 * session sends many, and a hash takes some µs.
 */
export function createAffinityHasher(secret: string): (tenant: string, session: string) => AffinityKey {
  const hmac = createHmacSha256(secret);
  // Two generations instead of an order by use: when the recent one is full it becomes the older, and what was not asked for since goes.
  let recent = new Map<string, AffinityKey>();
  let older = new Map<string, AffinityKey>();
  // A request asks again with the same two texts.
  let lastTenant = '';
  let lastSession = '';
  let last: AffinityKey | undefined;
  const remember = (tenant: string, session: string, key: AffinityKey): AffinityKey => {
    lastTenant = tenant;
    lastSession = session;
    return (last = key);
  };
  return (tenant, session) => {
    if (last !== undefined && session === lastSession && tenant === lastTenant) return last;
    if (tenant.length + session.length > rememberedUnitsMax) return toAffinityKey(hmac(tenant, session));
    const name = `${tenant.length}:${tenant}${session}`;
    const found = recent.get(name);
    if (found !== undefined) return remember(tenant, session, found);
    const key = older.get(name) ?? toAffinityKey(hmac(tenant, session));
    if (recent.size >= keysRemembered) {
      older = recent;
      recent = new Map();
    }
    recent.set(name, key);
    return remember(tenant, session, key);
  };
}

function toAffinityKey(digest: Buffer): AffinityKey {
  return { id: digest.toString('hex', 0, 16), high: digest.readUInt32BE(16), low: digest.readUInt32BE(20) };
}

/** Bytes of a block of SHA-256, and of what it gives. */
const blockBytes = 64;
const digestBytes = 32;
/** Bytes of a text of UTF-16 units at most. */
const bytesPerUnitMax = 3;

/**
 * HMAC-SHA-256 (RFC 2104) under one key, over the two lengths in bytes (32 bits each, big-endian) and the two texts. By two one-shot
 * hashes over pads prepared once: that takes six tenths of the time of an object for each message.
 */
function createHmacSha256(secret: string): (first: string, second: string) => Buffer {
  const secretBytes = Buffer.from(secret, 'utf8');
  const key = secretBytes.length > blockBytes ? hash('sha256', secretBytes, 'buffer') : secretBytes;
  const textAt = blockBytes + 8;
  const short = Buffer.alloc(textAt + rememberedUnitsMax * bytesPerUnitMax, 0x36);
  const outer = Buffer.alloc(blockBytes + digestBytes, 0x5c);
  for (const [i, byte] of key.entries()) {
    short[i] = byte ^ 0x36;
    outer[i] = byte ^ 0x5c;
  }
  return (first, second) => {
    const units = first.length + second.length;
    let inner = short;
    if (units > rememberedUnitsMax) {
      inner = Buffer.allocUnsafe(textAt + units * bytesPerUnitMax);
      short.copy(inner, 0, 0, blockBytes);
    }
    const firstBytes = inner.write(first, textAt, 'utf8');
    const secondBytes = inner.write(second, textAt + firstBytes, 'utf8');
    inner.writeUInt32BE(firstBytes, blockBytes);
    inner.writeUInt32BE(secondBytes, blockBytes + 4);
    outer.set(hash('sha256', inner.subarray(0, textAt + firstBytes + secondBytes), 'buffer'), blockBytes);
    return hash('sha256', outer, 'buffer');
  };
}

/** What the prefix hashes of a fleet start from: who lacks the secret cannot look a prompt up by them. */
export function createPrefixSeed(secret: string): Hash64 {
  const digest = createHmac('sha256', secret).update('fairlead prefix hashes').digest();
  return { high: digest.readUInt32BE(0), low: digest.readUInt32BE(4) };
}

/**
 * Final mixing of 32 bits; constants from MurmurHash3's fmix32 (Austin Appleby, public domain). Signed: where code is not inlined, V8 makes an
 * object of every number that may be above 2³¹.
 */
function mix32(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
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
  return { high: mix32(high ^ name.length) >>> 0, low: mix32(low ^ high) >>> 0 };
}

/** Two hashes combined into a fraction in the open interval (0, 1), even to 2⁻⁵³. */
export function pairFraction(a: Hash64, b: Hash64): number {
  return fractionOf(keyPart(a), a.high, memberPart(b), b.high);
}

/** What of `pairFraction` hangs on the first hash alone. */
export function keyPart({ high, low }: Hash64): number {
  return low ^ Math.imul(high, 0x9e3779b1);
}

/** What of it hangs on the second hash alone. */
export function memberPart({ low }: Hash64): number {
  return mix32(low ^ 0x6a09e667);
}

/** `pairFraction` from these parts and the two hashes' high halves: for one key and many members, each of which is prepared once. */
export function fractionOf(keyPart: number, keyHigh: number, memberPart: number, memberHigh: number): number {
  const low = mix32(keyPart ^ memberPart);
  const high = mix32(keyHigh ^ mix32(memberHigh ^ low) ^ 0xbb67ae85);
  const fraction = ((high >>> 6) * 0x8000000 + (low >>> 5) + 0.5) * 2 ** -53;
  // All bits set would round up to 1, whose logarithm is 0.
  return fraction < 1 ? fraction : belowOne;
}

/** The largest fraction there is. A constant: `Number.EPSILON` is looked up each time. */
const belowOne = 1 - 2 ** -53;
