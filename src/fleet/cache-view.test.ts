import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { idleEndpoint } from '../core/fleet-snapshot.ts';
import { prefixBlockTokens } from '../core/request-facts.ts';
import { blocksPerEndpointDefault, CacheView, type CachedPrompt } from './cache-view.ts';

const one = '10.0.0.1:80';
const two = '10.0.0.2:80';
const three = '10.0.0.3:80';
const four = '10.0.0.4:80';

/** A prompt whose body was read: these blocks, and half a block after them. */
const read = (prefixHashes: readonly number[], keyId?: string): CachedPrompt => ({ keyId, promptTokens: (prefixHashes.length + 0.5) * prefixBlockTokens, prefixHashes });
/** One whose body was not. */
const unread = (keyId: string | undefined, promptTokens: number): CachedPrompt => ({ keyId, promptTokens, prefixHashes: [] });
const cached = (view: CacheView, prompt: CachedPrompt): Record<string, number> => Object.fromEntries(view.cachedTokens(prompt));
/** Blocks that no other prompt has. */
const blocks = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);

describe('a prompt whose body was read', () => {
  it('is cached as far as its leading blocks were sent to an endpoint, by whatever prompts', () => {
    const view = new CacheView(4);
    view.note(one, read([1, 2, 3]));
    view.note(two, read([1, 2, 9]));
    view.note(three, read([7, 2, 3]));
    expect(cached(view, read([1, 2, 3, 4]))).toEqual({ [one]: 3 * prefixBlockTokens, [two]: 2 * prefixBlockTokens });
    view.note(two, read([1, 2, 3, 4]));
    expect(cached(view, read([1, 2, 3, 4]))[two]).toBe(4 * prefixBlockTokens);
    expect(cached(view, read([8]))).toEqual({});
  });

  it('is known by its blocks alone: where its session was says nothing more', () => {
    const view = new CacheView(4);
    view.note(one, read([1, 2], 's'));
    view.note(two, unread('s', 5_000));
    expect(cached(view, read([8, 9], 's'))).toEqual({});
  });

  it('has at least one token left to compute, however short it says it is', () => {
    const view = new CacheView(4);
    view.note(one, read(blocks(1, 10)));
    expect(cached(view, { ...read(blocks(1, 10)), promptTokens: 10 * prefixBlockTokens })[one]).toBe(10 * prefixBlockTokens - 1);
    expect(cached(view, { ...read(blocks(1, 10)), promptTokens: 2 })[one]).toBe(1);
    for (const promptTokens of [1, 0]) expect(cached(view, { ...read(blocks(1, 10)), promptTokens })).toEqual({});
  });
});

