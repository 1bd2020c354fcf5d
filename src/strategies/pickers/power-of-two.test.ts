import { describe, expect, it } from 'vitest';
import { drawsOf, endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { powerOfTwo } from './power-of-two.ts';
import { random } from './random.ts';

const pick = (candidates: readonly EndpointSnapshot[], draw: number, scores: readonly number[] = candidates.map(() => 0)): readonly EndpointSnapshot[] =>
  powerOfTwo.create({})(candidates, scores, inputFor(candidates, { draw })).order;
const drawn = (candidates: readonly EndpointSnapshot[], draw: number): readonly EndpointSnapshot[] =>
  random.create({})(candidates, [], inputFor(candidates, { draw })).order;

describe('power-of-two', () => {
  it('takes the better of the first two that are drawn; the rest follow as drawn', () => {
    const candidates = endpointsOf({}, {}, {}, {}, {});
    const scores = [0.3, 0.9, 0.1, 0.5, 0.7];
    for (const draw of drawsOf(200)) {
      const [one, other, ...rest] = drawn(candidates, draw);
      const isOtherBetter = scores[candidates.indexOf(other!)]! > scores[candidates.indexOf(one!)]!;
      expect(pick(candidates, draw, scores)).toEqual([...(isOtherBetter ? [other, one] : [one, other]), ...rest]);
    }
  });

  it('of n takes the best in 2/n of the cases, the worst never', () => {
    const candidates = endpointsOf({}, {}, {}, {}, {}, {}, {}, {});
    const scores = candidates.map((_, i) => i / 8);
    const firsts = drawsOf(4_000).map((draw) => candidates.indexOf(pick(candidates, draw, scores)[0]!));
    expect(firsts).not.toContain(0);
    expect(Math.abs(firsts.filter((at) => at === 7).length - 1_000)).toBeLessThan(4 * 28);
  });

  it('where scores are equal goes by requests for the weight', () => {
    const candidates = endpointsOf({ requests: 3, weight: 4 }, { requests: 2 });
    for (const draw of drawsOf(50)) expect(pick(candidates, draw)).toEqual(candidates);
    const other = endpointsOf({ requests: 9, weight: 4 }, { requests: 1 });
    for (const draw of drawsOf(50)) expect(pick(other, draw)).toEqual([other[1], other[0]]);
  });

  it('where all is equal leaves it to the draw', () => {
    const candidates = endpointsOf({}, {}, {}, {});
    const firsts = candidates.map((candidate) => drawsOf(4_000).filter((draw) => pick(candidates, draw)[0] === candidate).length);
    for (const count of firsts) expect(Math.abs(count - 1_000)).toBeLessThan(4 * 28);
  });

  it('keeps the fullest far below what chance alone would make of it', () => {
    const after = (choose: typeof drawn): number => {
      const requests = new Array<number>(20).fill(0);
      for (const draw of drawsOf(2_000).map((even) => (even * 7_919) % 1)) {
        const candidates = endpointsOf(...requests.map((count) => ({ requests: count })));
        const at = candidates.indexOf(choose(candidates, draw)[0]!);
        requests[at] = requests[at]! + 1;
      }
      return Math.max(...requests);
    };
    // 100 each on average.
    expect(after(drawn)).toBeGreaterThan(110);
    expect(after(pick)).toBeLessThanOrEqual(104);
  });

  it('takes one where there is one', () => {
    const candidates = endpointsOf({});
    expect(powerOfTwo.create({})(candidates, [1], inputFor(candidates))).toEqual({ order: candidates, reason: 'only-one', home: undefined });
  });
});
