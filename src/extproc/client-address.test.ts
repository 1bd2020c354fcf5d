import { describe, expect, it } from 'vitest';
import { readForwardedAddress, readSourceAddress, toClientNetwork } from './client-address.ts';
import { toStruct } from './messages.ts';

const filter = 'envoy.filters.http.ext_proc';

describe('readSourceAddress', () => {
  it.each([
    ['192.0.2.7:40112', '192.0.2.7'],
    ['192.0.2.7', '192.0.2.7'],
    ['[2001:db8::7]:40112', '2001:db8::7'],
    ['[fe80::1%eth0]:1', 'fe80::1'],
    ['/run/a.sock', undefined],
    ['', undefined],
    ['host.example:80', undefined],
    ['192.0.2.7:1:2', undefined],
  ])('of %j is %j', (text, expected) => {
    expect(readSourceAddress({ [filter]: toStruct({ 'source.address': text }) })).toBe(expected);
  });

  it('is nothing where Envoy does not send it', () => {
    expect(readSourceAddress(undefined)).toBeUndefined();
    expect(readSourceAddress({})).toBeUndefined();
    expect(readSourceAddress({ [filter]: toStruct({ 'source.port': 1 }) })).toBeUndefined();
    expect(readSourceAddress({ [filter]: toStruct({ 'source.address': 1 }) })).toBeUndefined();
  });
});

describe('readForwardedAddress', () => {
  it.each([
    // What Envoy added itself: whatever a client wrote before it does not count.
    ['203.0.113.9', 0, '203.0.113.9'],
    ['198.51.100.1, 203.0.113.9', 0, '203.0.113.9'],
    ['198.51.100.1,203.0.113.9', 0, '203.0.113.9'],
    // One proxy in front: the entry that it added.
    ['forged, 198.51.100.1, 203.0.113.9', 1, '198.51.100.1'],
    ['198.51.100.1, 10.0.0.1, 203.0.113.9', 2, '198.51.100.1'],
    // Came past the proxies.
    ['203.0.113.9', 1, undefined],
    ['2001:db8::7', 0, '2001:db8::7'],
    ['[2001:db8::7]:443', 0, '2001:db8::7'],
    ['198.51.100.1:5555', 0, '198.51.100.1'],
    ['unknown', 0, undefined],
    ['198.51.100.1, ', 0, undefined],
    ['1.2.3.4.5', 0, undefined],
    ['', 0, undefined],
    [undefined, 0, undefined],
    [`${'1.1.1.1,'.repeat(600)}203.0.113.9`, 0, undefined],
  ])('of %j with %i trusted hops is %j', (header, trustedHops, expected) => {
    expect(readForwardedAddress(header, trustedHops)).toBe(expected);
  });
});

describe('toClientNetwork', () => {
  it.each([
    ['192.0.2.7', 64, '192.0.2.7'],
    ['2001:db8:1:2:3:4:5:6', 64, '2001:db8:1:2:0:0:0:0/64'],
    ['2001:0DB8:0001:0002::ffff', 64, '2001:db8:1:2:0:0:0:0/64'],
    ['2001:db8::1', 128, '2001:db8:0:0:0:0:0:1/128'],
    ['2001:db8:abcd:ef12::1', 56, '2001:db8:abcd:ef00:0:0:0:0/56'],
    ['2001:db8:abcd:ffff::1', 50, '2001:db8:abcd:c000:0:0:0:0/50'],
    ['::', 64, '0:0:0:0:0:0:0:0/64'],
    ['::1', 128, '0:0:0:0:0:0:0:1/128'],
    ['1::', 32, '1:0:0:0:0:0:0:0/32'],
    ['::ffff:192.0.2.7', 64, '192.0.2.7'],
    ['::ffff:c000:207', 64, '192.0.2.7'],
    ['64:ff9b::192.0.2.7', 128, '64:ff9b:0:0:0:0:c000:207/128'],
  ])('of %s with %i bits is %s', (address, bits, expected) => {
    expect(toClientNetwork(address, bits)).toBe(expected);
  });

  it('is one for all addresses of a network, in whatever form they come, and another for the next network', () => {
    const forms = ['2001:db8:0:1::1', '2001:DB8:0:1::abcd', '2001:0db8:0000:0001:ffff:ffff:ffff:ffff', '2001:db8:0:1:1:2:192.0.2.1'];
    expect(new Set(forms.map((form) => toClientNetwork(form, 64))).size).toBe(1);
    expect(toClientNetwork('2001:db8:0:2::1', 64)).not.toBe(toClientNetwork(forms[0]!, 64));
  });
});
