import { describe, expect, it } from 'vitest';
import { toWorkerAddresses } from './worker-addresses.ts';

const admin = '127.0.0.1:9003';

describe('the addresses of workers', () => {
  it.each([
    ['one worker has the address as written', '127.0.0.1:9002', 1, ['127.0.0.1:9002']],
    ["several take the ports from it on, but for the admin API's", '127.0.0.1:9002', 3, ['127.0.0.1:9002', '127.0.0.1:9004', '127.0.0.1:9005']],
    ['IPv6 stays in brackets', '[::1]:7000', 2, ['[::1]:7000', '[::1]:7001']],
    ['port 0 is any free one for each', '0.0.0.0:0', 2, ['0.0.0.0:0', '0.0.0.0:0']],
    ['a Unix socket gets a number', 'unix:/run/fairlead.sock', 2, ['unix:/run/fairlead.sock.0', 'unix:/run/fairlead.sock.1']],
    ['a Unix socket of one worker does not', 'unix:/run/fairlead.sock', 1, ['unix:/run/fairlead.sock']],
    ['the last port there is can be had', '127.0.0.1:65534', 2, ['127.0.0.1:65534', '127.0.0.1:65535']],
  ] as const)('%s', (_, grpc, workers, expected) => {
    expect(toWorkerAddresses({ grpc, admin }, workers)).toEqual(expected);
  });

  it('says so where the ports run out', () => {
    expect(toWorkerAddresses({ grpc: '127.0.0.1:65535', admin }, 2)).toBe('expected a lower port: 2 workers take those up to 65536');
  });
});
