import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';

/** The cookie's name and attributes, as configured. `HttpOnly` is always set: scripts have no use for it. */
export interface SessionCookieOptions {
  readonly name: string;
  /** How long a client keeps it, in seconds; a cookie in use is renewed at half of that. */
  readonly maxAgeS: number;
  readonly path: string;
  readonly secure: boolean;
  readonly sameSite: 'strict' | 'lax' | 'none';
}

/** What cookies take from outside: equal values give equal cookies. */
export interface SessionCookieInputs {
  /** The fleet's affinity secret: routers that share it accept each other's cookies. */
  readonly secret: string;
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: () => number;
  /** That many bytes that nobody can guess. */
  readonly randomBytes: (count: number) => Uint8Array;
}

/** A session, and the `Set-Cookie` value that gives it to the client. */
export interface IssuedSession {
  readonly session: string;
  readonly setCookie: string;
}

/** What a request's cookie turned out to be. */
export type CookieReading =
  /** Signed by this fleet. `renewal`: the `Set-Cookie` value that keeps it alive; undefined: it is young enough. */
  | { readonly kind: 'valid'; readonly session: string; readonly renewal: string | undefined }
  /** Forged, damaged, or of another secret. */
  | { readonly kind: 'invalid' };

const idBytes = 16;
const timeBytes = 4;
const payloadBytes = idBytes + timeBytes;
const macBytes = 16;
/** 36 bytes in base64url: no padding. */
const valuePattern = /^[A-Za-z0-9_-]{48}$/;
/** Tells this key from others made of the same secret; a new form of cookie takes a new label. */
const keyLabel = 'fairlead session cookie 1';
const sameSiteNames = { strict: 'Strict', lax: 'Lax', none: 'None' } as const;

/**
 * Issues and checks the cookies by which clients that name no session keep to one endpoint.
 *
 * A value is base64url of: random id (16 bytes), time of issue (unsigned 32-bit seconds, big-endian), and the first 16 bytes of
 * HMAC-SHA-256 over the cookie's name, a zero byte, and both, under a key that HKDF-SHA-256 (RFC 5869) makes of the affinity secret. So a
 * client can only bring sessions that a router of this fleet made up, and routers need no shared store. The id alone is the session: a
 * renewed cookie keeps its endpoint. It is no proof of identity, and its age is not held against it.
 */
export class SessionCookies {
  readonly name: string;
  readonly #options: SessionCookieOptions;
  readonly #inputs: SessionCookieInputs;
  readonly #key: Buffer;
  readonly #attributes: string;

  constructor(options: SessionCookieOptions, inputs: SessionCookieInputs) {
    this.name = options.name;
    this.#options = options;
    this.#inputs = inputs;
    this.#key = Buffer.from(hkdfSync('sha256', inputs.secret, '', keyLabel, 32));
    const { path, maxAgeS, sameSite, secure } = options;
    this.#attributes = `; Path=${path}; Max-Age=${maxAgeS}; HttpOnly; SameSite=${sameSiteNames[sameSite]}${secure ? '; Secure' : ''}`;
  }

  /** Makes up a session. */
  issue(): IssuedSession {
    const id = Buffer.from(this.#inputs.randomBytes(idBytes));
    return { session: toSession(id), setCookie: this.#write(id) };
  }

  /** Checks a cookie's value. Takes the same time wherever a signature is wrong. */
  read(value: string): CookieReading {
    if (!valuePattern.test(value)) return { kind: 'invalid' };
    const bytes = Buffer.from(value, 'base64url');
    const payload = bytes.subarray(0, payloadBytes);
    if (!timingSafeEqual(bytes.subarray(payloadBytes), this.#sign(payload))) return { kind: 'invalid' };
    const id = payload.subarray(0, idBytes);
    const ageS = this.#nowS() - payload.readUInt32BE(idBytes);
    return { kind: 'valid', session: toSession(id), renewal: ageS >= this.#options.maxAgeS / 2 ? this.#write(id) : undefined };
  }

  #write(id: Buffer): string {
    const payload = Buffer.alloc(payloadBytes);
    id.copy(payload);
    payload.writeUInt32BE(this.#nowS(), idBytes);
    return `${this.name}=${Buffer.concat([payload, this.#sign(payload)]).toString('base64url')}${this.#attributes}`;
  }

  #sign(payload: Buffer): Buffer {
    return createHmac('sha256', this.#key).update(this.name).update('\0').update(payload).digest().subarray(0, macBytes);
  }

  #nowS(): number {
    return Math.floor(this.#inputs.wallMs() / 1_000) >>> 0;
  }
}

/** Told apart from sessions that clients name by a prefix of its own. */
function toSession(id: Buffer): string {
  return `cookie:${id.toString('base64url')}`;
}
