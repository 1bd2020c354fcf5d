import { describe, expect, it } from 'vitest';
import { ExplainGate } from './explain-gate.ts';
import type { HeaderMap } from './messages.ts';

const headers = (named: Readonly<Record<string, string>>): HeaderMap => ({
  headers: Object.entries(named).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })),
});
const asking = { 'x-fairlead-explain': '1' };
const token = 'a token of the tests';

describe('ExplainGate', () => {
  const gate = new ExplainGate({ allow: ['10.0.0.0/8', '192.0.2.7', '2001:db8::/32'], token: undefined });

  it.each(['10.0.0.1', '10.255.255.255', '192.0.2.7', '2001:db8::1', '2001:db8:ffff::', '::ffff:10.1.2.3'])('opens for %s', (address) => {
    expect(gate.opens(headers(asking), address)).toBe(true);
  });

  it.each(['11.0.0.1', '192.0.2.8', '2001:db9::1', '::1', '::ffff:11.0.0.1', 'nonsense', '', undefined])('stays shut for %s', (address) => {
    expect(gate.opens(headers(asking), address)).toBe(false);
  });

  it.each([[{}], [{ 'x-fairlead-explain': '0' }], [{ 'x-fairlead-explain': '' }], [{ 'x-fairlead-explain': '11' }]])('stays shut for %j, which does not ask', (named) => {
    expect(gate.opens(headers(named), '10.0.0.1')).toBe(false);
    expect(gate.opens(undefined, '10.0.0.1')).toBe(false);
  });

  it('opens for the token, from anywhere, and for nothing like it', () => {
    const byToken = new ExplainGate({ allow: [], token });
    expect(byToken.opens(headers({ ...asking, 'x-fairlead-explain-token': token }), undefined)).toBe(true);
    for (const wrong of ['', 'a', `${token} `, token.toUpperCase(), token.slice(1)]) {
      expect(byToken.opens(headers({ ...asking, 'x-fairlead-explain-token': wrong }), undefined)).toBe(false);
    }
    expect(byToken.opens(headers({ 'x-fairlead-explain-token': token }), undefined)).toBe(false);
  });

  it('opens for no token where none is set', () => {
    expect(gate.opens(headers({ ...asking, 'x-fairlead-explain-token': '' }), undefined)).toBe(false);
    expect(gate.opens(headers({ ...asking, 'x-fairlead-explain-token': 'undefined' }), undefined)).toBe(false);
  });
});
