import type { z } from 'zod';
import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { region } from './region.ts';

const at = (place: string | undefined, changes: Partial<EndpointSnapshot> = {}): Partial<EndpointSnapshot> => ({
  ...changes,
  labels: place === undefined ? {} : { region: place },
});
const loaded = { uncachedTokensWaiting: 16_001 };

/** One letter for each endpoint: `+` it may take the request, `-` it is farther than need be. */
function judge(endpoints: readonly EndpointSnapshot[], parameters: Partial<z.input<typeof region.parameters>> = {}, subset?: readonly string[]): string {
  const run = region.create(region.parameters.parse({ order: ['near', 'mid', 'far'], ...parameters }));
  const input = inputFor(endpoints, { facts: { subset: subset && new Set(subset) } });
  return endpoints.map((endpoint) => (run(endpoint, input) === undefined ? '+' : '-')).join('');
}

describe('region', () => {
  it.each<[string, Partial<EndpointSnapshot>[], string]>([
    ['stays near', [at('near'), at('mid'), at('far'), at(undefined), at('elsewhere')], '+----'],
    ['stays near while one there has room', [at('near', loaded), at('near'), at('mid')], '++-'],
    ['opens the next when all near are loaded, and keeps the near ones', [at('near', loaded), at('near', loaded), at('mid'), at('far')], '+++-'],
    ['goes on to what is not named last', [at('near', loaded), at('mid', loaded), at('far', loaded), at('elsewhere'), at(undefined)], '+++++'],
    ['leaves nothing out when all are loaded', [at('near', loaded), at('mid', loaded), at('far', loaded)], '+++'],
    ['takes a region for loaded whose endpoints are down', [at('near', { state: 'not-ready' }), at('near', { state: 'draining' }), at('mid'), at('far')], '+++-'],
    ['or at their limit', [at('near', { full: true }), at('mid'), at('far')], '++-'],
    ['or not there', [at('far'), at('mid'), at(undefined)], '-+-'],
  ])('%s', (_case, endpoints, expected) => {
    expect(judge(endpointsOf(...endpoints))).toBe(expected);
  });

  it('spills above so many waiting tokens for the weight', () => {
    const pool = (waiting: number, weight: number): EndpointSnapshot[] => endpointsOf(at('near', { uncachedTokensWaiting: waiting, weight }), at('mid'));
    expect(judge(pool(1_000, 1), { spillTokens: 1_000 })).toBe('+-');
    expect(judge(pool(1_001, 1), { spillTokens: 1_000 })).toBe('++');
    expect(judge(pool(2_000, 2), { spillTokens: 1_000 })).toBe('+-');
    expect(judge(pool(2_001, 2), { spillTokens: 1_000 })).toBe('++');
  });

  it('spills above so many requests for the weight, where that is asked for', () => {
    const pool = (requests: number): EndpointSnapshot[] => endpointsOf(at('near', { requests, weight: 0.5 }), at('mid'));
    expect(judge(pool(1_000))).toBe('+-');
    expect(judge(pool(4), { spillRequests: 8 })).toBe('+-');
    expect(judge(pool(5), { spillRequests: 8 })).toBe('++');
  });

  it('knows regions by another label', () => {
    const pool = endpointsOf({ labels: { zone: 'far', region: 'near' } }, { labels: { zone: 'near', region: 'far' } });
    expect(judge(pool, { label: 'zone' })).toBe('-+');
  });

  it('does not wait for what the gateway forbids', () => {
    const pool = endpointsOf(at('near'), at('mid'), at('far'));
    expect(judge(pool, {}, [pool[1]!.address, pool[2]!.address])).toBe('++-');
  });

  it('gives its reason', () => {
    const pool = endpointsOf(at('near'), at('mid'));
    expect(region.create(region.parameters.parse({ order: ['near'] }))(pool[1]!, inputFor(pool))).toBe('region-farther');
  });

  it('takes no empty order', () => {
    for (const parameters of [{}, { order: [] }]) expect(region.parameters.safeParse(parameters).success).toBe(false);
  });
});
