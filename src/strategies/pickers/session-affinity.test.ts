import { describe, expect, it } from 'vitest';
import { inputFor } from '../../../test/decision-under-test.ts';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import { createAffinityHasher } from '../../core/hash.ts';
import type { DecisionInput, Preference } from '../../core/policy.ts';
import { rendezvousOrder } from '../../core/rendezvous.ts';
import { sessionAffinity } from './session-affinity.ts';

const hash = createAffinityHasher('test-secret');
const key = hash('', 'alice');

interface Written {
  readonly requests?: number;
  readonly promptTokens?: number;
  readonly weight?: number;
}

/**
 * Endpoints by the order in which the session of `key` prefers them: `[0]` is its home. With unequal weights the order that
 * the weights give is checked instead of assumed.
 */
function preferred(...written: readonly Written[]): EndpointSnapshot[] {
  const bare = written.map((_, i) => idleEndpoint(`10.0.0.${i + 1}:80`));
  const endpoints = rendezvousOrder(key, bare).map((member, i): EndpointSnapshot => ({ ...member, ...written[i] }));
  expect(rendezvousOrder(key, endpoints)).toEqual(endpoints);
  return endpoints;
}

function pick(
  parameters: { bound?: number; slackRequests?: number; load?: 'tokens' | 'requests' },
  endpoints: readonly EndpointSnapshot[],
  changes: Partial<DecisionInput> = {},
  scores: readonly number[] = endpoints.map(() => 1),
): Preference & { at: number[] } {
  // Candidates come sorted by address, never by preference.
  const candidates = [...endpoints].sort((x, y) => (x.address < y.address ? -1 : 1));
  const run = sessionAffinity.create(sessionAffinity.parameters.parse(parameters));
  const preference = run(
    candidates,
    candidates.map((candidate) => scores[endpoints.indexOf(candidate)]!),
    inputFor(candidates, { affinityKey: key, ...changes }),
  );
  return { ...preference, at: preference.order.map((endpoint) => endpoints.indexOf(endpoint)) };
}

