import { describe, expect, it } from 'vitest';
import { decide } from '../core/decide.ts';
import { expectedTtftMs, tokensPerMsDefault } from '../core/expected-wait.ts';
import { idleEndpoint } from '../core/fleet-snapshot.ts';
import type { DecisionInput, Policy } from '../core/policy.ts';
import { noFacts } from '../core/request-facts.ts';
import { compareWithShadow, isSampled } from './shadow.ts';

const a = { ...idleEndpoint('10.0.0.1:80'), uncachedTokensWaiting: 4_500, requests: 1, requestsWaiting: 1 };
const b = idleEndpoint('10.0.0.2:80');
const input: DecisionInput = {
  facts: noFacts,
  pool: { name: 'chat', endpoints: [a, b] },
  affinityKey: undefined,
  placedOn: undefined,
  promptTokens: 900,
  cachedTokens: new Map([[a.address, 450]]),
  nowMs: 0,
  draw: 0.5,
  sequence: 0,
};

/** Takes the candidate at an index, or nobody. */
function taking(index: number | undefined): Policy {
  return {
    name: `takes ${index ?? 'nobody'}`,
    filters: index === undefined ? [{ name: 'closed', run: () => 'closed' }] : [],
    scorers: [],
    picker: { name: 'p', run: (candidates) => ({ order: [candidates[index ?? 0]!], reason: 'because', home: undefined }) },
    needs: new Set(),
    wantsFirstToken: false,
  };
}

const compare = (live: number | undefined, shadow: number | undefined): ReturnType<typeof compareWithShadow> =>
  compareWithShadow({ policy: taking(shadow), sample: 1 }, input, decide(taking(live), input));

describe('compareWithShadow', () => {
  it.each([
    [0, 0, 'agree', a.address],
    [0, 1, 'differ', b.address],
    [0, undefined, 'only-live', undefined],
    [undefined, 1, 'only-shadow', b.address],
    [undefined, undefined, 'neither', undefined],
  ] as const)('live takes %s, shadow %s: %s', (live, shadow, outcome, address) => {
    expect(compare(live, shadow)).toMatchObject({ policy: `takes ${shadow ?? 'nobody'}`, outcome, address });
  });

  it('measures both choices by the expected time to first token there, cached part left out', () => {
    expect(compare(0, 1)?.expectedTtftMs).toEqual({
      live: expectedTtftMs(a, 450, tokensPerMsDefault, 0),
      shadow: expectedTtftMs(b, 900, tokensPerMsDefault, 0),
    });
    // 4950 against 900 tokens at 45 a millisecond.
    expect(compare(0, 1)?.expectedTtftMs).toEqual({ live: 110, shadow: 20 });
    expect(compare(undefined, 1)?.expectedTtftMs).toBeUndefined();
  });

  it('catches what the shadow throws, and tells it', () => {
    const bug = new Error('a bug of the shadow');
    const broken: Policy = {
      ...taking(0),
      picker: {
        name: 'p',
        run: () => {
          throw bug;
        },
      },
    };
    expect(compareWithShadow({ policy: broken, sample: 1 }, input, decide(taking(0), input))).toMatchObject({ outcome: 'failed', error: bug });
  });

  it('does nothing where there is no shadow, or the sample leaves the decision out', () => {
    const live = decide(taking(0), input);
    const untouchable = { ...taking(0), filters: [{ name: 'f', run: () => expect.fail('a decision outside the sample was scored') }] };
    expect(compareWithShadow(undefined, input, live)).toBeUndefined();
    expect(compareWithShadow({ policy: untouchable, sample: 0 }, input, live)).toBeUndefined();
  });
});

describe('isSampled', () => {
  it('takes its share, of high draws as of low ones', () => {
    const draws = Array.from({ length: 20_000 }, (_, i) => (i + 0.37) / 20_000);
    for (const sample of [0, 0.1, 0.5, 1]) {
      for (const half of [draws.slice(0, 10_000), draws.slice(10_000)]) {
        const taken = half.filter((draw) => isSampled(sample, draw)).length / half.length;
        expect(taken).toBeGreaterThanOrEqual(sample - 0.02);
        expect(taken).toBeLessThanOrEqual(sample + 0.02);
      }
    }
  });
});