describe('a prompt whose body was not read', () => {
  it('without a session is not known at all', () => {
    const view = new CacheView(4);
    view.note(one, read([1, 2]));
    expect(cached(view, unread(undefined, 9_000))).toEqual({});
    expect(cached(view, unread('new', 9_000))).toEqual({});
  });

  it("is cached where its session was, as long as its prompt was then, at the session's last three endpoints", () => {
    const view = new CacheView(4);
    view.note(one, unread('s', 1_000));
    view.note(two, unread('s', 2_000));
    view.note(one, unread('s', 3_000));
    expect(cached(view, unread('s', 9_000))).toEqual({ [one]: 3_000, [two]: 2_000 });
    view.note(three, unread('s', 4_000));
    view.note(four, unread('s', 5_000));
    expect(cached(view, unread('s', 9_000))).toEqual({ [one]: 3_000, [three]: 4_000, [four]: 5_000 });
    expect(cached(view, unread('s', 3_500))).toEqual({ [one]: 3_000, [three]: 3_499, [four]: 3_499 });
    expect(cached(view, unread('other', 9_000))).toEqual({});
  });

  it('is cached as well where others brought the first block that sets it apart, once its body was seen', () => {
    const view = new CacheView(4);
    // A document that two sessions ask about.
    view.note(one, read(blocks(100, 4), 'first'));
    view.note(two, read([...blocks(100, 4), 500], 'second'));
    view.note(three, read([900], 'third'));
    view.note(four, read([901], 'fourth'));
    view.note(two, read([...blocks(100, 4), 600], 'third'));
    const { [one]: byOther, [two]: byItself } = cached(view, unread('third', 100_000));
    expect(byOther).toBeGreaterThanOrEqual(prefixBlockTokens);
    expect(byItself).toBe(5.5 * prefixBlockTokens);
  });

  it('by a system prompt that all have is not taken for cached by more than that prompt, wherever its session never was', () => {
    const view = new CacheView(4);
    const system = blocks(1, 4);
    const endpoints = [one, two, three, four];
    // Each session's own turns follow the common prompt.
    for (let i = 0; i < 40; i += 1) view.note(endpoints[i % 4]!, read([...system, ...blocks(1_000 * (i + 1), 6)], `s${i}`));
    for (let i = 4; i < 40; i += 1) {
      // Its distinct block comes after the common ones, and only its own endpoint has it.
      expect(cached(view, unread(`s${i}`, 100_000))).toEqual({ [endpoints[i % 4]!]: 10.5 * prefixBlockTokens });
    }
    // The first ones came before anyone could know that the prompt is common: at worst its first block is counted everywhere.
    for (let i = 0; i < 4; i += 1) {
      const { [endpoints[i]!]: here, ...elsewhere } = cached(view, unread(`s${i}`, 100_000));
      expect(here).toBe(10.5 * prefixBlockTokens);
      for (const tokens of Object.values(elsewhere)) expect(tokens).toBeLessThanOrEqual(system.length * prefixBlockTokens);
    }
  });

  it('brings its distinct block along to where it is sent, for others to find', () => {
    const view = new CacheView(4);
    view.note(one, read([1, 2], 's'));
    view.note(two, unread('s', 2_000));
    view.note(three, read([900]));
    view.note(four, read([901]));
    view.note(one, read([1, 3], 't'));
    expect(cached(view, unread('t', 9_000))).toEqual({ [one]: 2.5 * prefixBlockTokens, [two]: prefixBlockTokens });
  });

  it('keeps its distinct block while turns go by unread, and takes another where the prompt begins otherwise', () => {
    const view = new CacheView(4);
    view.note(one, read([1, 2, 3], 's'));
    view.note(two, unread('s', 2_000));
    view.note(three, read([1, 5], 't'));
    expect(cached(view, unread('s', 9_000))).toEqual({ [one]: 3.5 * prefixBlockTokens, [two]: 2_000, [three]: prefixBlockTokens });
    view.note(four, read([7, 8], 's'));
    expect(cached(view, unread('s', 9_000))[three]).toBeUndefined();
  });
});

describe('knows', () => {
  it('a session once its body was read, not for having seen the session', () => {
    const view = new CacheView(2);
    expect(view.knows('s')).toBe(false);
    view.note(one, unread('s', 1_000));
    expect(view.knows('s')).toBe(false);
    view.note(one, read([1, 2], 's'));
    expect([view.knows('s'), view.knows('t')]).toEqual([true, false]);
    view.note(two, unread('s', 1_000));
    expect(view.knows('s')).toBe(true);
  });

  it('nobody whose prompt is shorter than a block', () => {
    const view = new CacheView(2);
    view.note(one, { keyId: 's', promptTokens: 200, prefixHashes: [] });
    expect(view.knows('s')).toBe(false);
  });
});

describe('forget', () => {
  it('empties one endpoint, for blocks and for sessions', () => {
    const view = new CacheView(2);
    view.note(one, read([1, 2], 's'));
    view.note(two, read([1, 2], 's'));
    view.forget(one);
    view.forget('10.0.0.9:80');
    expect(cached(view, read([1, 2, 3]))).toEqual({ [two]: 2 * prefixBlockTokens });
    expect(cached(view, unread('s', 9_000))).toEqual({ [two]: 2.5 * prefixBlockTokens });
  });

  it('counts again what comes after it', () => {
    const view = new CacheView(2);
    view.note(one, read([1, 2], 's'));
    view.forget(one);
    view.forget(one);
    view.note(one, unread('s', 700));
    expect(cached(view, unread('s', 9_000))[one]).toBe(700);
    view.note(one, read([1, 2]));
    expect(cached(view, read([1, 2]))[one]).toBe(2 * prefixBlockTokens);
  });
});

