import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor, sessionKey } from '../../../test/decision-under-test.ts';
import { lean } from './lean.ts';

const candidates = endpointsOf({}, {}, {}, {});

const rate = (session: string | undefined, draw = 0, among = candidates): readonly number[] =>
  lean.create({})(among, inputFor(among, { affinityKey: session === undefined ? undefined : sessionKey(session), draw }));

const best = (ratings: readonly number[]): number => ratings.indexOf(Math.max(...ratings));

describe('lean', () => {
  it('hangs on session and endpoint alone, not on the draw', () => {
    for (let i = 0; i < 50; i += 1) expect(rate('alice', i / 50)).toEqual(rate('alice'));
  });

  it('rates an endpoint the same, whichever others there are', () => {
    expect(rate('alice', 0, candidates.slice(1, 3))).toEqual(rate('alice').slice(1, 3));
  });

  it('leans different ways for different sessions, evenly', () => {
    const firsts = [0, 0, 0, 0];
    for (let i = 0; i < 4_000; i += 1) {
      const at = best(rate(`session-${i}`));
      firsts[at] = firsts[at]! + 1;
    }
    // 1 000 expected, standard deviation 27.
    for (const count of firsts) expect(Math.abs(count - 1_000)).toBeLessThan(4 * 27);
  });

  it('without a session leans by the draw, evenly, even by draws that are close', () => {
    expect(rate(undefined, 0.25)).toEqual(rate(undefined, 0.25));
    const firsts = [0, 0, 0, 0];
    for (let i = 0; i < 4_000; i += 1) {
      const at = best(rate(undefined, 0.9 + i / 40_000));
      firsts[at] = firsts[at]! + 1;
    }
    for (const count of firsts) expect(Math.abs(count - 1_000)).toBeLessThan(4 * 27);
  });
});
