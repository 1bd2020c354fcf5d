import { describe, expect, it } from 'vitest';
import { endpointsOf } from '../../test/decision-under-test.ts';
import { type CachedTokens, cachedOf } from './cached-tokens.ts';

const endpoints = endpointsOf({}, {}, {}, {});
const pool = { name: 'chat', endpoints };
const [a, b, c, d] = endpoints;
const byMap: CachedTokens = new Map([[a!.address, 10], [c!.address, 30]]);
const byColumn: CachedTokens = { get: () => undefined, column: { endpoints, tokens: Float64Array.of(10, 0, 30, 40) } };

describe('cachedOf', () => {
  it.each([
    ['all', [a!, b!, c!, d!], [10, 0, 30, 40]],
    ['some', [b!, d!], [0, 40]],
    ['the last', [d!], [40]],
    ['none', [], []],
  ])('picks out of a column what belongs to the candidates: %s', (_, candidates, expected) => {
    expect([...cachedOf(candidates, { pool, cachedTokens: byColumn })]).toEqual(expected);
  });

  it('asks for each where there is no column, or it is that of another list of endpoints', () => {
    expect([...cachedOf([a!, b!, c!], { pool, cachedTokens: byMap })]).toEqual([10, 0, 30]);
    expect([...cachedOf([a!, c!], { pool: { ...pool, endpoints: [...endpoints] }, cachedTokens: { ...byColumn, get: () => 7 } })]).toEqual([7, 7]);
  });

  it('gives an array of its own: who writes to it changes nothing', () => {
    cachedOf(endpoints, { pool, cachedTokens: byColumn }).fill(0);
    expect([...cachedOf(endpoints, { pool, cachedTokens: byColumn })]).toEqual([10, 0, 30, 40]);
  });
});
