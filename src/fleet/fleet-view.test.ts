import { describe, expect, it } from 'vitest';
import type { EndpointDefinition } from './endpoint.ts';
import { FleetPool, FleetView } from './fleet-view.ts';

const define = (address: string): EndpointDefinition => ({ address, weight: 2, labels: { gpu: 'h100' }, requestsMax: 4 });

describe('FleetPool', () => {
  it('sorts by address, whatever order it was configured in', () => {
    const addresses = ['10.0.0.10:80', '10.0.0.2:80', '10.0.0.1:80', '[::1]:80'];
    const pool = (order: readonly string[]): string[] => new FleetPool({ name: 'chat', endpoints: order.map(define) }).endpoints.map(({ address }) => address);
    expect(pool(addresses)).toEqual(['10.0.0.10:80', '10.0.0.1:80', '10.0.0.2:80', '[::1]:80']);
    expect(pool([...addresses].reverse())).toEqual(pool(addresses));
  });

  it('does not touch the definition', () => {
    const endpoints = Object.freeze([define('10.0.0.2:80'), define('10.0.0.1:80')]);
    expect(() => new FleetPool({ name: 'chat', endpoints })).not.toThrow();
  });

  it('finds endpoints by address', () => {
    const pool = new FleetPool({ name: 'chat', endpoints: [define('10.0.0.1:80')] });
    expect(pool.endpoint('10.0.0.1:80')).toBe(pool.endpoints[0]);
    expect(pool.endpoint('10.0.0.1:81')).toBeUndefined();
  });

  describe('mean prompt', () => {
    const learned = (...tokens: number[]): number => {
      const pool = new FleetPool({ name: 'chat', endpoints: [] });
      for (const count of tokens) pool.learnPromptTokens(count);
      return pool.promptTokensMean;
    };

    it.each([
      ['nothing seen: 1, since no request is free', [], 1],
      ['the first counts wholly', [640], 640],
      ['later ones by a 64th', [640, 1_280], 650],
      ['never below 1', [0, 0], 1],
    ])('%s', (_case, tokens, mean) => {
      expect(learned(...tokens)).toBe(mean);
    });

    it('follows a change', () => {
      expect(learned(100, ...new Array<number>(500).fill(2_000))).toBeGreaterThan(1_990);
    });
  });
});

describe('FleetView', () => {
  it('finds pools by name, in the order of their definition', () => {
    const view = new FleetView([
      { name: 'b', endpoints: [] },
      { name: 'a', endpoints: [] },
    ]);
    expect([...view.pools.keys()]).toEqual(['b', 'a']);
    expect(view.pool('a')?.name).toBe('a');
    expect(view.pool('c')).toBeUndefined();
  });
});