describe('session-affinity', () => {
  it('sends a session home, with the rest of its preference to fall back on', () => {
    const endpoints = preferred({}, {}, {}, {});
    expect(pick({}, endpoints)).toMatchObject({ at: [0, 1, 2, 3], reason: 'affinity-home', home: endpoints[0]?.address });
  });

  it('hangs on the session alone: not on draw, order of arrival, time or score', () => {
    const endpoints = preferred({}, {}, {}, {});
    for (let i = 0; i < 200; i += 1) {
      const changes = { draw: (i * 0.6180339887) % 1, sequence: i, nowMs: i * 1_000 };
      expect(pick({}, endpoints, changes, [0, i % 2, 1, 0.5]).at).toEqual([0, 1, 2, 3]);
    }
  });

  it('gives different sessions different homes', () => {
    const endpoints = preferred({}, {}, {}, {});
    const homes = new Set(Array.from({ length: 50 }, (_, i) => pick({}, endpoints, { affinityKey: hash('', `session-${i}`) }).home));
    expect(homes.size).toBe(4);
  });

  describe('bound, in tokens', () => {
    // With 300 on each of the others and 100 of its own, 1.5 × the mean is reached at 440: 540 = 1.5 × 1440 / 4.
    const bounded = { bound: 1.5, slackRequests: 0 };
    const loads = (home: number): EndpointSnapshot[] => preferred({ promptTokens: home }, { promptTokens: 300 }, { promptTokens: 300 }, { promptTokens: 300 });

    it('stays home up to the bound, this request included', () => {
      expect(pick(bounded, loads(440))).toMatchObject({ at: [0, 1, 2, 3], reason: 'affinity-home' });
    });

    it('goes to the next above it; home is tried last and stays home', () => {
      const endpoints = loads(441);
      expect(pick(bounded, endpoints)).toMatchObject({ at: [1, 2, 3, 0], reason: 'affinity-diverted', home: endpoints[0]?.address });
    });

    it('skips all that are above it', () => {
      const endpoints = preferred({ promptTokens: 900 }, { promptTokens: 900 }, { promptTokens: 10 }, { promptTokens: 10 });
      expect(pick(bounded, endpoints)).toMatchObject({ at: [2, 3, 0, 1], reason: 'affinity-diverted' });
    });

    it('counts tokens, not requests', () => {
      const tokens = { promptTokens: 300 };
      expect(pick(bounded, preferred({ ...tokens, requests: 50 }, tokens, tokens, tokens)).reason).toBe('affinity-home');
    });

    it('a bigger request diverts sooner', () => {
      expect(pick(bounded, loads(400), { promptTokens: 100 }).reason).toBe('affinity-home');
      expect(pick(bounded, loads(400), { promptTokens: 200 }).reason).toBe('affinity-diverted');
    });
  });

  describe('bound, in requests', () => {
    const counted = { bound: 1.5, slackRequests: 0, load: 'requests' } as const;

    it('counts requests, not tokens', () => {
      // 3 + 1 ≤ 1.5 × 8 / 3 and no more.
      expect(pick(counted, preferred({ requests: 3, promptTokens: 1e6 }, { requests: 2 }, { requests: 2 })).reason).toBe('affinity-home');
      expect(pick(counted, preferred({ requests: 4 }, { requests: 2 }, { requests: 2 })).reason).toBe('affinity-diverted');
    });
  });

  describe('slack', () => {
    const slack = { bound: 1.5, slackRequests: 4, load: 'requests' } as const;

    it('keeps a session home while little is in flight, where the factor alone would not', () => {
      const endpoints = preferred({ requests: 4 }, {});
      expect(pick({ ...slack, slackRequests: 0 }, endpoints).reason).toBe('affinity-diverted');
      expect(pick(slack, endpoints).reason).toBe('affinity-home');
    });

    it('ends at mean + slack', () => {
      // 8 ≤ 8/2 + 4, but 9 > 9/2 + 4.
      expect(pick(slack, preferred({ requests: 7 }, {})).reason).toBe('affinity-home');
      expect(pick(slack, preferred({ requests: 8 }, {})).reason).toBe('affinity-diverted');
    });

    it('is so many average requests when tokens are counted', () => {
      // 9 requests of 100 tokens and this one: one average request is 100, mean 500, so home may carry 900.
      const tokens = { bound: 1, slackRequests: 4 };
      expect(pick(tokens, preferred({ requests: 8, promptTokens: 800 }, { requests: 1, promptTokens: 100 })).reason).toBe('affinity-home');
      expect(pick(tokens, preferred({ requests: 9, promptTokens: 900 }, {})).reason).toBe('affinity-diverted');
    });

    it('is 2 requests with a bound of 1.25 unless said otherwise', () => {
      expect(sessionAffinity.parameters.parse({})).toEqual({ bound: 1.25, slackRequests: 2, load: 'tokens' });
    });
  });

  describe('placed elsewhere', () => {
    const bounded = { bound: 1.5, slackRequests: 0 };

    it('stays where its cache is now, though home has room again', () => {
      const endpoints = preferred({}, {}, { promptTokens: 50 }, { promptTokens: 250 });
      expect(pick(bounded, endpoints, { placedOn: endpoints[2]!.address })).toMatchObject({
        at: [2, 0, 1, 3],
        reason: 'affinity-placed',
        home: endpoints[0]?.address,
      });
    });

    it('leaves for home when the place is above the bound', () => {
      const endpoints = preferred({}, {}, { promptTokens: 900 }, {});
      expect(pick(bounded, endpoints, { placedOn: endpoints[2]!.address })).toMatchObject({ at: [0, 1, 3, 2], reason: 'affinity-home' });
    });

    it('leaves for the next with room when home is above the bound too', () => {
      const endpoints = preferred({ promptTokens: 900 }, {}, { promptTokens: 900 }, {});
      expect(pick(bounded, endpoints, { placedOn: endpoints[2]!.address })).toMatchObject({ at: [1, 3, 0, 2], reason: 'affinity-diverted' });
    });

    it('ignores a place that is no candidate', () => {
      const endpoints = preferred({}, {}, {});
      expect(pick({}, endpoints, { placedOn: '192.0.2.1:80' })).toMatchObject({ at: [0, 1, 2], reason: 'affinity-home' });
    });
  });

  it('follows the preference when all are above the bound', () => {
    const endpoints = preferred({ promptTokens: 500 }, { promptTokens: 500 }, { promptTokens: 500 });
    expect(pick({ bound: 1, slackRequests: 0 }, endpoints)).toMatchObject({ at: [0, 1, 2], reason: 'affinity-all-over-bound', home: endpoints[0]?.address });
  });

  describe('without a session', () => {
    it('the score decides, here that of the fewest requests', () => {
      const endpoints = preferred({ requests: 3 }, { requests: 0 }, { requests: 1 });
      const scores = [1 / 4, 1, 1 / 2];
      for (const draw of [0, 0.4, 0.99]) {
        expect(pick({}, endpoints, { affinityKey: undefined, draw }, scores)).toMatchObject({ at: [1, 2, 0], reason: 'no-session', home: undefined });
      }
    });

    it('the draw decides among equals', () => {
      const endpoints = preferred({}, {}, {});
      const firsts = new Set([0, 0.34, 0.67].map((draw) => pick({}, endpoints, { affinityKey: undefined, draw }).at[0]));
      expect(firsts.size).toBe(3);
    });

    it('a place means nothing', () => {
      const endpoints = preferred({}, {});
      expect(pick({}, endpoints, { affinityKey: undefined, placedOn: endpoints[1]!.address }, [1, 0])).toMatchObject({ at: [0, 1], reason: 'no-session' });
    });
  });

  describe('weights', () => {
    it('give a home of three times the weight three times the bound', () => {
      const bounded = { bound: 1, slackRequests: 0 };
      // 3 of a weight of 5: home may carry 600 of 1 000.
      const endpoints = (home: number): EndpointSnapshot[] =>
        preferred({ weight: 3, promptTokens: home }, { promptTokens: 50 }, { promptTokens: 850 - home });
      expect(pick(bounded, endpoints(500))).toMatchObject({ reason: 'affinity-home' });
      expect(pick(bounded, endpoints(501))).toMatchObject({ reason: 'affinity-diverted', at: [1, 0, 2] });
    });

    it('draw homes', () => {
      const endpoints = preferred({ weight: 3 }, { weight: 1 });
      let heavy = 0;
      for (let i = 0; i < 1_000; i += 1) {
        if (pick({}, endpoints, { affinityKey: hash('', `session-${i}`) }).home === endpoints[0]?.address) heavy += 1;
      }
      // 750 expected, standard deviation 14.
      expect(Math.abs(heavy - 750)).toBeLessThan(4 * 14);
    });
  });

  it('takes one endpoint, however full', () => {
    expect(pick({ bound: 1, slackRequests: 0 }, preferred({ promptTokens: 1e9 }))).toMatchObject({ at: [0], reason: 'affinity-home' });
  });
});
