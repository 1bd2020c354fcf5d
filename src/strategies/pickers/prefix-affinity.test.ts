import type { z } from 'zod';
import { describe, expect, it } from 'vitest';
import { drawsOf, endpointsOf, inputFor, sessionKey } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import type { DecisionInput, Preference } from '../../core/policy.ts';
import { prefixBlockTokens } from '../../core/request-facts.ts';
import { CacheView } from '../../fleet/cache-view.ts';
import { prefixAffinity } from './prefix-affinity.ts';

interface Prompt {
  readonly blocks?: readonly number[];
  readonly tokens?: number;
  /** Blocks cached on each endpoint. */
  readonly cached?: readonly number[];
}

function pick(
  endpoints: readonly EndpointSnapshot[],
  { blocks = [], tokens = blocks.length * prefixBlockTokens + 1, cached = [] }: Prompt,
  changes: Partial<DecisionInput> = {},
  parameters: Partial<z.input<typeof prefixAffinity.parameters>> = {},
  scores: readonly number[] = endpoints.map(() => 1),
): Preference & { at: number[] } {
  const input = inputFor(endpoints, {
    promptTokens: tokens,
    cachedTokens: new Map(cached.map((count, i) => [endpoints[i]!.address, count * prefixBlockTokens])),
    ...changes,
    facts: { prefixHashes: blocks, promptTokens: tokens },
  });
  const preference = prefixAffinity.create(prefixAffinity.parameters.parse(parameters))(endpoints, scores, input);
  return { ...preference, at: preference.order.map((endpoint) => endpoints.indexOf(endpoint)) };
}

const four = endpointsOf({}, {}, {}, {});
/** Blocks that nobody else has. */
const own = (seed: number, count: number): number[] => Array.from({ length: count }, (_, i) => seed * 1_000_003 + i * 7_919 + 12_345_678_901);

