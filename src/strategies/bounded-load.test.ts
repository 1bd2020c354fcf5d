import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../test/decision-under-test.ts';
import { boundLoad, moveToFront } from './bounded-load.ts';

describe('boundLoad', () => {
  const tokens = { bound: 1.5, slackRequests: 0, load: 'tokens' } as const;

  it('counts this request in load and mean', () => {
    // 1.5 × (500 + 100) / 2 = 450.
    const [most, more, rest] = endpointsOf({ promptTokens: 351 }, { promptTokens: 350 }, { promptTokens: 149 });
    expect(boundLoad(tokens, [most!, rest!], inputFor([])).within(most!)).toBe(false);
    expect(boundLoad(tokens, [more!, { ...rest!, promptTokens: 150 }], inputFor([])).within(more!)).toBe(true);
  });

  it('is below where the share of what is there is not exceeded, by weight', () => {
    const [heavy, light] = endpointsOf({ promptTokens: 300, weight: 3 }, { promptTokens: 100 });
    const { below } = boundLoad(tokens, [heavy!, light!], inputFor([], { promptTokens: 1e6 }));
    expect([below(heavy!), below(light!), below({ ...light!, promptTokens: 101 })]).toEqual([true, true, false]);
  });
});

describe('moveToFront', () => {
  it('keeps both parts in order', () => {
    const all = endpointsOf({}, {}, {}, {});
    const [a, b, c, d] = all;
    expect(moveToFront(all, [b!, d!])).toEqual([b, d, a, c]);
    expect(moveToFront(all, [])).toEqual(all);
    expect(moveToFront(all, all)).toEqual(all);
  });
});
