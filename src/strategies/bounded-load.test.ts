import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor, sessionKey } from '../../test/decision-under-test.ts';
import { bestMax } from '../core/policy.ts';
import { rendezvousColumnsOf, rendezvousOrder } from '../core/rendezvous.ts';
import { bestByClass, boundLoad, byClass } from './bounded-load.ts';

const tokens = { bound: 1.5, slackRequests: 0, load: 'tokens' } as const;

describe('boundLoad', () => {
  it('counts this request in load and mean', () => {
    // 1.5 × (500 + 100) / 2 = 450.
    const [most, more, rest] = endpointsOf({ promptTokens: 351 }, { promptTokens: 350 }, { promptTokens: 149 });
    expect(boundLoad(tokens, [most!, rest!], inputFor([])).within(0)).toBe(false);
    expect(boundLoad(tokens, [more!, { ...rest!, promptTokens: 150 }], inputFor([])).within(0)).toBe(true);
  });

  it('is below where the share of what is there is not exceeded, by weight', () => {
    const [heavy, light] = endpointsOf({ promptTokens: 300, weight: 3 }, { promptTokens: 100 });
    const large = inputFor([], { promptTokens: 1e6 });
    const { below } = boundLoad(tokens, [heavy!, light!], large);
    expect([below(0), below(1)]).toEqual([true, true]);
    const uneven = boundLoad(tokens, [heavy!, { ...light!, promptTokens: 101 }], large);
    expect([uneven.below(0), uneven.below(1)]).toEqual([true, false]);
  });
});

describe('byClass', () => {
  const all = endpointsOf(...Array.from({ length: 30 }, (_, i) => ({ weight: 1 + (i % 3) })));
  const key = sessionKey('s');
  const columns = rendezvousColumnsOf(all, inputFor(all).pool);

  it('puts lower classes first, each in rendezvous order', () => {
    const order = rendezvousOrder(key, all);
    const classOf = (i: number): number => i % 3;
    const expected = [0, 1, 2].flatMap((wanted) => order.filter((endpoint) => classOf(all.indexOf(endpoint)) === wanted));
    expect(byClass(key, all, columns, classOf)).toEqual(expected);
    expect(byClass(key, all, columns, () => 0)).toEqual(order);
  });

  it('finds the best without the rest', () => {
    for (const share of [0, 1, 3, 8, 20, 30]) {
      const classOf = (i: number): number => (i < share ? 0 : 1);
      expect(bestByClass(key, all, columns, 2, classOf)).toEqual(byClass(key, all, columns, classOf).slice(0, bestMax));
    }
  });

  it('says who was within the bound when it was asked, however loads change later', () => {
    const endpoint = { ...all[0]!, promptTokens: 1_000 };
    const { within } = boundLoad(tokens, [endpoint, all[1]!], inputFor([]));
    const before = within(0);
    endpoint.promptTokens = 0;
    expect([before, within(0)]).toEqual([false, false]);
  });
});