describe('memory', () => {
  it('holds no more of an endpoint than it is told its cache holds; the latest prompts stay', () => {
    const view = new CacheView(2, (address) => (address === one ? 10 * prefixBlockTokens : undefined));
    for (const address of [one, two]) for (let i = 0; i < 4; i += 1) view.note(address, read(blocks(100 * (i + 1), 5)));
    expect([400, 300, 200, 100].map((first) => cached(view, read(blocks(first, 5)))[one] ?? 0)).toEqual([5, 5, 0, 0].map((count) => count * prefixBlockTokens));
    expect(cached(view, read(blocks(100, 5)))[two]).toBe(5 * prefixBlockTokens);
  });

  it('follows a size that becomes known late, or changes', () => {
    const kvTokens = new Map<string, number>();
    const view = new CacheView(1, (address) => kvTokens.get(address));
    for (let i = 0; i < 10; i += 1) view.note(one, read(blocks(100 * i, 5)));
    kvTokens.set(one, 7 * prefixBlockTokens);
    view.note(one, read([5_000]));
    expect([900, 800, 700].map((first) => cached(view, read(blocks(first, 5)))[one] ?? 0)).toEqual([5, 1, 0].map((count) => count * prefixBlockTokens));
  });

  it('of an endpoint of unknown size is bounded', () => {
    const view = new CacheView(1);
    for (let i = 0; i * 500 <= blocksPerEndpointDefault; i += 1) view.note(one, read(blocks(1_000_000 + 500 * i, 500)));
    expect(cached(view, read(blocks(1_000_000, 500)))[one] ?? 0).toBeLessThan(500 * prefixBlockTokens);
    const last = 1_000_000 + 500 * Math.floor(blocksPerEndpointDefault / 500);
    expect(cached(view, read(blocks(last, 500)))[one]).toBe(500 * prefixBlockTokens);
  });

  it('is shared by many endpoints: each holds less, but always a prompt of average length', () => {
    const view = new CacheView(5_000);
    view.note(one, read(blocks(1, 400)));
    view.note(one, read(blocks(1_001, 400)));
    expect(cached(view, read(blocks(1_001, 400)))[one]).toBe(400 * prefixBlockTokens);
    expect(cached(view, read(blocks(1, 400)))).toEqual({});
    const crowded = new CacheView(1e9);
    crowded.note(one, read(blocks(1, 256)));
    expect(cached(crowded, read(blocks(1, 256)))[one]).toBe(256 * prefixBlockTokens);
  });

  it('is shared anew when many come or go, not when one does', () => {
    const view = new CacheView(1_000);
    const held = (): number => (cached(view, read(blocks(1, 2_000)))[one] ?? 0) / prefixBlockTokens;
    view.note(one, read(blocks(1, 2_000)));
    for (const endpoints of [1_001, 990, 1_200]) {
      view.shareAmong(endpoints);
      view.note(one, read([1]));
      expect(held()).toBe(2_000);
    }
    view.shareAmong(2_000);
    view.note(one, read([1]));
    expect(held()).toBe(1_000);
    view.shareAmong(1_000);
    view.note(one, read(blocks(1, 2_000)));
    expect(held()).toBe(2_000);
  });

  it('forgets the sessions that were not seen for longest', () => {
    const view = new CacheView(1);
    for (let i = 0; i < 100_010; i += 1) {
      view.note(one, unread(`s${i}`, 1_000));
      if (i === 50_000) view.note(one, unread('s0', 1_000));
    }
    expect(['s0', 's1', 's10', 's11', 's100009'].map((session) => cached(view, unread(session, 9_000))[one])).toEqual([1_000, undefined, undefined, 1_000, 1_000]);
  });
});

describe('whatever is noted', () => {
  const address = fc.constantFrom(one, two, three);
  const prompt = fc.record({
    keyId: fc.option(fc.constantFrom('s', 't', 'u'), { nil: undefined }),
    promptTokens: fc.oneof(fc.nat({ max: 3 }), fc.nat({ max: 1e6 })),
    prefixHashes: fc.array(fc.nat({ max: 6 }), { maxLength: 6 }),
  });
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('note' as const), address, prompt }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('forget' as const), address }) },
  );

  it('no prompt is ever cached whole, nor anywhere that nothing was sent to since it was emptied', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), prompt, (steps, asked) => {
        const view = new CacheView(3);
        const endpoints = ['10.0.0.0:80', one, two, three, four, '10.0.0.9:80'].map(idleEndpoint);
        const filled = new Set<string>();
        for (const it of steps) {
          if (it.kind === 'note') {
            view.note(it.address, it.prompt);
            filled.add(it.address);
          } else {
            view.forget(it.address);
            filled.delete(it.address);
          }
          const found = view.cachedTokens(asked);
          const looked = view.lookUp(asked, endpoints);
          expect(endpoints.map(({ address }) => looked.get(address))).toEqual(endpoints.map(({ address }) => found.get(address)));
          if (looked.column !== undefined) expect([...looked.column.tokens]).toEqual(endpoints.map(({ address }) => found.get(address) ?? 0));
          for (const [at, tokens] of found) {
            expect(filled).toContain(at);
            expect(tokens).toBeGreaterThan(0);
            expect(tokens).toBeLessThan(asked.promptTokens);
          }
        }
      }),
      { numRuns: 120 },
    );
  });
});
