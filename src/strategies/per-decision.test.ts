import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../test/decision-under-test.ts';
import type { DecisionInput } from '../core/policy.ts';
import { perDecision } from './per-decision.ts';

describe('perDecision', () => {
  it('computes once for each input, and never answers for another', () => {
    const asked: DecisionInput[] = [];
    const drawOf = perDecision((input) => {
      asked.push(input);
      return input.draw;
    });
    const [one, other] = [inputFor(endpointsOf({}), { draw: 0.1 }), inputFor(endpointsOf({}), { draw: 0.2 })];
    expect([drawOf(one), drawOf(one), drawOf(other), drawOf(one)]).toEqual([0.1, 0.1, 0.2, 0.1]);
    expect(asked).toEqual([one, other, one]);
  });

  it('computes undefined once, too', () => {
    let times = 0;
    const nothing = perDecision(() => {
      times += 1;
      return undefined;
    });
    const input = inputFor([]);
    nothing(input);
    nothing(input);
    expect(times).toBe(1);
  });
});
