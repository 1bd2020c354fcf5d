import { describe, expect, it } from 'vitest';
import { parseHostPort } from './schema.ts';

describe('parseHostPort', () => {
  it.each([
    ['127.0.0.1:9002', '127.0.0.1', 9_002],
    ['localhost:0', 'localhost', 0],
    ['host.example:65535', 'host.example', 65_535],
    ['[::1]:9002', '::1', 9_002],
    ['[2001:db8::1]:80', '2001:db8::1', 80],
  ])('%s', (text, host, port) => {
    expect(parseHostPort(text)).toEqual({ host, port });
  });

  it.each(['', ':', ':9002', '127.0.0.1', '127.0.0.1:', '127.0.0.1:65536', '127.0.0.1:123456', '127.0.0.1:-1', '127.0.0.1:8o', '::1:9002', '[::1]', '[::1]9002', '[]:80', '[127.0.0.1]:80', '[::g]:80', 'a:b:80'])(
    '%j is neither host:port nor [v6]:port',
    (text) => {
      expect(parseHostPort(text)).toBeUndefined();
    },
  );
});
