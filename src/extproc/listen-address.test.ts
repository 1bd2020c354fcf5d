import { describe, expect, it } from 'vitest';
import { isLocal, parseListenAddress } from './listen-address.ts';

describe('an address to listen on', () => {
  it.each([
    ['127.0.0.1:9002', { kind: 'tcp', host: '127.0.0.1', port: 9002 }],
    ['[::1]:0', { kind: 'tcp', host: '::1', port: 0 }],
    ['fairlead.example:65535', { kind: 'tcp', host: 'fairlead.example', port: 65_535 }],
    ['unix:/run/fairlead.sock', { kind: 'unix', path: '/run/fairlead.sock' }],
  ])('%s is read', (text, expected) => {
    expect(parseListenAddress(text)).toEqual(expected);
  });

  it.each(['', ':9002', '9002', '127.0.0.1', '127.0.0.1:65536', '127.0.0.1:x', 'unix:fairlead.sock', 'unix:'])('%j is none', (text) => {
    expect(() => parseListenAddress(text)).toThrow();
  });

  it.each([
    ['127.0.0.1:1', true],
    ['127.9.9.9:1', true],
    ['[::1]:1', true],
    ['localhost:1', true],
    ['unix:/a', true],
    ['0.0.0.0:1', false],
    ['[::]:1', false],
    ['10.0.0.1:1', false],
    ['127.0.0.1.example:1', false],
  ])('%s can be reached from this machine alone: %s', (text, expected) => {
    expect(isLocal(parseListenAddress(text))).toBe(expected);
  });
});