describe('prefix-affinity', () => {
  it('follows the longest cached part', () => {
    expect(pick(four, { blocks: own(1, 10), cached: [0, 6, 9, 7] })).toMatchObject({ reason: 'prefix-cached', home: undefined });
    expect(pick(four, { blocks: own(1, 10), cached: [0, 6, 9, 7] }).at[0]).toBe(2);
  });

  it('sends new content to the home of its first block, the same for every draw, order of arrival and score', () => {
    const prompt = { blocks: own(1, 10) };
    const { at, reason } = pick(four, prompt);
    expect(reason).toBe('prefix-home');
    for (const draw of drawsOf(50)) expect(pick(four, prompt, { draw, sequence: Math.floor(draw * 100) }, {}, [draw, 0, 0.5, 1]).at).toEqual(at);
    // What follows the first block does not matter while nothing is cached.
    expect(pick(four, { blocks: [own(1, 1)[0]!, ...own(2, 5)] }).at).toEqual(at);
  });

  it('spreads different content over all', () => {
    const firsts = Array.from({ length: 4_000 }, (_, i) => pick(four, { blocks: own(i, 3) }).at[0]);
    for (const at of [0, 1, 2, 3]) expect(Math.abs(firsts.filter((first) => first === at).length - 1_000)).toBeLessThan(4 * 28);
  });

  describe('a part common to all', () => {
    const common = own(0, 4);
    const firstsOf = (cached: readonly number[]): number[] =>
      Array.from({ length: 400 }, (_, i) => pick(four, { blocks: [...common, ...own(i + 1, 60)], cached }).at[0]!);

    it.each([
      ['cached nowhere but once', [4, 0, 0, 0]],
      ['cached on two', [4, 0, 4, 0]],
      ['cached everywhere', [4, 4, 4, 4]],
    ])('does not draw prompts together: %s', (_case, cached) => {
      const firsts = firstsOf(cached);
      // 100 expected, standard deviation 9.
      for (const at of [0, 1, 2, 3]) expect(Math.abs(firsts.filter((first) => first === at).length - 100)).toBeLessThan(4 * 9);
    });

    it('counts for nothing where all hold it: a conversation of its own is followed, though short beside it', () => {
      const long = own(0, 40);
      const prompt = { blocks: [...long, ...own(1, 4)], cached: [40, 40, 43, 40] };
      expect(pick(four, prompt)).toMatchObject({ reason: 'prefix-cached' });
      expect(pick(four, prompt).at[0]).toBe(2);
    });

    it('that is nearly all of the prompts spreads over those that hold it', () => {
      const long = own(0, 19);
      const firsts = Array.from({ length: 400 }, (_, i) => pick(four, { blocks: [...long, ...own(i + 1, 1)], cached: [19, 0, 19, 0] }).at[0]!);
      expect(new Set(firsts)).toEqual(new Set([0, 2]));
      expect(Math.abs(firsts.filter((first) => first === 0).length - 200)).toBeLessThan(4 * 10);
    });

    it('and spreads to others as load grows, until each carries its bound', () => {
      const cache = new CacheView(4);
      const tokens = [0, 0, 0, 0];
      for (let i = 0; i < 40; i += 1) {
        // The same nine blocks, and a block of its own.
        const blocks = [...own(0, 9), ...own(i + 1, 1)];
        const endpoints = endpointsOf(...tokens.map((promptTokens) => ({ promptTokens, requests: promptTokens / 5_121 })));
        const prompt = { keyId: undefined, promptTokens: 5_121, prefixHashes: blocks };
        const { at } = pick(endpoints, { blocks }, { cachedTokens: cache.cachedTokens(prompt) });
        cache.note(endpoints[at[0]!]!.address, prompt);
        tokens[at[0]!] = tokens[at[0]!]! + 5_121;
      }
      // 10 requests each on average: at most a quarter or two more.
      for (const carried of tokens) expect(carried / 5_121).toBeLessThanOrEqual(12.5);
      expect(Math.min(...tokens) / 5_121).toBeGreaterThanOrEqual(5);
    });
  });

  it('keeps a conversation where it is, turn by turn', () => {
    const cache = new CacheView(4);
    const system = own(0, 1);
    const homes = new Set<number>();
    let staying = 0;
    for (let conversation = 1; conversation <= 40; conversation += 1) {
      const places = new Set<number>();
      for (let turn = 1; turn <= 5; turn += 1) {
        const blocks = [...system, ...own(conversation, 2 * turn)];
        const prompt = { keyId: undefined, promptTokens: blocks.length * prefixBlockTokens + 50, prefixHashes: blocks };
        const { at } = pick(four, { blocks, tokens: prompt.promptTokens }, { cachedTokens: cache.cachedTokens(prompt) });
        cache.note(four[at[0]!]!.address, prompt);
        places.add(at[0]!);
      }
      if (places.size === 1) staying += 1;
      for (const place of places) homes.add(place);
    }
    // A second turn twice as long as the first may be sent away by its hash, rarely.
    expect(staying).toBeGreaterThanOrEqual(34);
    expect(homes.size).toBe(4);
  });

  describe('bound', () => {
    const loaded = (promptTokens: number): EndpointSnapshot[] => endpointsOf({ promptTokens, requests: 1 }, { promptTokens: 3_000, requests: 1 }, { promptTokens: 3_000, requests: 1 });
    const prompt = { blocks: own(1, 1), tokens: 1_000, cached: [1, 0, 0] };
    const bounded = { bound: 1.5, slackRequests: 0 };

    it('is kept by what is cached, this prompt included', () => {
      // 1.5 × (x + 7 000) / 3 ≥ x + 1 000 up to 5 000.
      expect(pick(loaded(5_000), prompt, {}, bounded)).toMatchObject({ reason: 'prefix-cached' });
      expect(pick(loaded(5_000), prompt, {}, bounded).at[0]).toBe(0);
      const over = pick(loaded(5_001), prompt, {}, bounded);
      expect(over.at[2]).toBe(0);
      expect(over.reason).toMatch(/^prefix-(home|diverted)$|^no-prefix$/);
    });

    it('falls back on the next longest part', () => {
      const { at, reason } = pick(loaded(9_000), { ...prompt, blocks: own(1, 10), tokens: 1_000, cached: [2, 0, 1.5] }, {}, bounded);
      expect([at, reason]).toEqual([[2, 1, 0], 'prefix-partly-cached']);
    });

    it('is kept by homes', () => {
      const fresh = { blocks: own(5, 3), tokens: 1_600 };
      const home = pick(four, fresh).at[0]!;
      const endpoints = endpointsOf(...four.map((_, i) => ({ promptTokens: i === home ? 20_000 : 3_000, requests: 2 })));
      const { at, reason } = pick(endpoints, fresh, {}, bounded);
      expect([at[3], reason]).toEqual([home, 'prefix-diverted']);
    });

    it('gives way where a prompt exceeds all of it, but not to the fullest', () => {
      const endpoints = endpointsOf({ promptTokens: 400 }, { promptTokens: 10 }, { promptTokens: 10 });
      const { at, reason } = pick(endpoints, { blocks: own(1, 40), cached: [40, 0, 0] }, {}, { bound: 1, slackRequests: 0 });
      expect(reason).toBe('prefix-all-over-bound');
      expect(at[2]).toBe(0);
    });
  });

  it.each([
    [0.09, 0.1, 0],
    [0.325, 0.1, 1 - 0.75 ** 4],
    [0.55, 0.1, 1 - 0.5 ** 4],
    [0.91, 0.1, 1 - 0.1 ** 4],
    [0.6, 0.2, 1 - 0.5 ** 4],
    [0.19, 0.2, 0],
    [0.5, 0, 1 - 0.5 ** 4],
  ])('follows a cached share of %d with a matchShare of %d in %d of the cases that the hash sends elsewhere', (share, matchShare, followed) => {
    const fifty = endpointsOf(...new Array<object>(50).fill({}));
    const tokens = 512_000;
    const follows = Array.from({ length: 1_000 }, (_, i) => {
      // So many blocks that the one after what is cached is always known.
      const blocks = own(i, 1_000);
      return pick(fifty, { blocks, tokens, cached: [1_000 * share] }, {}, { matchShare }).reason === 'prefix-cached';
    });
    expect(Math.abs(follows.filter((one) => one).length - 1_000 * followed)).toBeLessThan(4 * 16);
    if (followed === 0) expect(follows).not.toContain(true);
  });

  it('takes the key from the block after the longest cached part, even where a prompt ends with a block', () => {
    // Of 2 048 tokens all but the last are cached: no block is left that could tell, and least of all one that is cached.
    const all = Array.from({ length: 4 }, () => 2_047 / prefixBlockTokens);
    expect(pick(four, { blocks: own(7, 4), tokens: 2_048, cached: all }).reason).toBe('no-prefix');
    const further = (seed: number): number[] => [...own(7, 3), ...own(seed, 1)];
    const firsts = new Set(Array.from({ length: 60 }, (_, i) => pick(four, { blocks: further(i), tokens: 2_048, cached: [3, 3, 3, 3] }).at[0]));
    expect(firsts.size).toBe(4);
  });

  it('prefers the session as the key: what is sent away goes to the same place turn by turn', () => {
    const affinityKey = sessionKey('alice');
    const home = pick(four, { tokens: 300 }, { affinityKey }).at;
    for (let i = 0; i < 20; i += 1) expect(pick(four, { blocks: own(i, 5) }, { affinityKey })).toMatchObject({ at: home, reason: 'prefix-home' });
  });

  describe('without blocks', () => {
    it('the session tells', () => {
      const affinityKey = sessionKey('alice');
      const { at, reason } = pick(four, { tokens: 300 }, { affinityKey });
      expect(reason).toBe('prefix-home');
      for (const draw of drawsOf(20)) expect(pick(four, { tokens: 300 }, { affinityKey, draw }).at).toEqual(at);
    });

    it('what the session left behind is followed', () => {
      const { at, reason } = pick(four, { tokens: 4_000, cached: [0, 0, 0, 6] }, { affinityKey: sessionKey('alice') });
      expect([at[0], reason]).toEqual([3, 'prefix-cached']);
    });

    it('nor a session, the score tells, and the draw among equals', () => {
      expect(pick(four, { tokens: 300 }, {}, {}, [0.1, 0.5, 0.9, 0.2])).toMatchObject({ at: [2, 1, 3, 0], reason: 'no-prefix' });
      expect(new Set(drawsOf(4).map((draw) => pick(four, { tokens: 300 }, { draw }).at[0])).size).toBe(4);
    });
  });
});
