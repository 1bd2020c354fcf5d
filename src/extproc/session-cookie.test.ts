import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CookieReading, SessionCookies, type SessionCookieOptions } from './session-cookie.ts';

const defaults: SessionCookieOptions = { name: 'fairlead-session', maxAgeS: 1_000, path: '/', secure: true, sameSite: 'lax' };
const startMs = 1_790_000_000_000;

/** A router's cookies: random bytes that count up, and a clock that the test sets. */
function create(options: Partial<SessionCookieOptions> = {}, secret = 'one per fleet'): { cookies: SessionCookies; clock: { ms: number } } {
  const clock = { ms: startMs };
  let made = 0;
  const randomBytes = (count: number): Uint8Array => {
    made += 1;
    return new Uint8Array(count).fill(made);
  };
  return { cookies: new SessionCookies({ ...defaults, ...options }, { secret, wallMs: () => clock.ms, randomBytes }), clock };
}

const valueOf = (setCookie: string): string => /^[^=]+=([^;]*)/.exec(setCookie)![1]!;
const isValid = (reading: CookieReading): boolean => reading.kind === 'valid';

describe('issuing', () => {
  it('makes up a session of its own for each', () => {
    const { cookies } = create();
    const issued = [cookies.issue(), cookies.issue(), cookies.issue()];
    expect(new Set(issued.map(({ session }) => session)).size).toBe(3);
    expect(new Set(issued.map(({ setCookie }) => setCookie)).size).toBe(3);
  });

  it.each([
    [{}, '; Path=/; Max-Age=1000; HttpOnly; SameSite=Lax; Secure'],
    [{ secure: false, sameSite: 'strict', path: '/v1', maxAgeS: 60 }, '; Path=/v1; Max-Age=60; HttpOnly; SameSite=Strict'],
    [{ sameSite: 'none' }, '; Path=/; Max-Age=1000; HttpOnly; SameSite=None; Secure'],
  ] as const)('writes the attributes of %j', (options, expected) => {
    const { setCookie } = create(options).cookies.issue();
    expect(setCookie).toMatch(/^fairlead-session=[A-Za-z0-9_-]{48};/);
    expect(setCookie.slice(setCookie.indexOf(';'))).toBe(expected);
  });

  it('tells no one who does not hold the secret anything but the time', () => {
    const one = valueOf(create({}, 'a').cookies.issue().setCookie);
    const other = valueOf(create({}, 'b').cookies.issue().setCookie);
    expect(one.slice(0, 26)).toBe(other.slice(0, 26));
    expect(one.slice(27)).not.toBe(other.slice(27));
  });
});

describe('reading', () => {
  it('gives the session back, to any router with the same secret', () => {
    const { session, setCookie } = create().cookies.issue();
    expect(create().cookies.read(valueOf(setCookie))).toEqual({ kind: 'valid', session, renewal: undefined });
  });

  it.each<[string, () => string]>([
    ['of another secret', () => valueOf(create({}, 'of another fleet').cookies.issue().setCookie)],
    ['under another name', () => valueOf(create({ name: 'other' }).cookies.issue().setCookie)],
    ['empty', () => ''],
    ['too short', () => valueOf(create().cookies.issue().setCookie).slice(0, -1)],
    ['too long', () => `${valueOf(create().cookies.issue().setCookie)}A`],
    ['padded', () => `${valueOf(create().cookies.issue().setCookie).slice(0, -1)}=`],
    ['what a client would think of', () => 'my-session'],
    ['of characters that base64 decoders skip', () => `${valueOf(create().cookies.issue().setCookie).slice(0, -1)}\n`],
    ['in the other alphabet of base64', () => '+'.repeat(48)],
    ['very long', () => 'A'.repeat(100_000)],
  ])('refuses one %s', (_title, make) => {
    expect(create().cookies.read(make())).toEqual({ kind: 'invalid' });
  });

  it('refuses one with any character changed', () => {
    const value = valueOf(create().cookies.issue().setCookie);
    const { cookies } = create();
    expect(isValid(cookies.read(value))).toBe(true);
    for (let i = 0; i < value.length; i += 1) {
      const changed = `${value.slice(0, i)}${value[i] === 'A' ? 'B' : 'A'}${value.slice(i + 1)}`;
      expect(cookies.read(changed), `character ${i}`).toEqual({ kind: 'invalid' });
    }
  });

  it('never throws, and takes nothing for valid that was not issued', () => {
    const { cookies } = create();
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[A-Za-z0-9_-]{48}$/)), (text) => {
        expect(cookies.read(text)).toEqual({ kind: 'invalid' });
      }),
    );
  });
});

describe('renewal', () => {
  it('comes at half of the age, with the same session', () => {
    const { cookies, clock } = create();
    const { session, setCookie } = cookies.issue();
    clock.ms = startMs + 499_999;
    expect(cookies.read(valueOf(setCookie))).toEqual({ kind: 'valid', session, renewal: undefined });
    clock.ms = startMs + 500_000;
    const old = cookies.read(valueOf(setCookie));
    expect(old).toMatchObject({ kind: 'valid', session });
    const renewal = old.kind === 'valid' ? old.renewal! : '';
    expect(renewal).toContain('Max-Age=1000');
    expect(renewal).not.toBe(setCookie);
    expect(cookies.read(valueOf(renewal))).toEqual({ kind: 'valid', session, renewal: undefined });
  });

  it('comes however old a cookie is, and not for one of a router whose clock is ahead', () => {
    const { cookies, clock } = create();
    const { session, setCookie } = cookies.issue();
    clock.ms = startMs + 10 * 365 * 86_400_000;
    expect(cookies.read(valueOf(setCookie))).toMatchObject({ kind: 'valid', session, renewal: expect.any(String) as string });
    clock.ms = startMs - 3_600_000;
    expect(cookies.read(valueOf(setCookie))).toEqual({ kind: 'valid', session, renewal: undefined });
  });
});
