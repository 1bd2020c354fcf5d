import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ChurnMap } from './churn-map.ts';

type Step = readonly ['set', key: string | number, value: number] | readonly ['delete' | 'take', key: string | number];

describe('ChurnMap', () => {
  it('does as a Map does, in the same order', () => {
    const key = fc.oneof(fc.nat(40), fc.nat(40).map((n) => `router.${n}`), fc.string({ maxLength: 3 }));
    const step: fc.Arbitrary<Step> = fc.oneof(
      fc.tuple(fc.constant('set' as const), key, fc.nat()),
      fc.tuple(fc.constantFrom('delete' as const, 'take' as const), key),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const ours = new ChurnMap<string | number, number>();
        const theirs = new Map<string | number, number>();
        for (const taken of steps) {
          if (taken[0] === 'set') {
            ours.set(taken[1], taken[2]);
            theirs.set(taken[1], taken[2]);
          } else if (taken[0] === 'take') {
            expect(ours.take(taken[1])).toBe(theirs.get(taken[1]));
            theirs.delete(taken[1]);
          } else {
            expect(ours.delete(taken[1])).toBe(theirs.delete(taken[1]));
          }
          expect([ours.get(taken[1]), ours.has(taken[1]), ours.size]).toEqual([theirs.get(taken[1]), theirs.has(taken[1]), theirs.size]);
        }
        expect(ours.values()).toEqual([...theirs.values()]);
      }),
    );
  });

  it('grows with what it holds, and finds all of it', () => {
    const map = new ChurnMap<string, number>();
    for (let i = 0; i < 5_000; i += 1) map.set(`vm-1a2b3c4d.${i}`, i);
    for (let i = 0; i < 5_000; i += 3) expect(map.delete(`vm-1a2b3c4d.${i}`)).toBe(true);
    for (let i = 0; i < 5_000; i += 1) expect(map.get(`vm-1a2b3c4d.${i}`)).toBe(i % 3 === 0 ? undefined : i);
  });

  it('shows its entries until told to stop, and lets the one that is shown be deleted', () => {
    const map = new ChurnMap<string, number>();
    for (const [i, key] of ['a', 'b', 'c', 'd'].entries()) map.set(key, i);
    const seen: string[] = [];
    map.visit((value, key) => {
      seen.push(key);
      map.delete(key);
      return value < 2;
    });
    expect([seen, map.values()]).toEqual([['a', 'b', 'c'], [3]]);
  });

  it('forgets a value as it deletes it: what is dead keeps nothing alive', () => {
    const map = new ChurnMap<number, { readonly name: string }>();
    for (let i = 0; i < 100; i += 1) {
      map.set(i, { name: String(i) });
      if (i >= 3) map.delete(i - 3);
    }
    expect(map.values().map(({ name }) => name)).toEqual(['97', '98', '99']);
  });
});
