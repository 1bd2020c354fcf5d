import { describe, expect, it } from 'vitest';
import { drawsOf, endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { weightedFair } from './weighted-fair.ts';

const pick = (candidates: readonly EndpointSnapshot[], promptTokens: number, draw = 0) =>
  weightedFair.create({})(candidates, [], inputFor(candidates, { promptTokens, draw }));

describe('weighted-fair', () => {
  it('orders by work in flight with this prompt, for the weight, and tells the costs', () => {
    const candidates = endpointsOf({ promptTokens: 900 }, { promptTokens: 2_000, weight: 4 }, { promptTokens: 0 });
    const { order, costs, reason } = pick(candidates, 100);
    expect(costs).toEqual([1_000, 525, 100]);
    expect(order).toEqual([candidates[2], candidates[1], candidates[0]]);
    expect(reason).toBe('least-work-for-weight');
  });

  it('weighs a long prompt more: it goes where a short one would not', () => {
    const candidates = endpointsOf({ promptTokens: 0 }, { promptTokens: 1_000, weight: 4 });
    expect(pick(candidates, 100).order[0]).toBe(candidates[0]);
    expect(pick(candidates, 10_000).order[0]).toBe(candidates[1]);
  });

  it('does not count requests', () => {
    const candidates = endpointsOf({ requests: 50, promptTokens: 100 }, { requests: 1, promptTokens: 200 });
    for (const draw of drawsOf(20)) expect(pick(candidates, 100, draw).order[0]).toBe(candidates[0]);
  });

  it('lets the draw decide among equals', () => {
    const candidates = endpointsOf({}, {}, {}, {});
    const firsts = new Set(drawsOf(4).map((draw) => pick(candidates, 100, draw).order[0]));
    expect(firsts.size).toBe(4);
  });

  it('gives each its share of tokens, however unequal the prompts', () => {
    const weights = [1, 2, 5];
    const tokens = [0, 0, 0];
    drawsOf(800).forEach((draw, i) => {
      const promptTokens = i % 10 === 0 ? 3_000 : 100;
      const candidates = endpointsOf(...weights.map((weight, at) => ({ weight, promptTokens: tokens[at]! })));
      const at = candidates.indexOf(pick(candidates, promptTokens, draw).order[0]!);
      tokens[at] = tokens[at]! + promptTokens;
    });
    const total = 80 * 3_000 + 720 * 100;
    // No farther from its share than one long prompt.
    tokens.forEach((carried, at) => expect(Math.abs(carried - (total * weights[at]!) / 8)).toBeLessThanOrEqual(3_000));
  });
});
