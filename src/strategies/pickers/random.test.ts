import { describe, expect, it } from 'vitest';
import { drawsOf, endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { random } from './random.ts';

const pick = (candidates: readonly EndpointSnapshot[], draw: number, sequence = 0): readonly EndpointSnapshot[] =>
  random.create({})(candidates, candidates.map((_, i) => i), inputFor(candidates, { draw, sequence })).order;

/** How often each comes first, or at another place. */
function shares(candidates: readonly EndpointSnapshot[], draws: readonly number[], place = 0): number[] {
  const counts = candidates.map(() => 0);
  for (const draw of draws) {
    const at = candidates.indexOf(pick(candidates, draw)[place]!);
    counts[at] = counts[at]! + 1;
  }
  return counts;
}

describe('random', () => {
  it('takes each by its weight, whatever it carries', () => {
    const candidates = endpointsOf({ weight: 1, requests: 100 }, { weight: 2 }, { weight: 5, promptTokens: 1e6 });
    const [one, two, five] = shares(candidates, drawsOf(8_000));
    // 1 000, 2 000 and 5 000 expected; standard deviation at most 44.
    expect(Math.abs(one! - 1_000)).toBeLessThan(4 * 30);
    expect(Math.abs(two! - 2_000)).toBeLessThan(4 * 39);
    expect(Math.abs(five! - 5_000)).toBeLessThan(4 * 44);
  });

  it('draws what to try next the same way, not always the neighbour', () => {
    const candidates = endpointsOf({}, {}, {}, {});
    for (const count of shares(candidates, drawsOf(4_000), 1)) expect(Math.abs(count - 1_000)).toBeLessThan(4 * 28);
  });

  it('is even for draws that are close', () => {
    const candidates = endpointsOf({}, {}, {}, {});
    const close = drawsOf(4_000).map((draw) => 0.7 + draw / 1_000);
    for (const count of shares(candidates, close)) expect(Math.abs(count - 1_000)).toBeLessThan(4 * 28);
  });

  it('hangs on the draw alone', () => {
    const candidates = endpointsOf({}, {}, {});
    for (const draw of drawsOf(20)) expect(pick(candidates, draw, 7)).toEqual(pick(candidates, draw, 0));
  });
});
