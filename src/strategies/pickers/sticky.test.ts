import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import { createAffinityHasher, pairFraction } from '../../core/hash.ts';
import type { DecisionInput, Preference } from '../../core/policy.ts';
import { noFacts, prefixBlockTokens } from '../../core/request-facts.ts';
import { CacheView } from '../../fleet/cache-view.ts';
import { sticky } from './sticky.ts';

const a = '10.0.0.1:80';
const b = '10.0.0.2:80';
const hash = createAffinityHasher('test');
const nowMs = 10_000;

const endpoint = (address: string, changes: Partial<EndpointSnapshot> = {}): EndpointSnapshot => ({ ...idleEndpoint(address), headSinceMs: nowMs, ...changes });
/** An endpoint that has one prompt of that many uncached tokens waiting, just begun. */
const waits = (address: string, tokens: number, changes: Partial<EndpointSnapshot> = {}): EndpointSnapshot =>
  endpoint(address, { requests: 1, requestsWaiting: 1, uncachedTokensWaiting: tokens, headTokens: tokens, ...changes });

interface Asked {
  readonly parameters?: Record<string, number>;
  readonly session?: string;
  readonly promptTokens?: number;
  readonly cached?: Readonly<Record<string, number>>;
  readonly prefixHashes?: readonly number[];
  readonly scores?: readonly number[];
  readonly draw?: number;
  readonly routers?: number;
  readonly unheardTokens?: number;
}

/** Lets `sticky` choose; without leaning unless asked for, so that costs can be reckoned by hand. */
function pick(candidates: readonly EndpointSnapshot[], asked: Asked = {}): Preference & { readonly first: string; readonly costs: readonly number[] } {
  const { parameters = {}, session, promptTokens = 4_500, cached = {}, prefixHashes = [], scores = candidates.map(() => 0), draw = 0 } = asked;
  const input: DecisionInput = {
    facts: { ...noFacts, session, promptTokens, prefixHashes },
    pool: { name: 'chat', endpoints: candidates },
    affinityKey: session === undefined ? undefined : hash('', session),
    placedOn: undefined,
    promptTokens,
    cachedTokens: new Map(Object.entries(cached)),
    nowMs,
    draw,
    sequence: 0,
    ...(asked.routers !== undefined && { routers: asked.routers }),
    ...(asked.unheardTokens !== undefined && { unheardTokens: asked.unheardTokens }),
  };
  const preference = sticky.create(sticky.parameters.parse({ leanMs: 0, ...parameters }))(candidates, scores, input);
  const [first] = preference.order;
  if (first === undefined || preference.costs === undefined) throw new Error('no order or no costs');
  return { ...preference, order: preference.order, first: first.address, costs: preference.costs };
}

describe('the cost of an endpoint, in ms: W/r + λ·u/r + d·(1 + (W + u)/step)', () => {
  // r = 45 tokens/ms, λ = 2, step = 8192, a prompt of 4500 tokens; beside an idle endpoint, so that λ is not raised.
  it.each<[string, EndpointSnapshot, number, number]>([
    ['idle, nothing cached: λ·u/r', endpoint(a), 0, 200],
    ['idle, 3600 tokens cached', endpoint(a), 3_600, 40],
    ['9000 tokens waiting: W/r', waits(a, 9_000), 0, 200 + 200],
    ['10 requests decoding', endpoint(a, { requests: 10 }), 0, 200 + 10 * (1 + 4_500 / 8_192)],
    ['all together', waits(a, 9_000, { requests: 11 }), 3_600, 200 + 40 + 10 * (1 + 9_900 / 8_192)],
    ['twice the weight: twice the rate, half the decoding', waits(a, 9_000, { requests: 11, weight: 2 }), 0, 100 + 100 + 5 * (1 + 13_500 / 8_192)],
    ['40 ms into a head of 6000', waits(a, 9_000, { requestsWaiting: 2, requests: 2, headTokens: 6_000, headSinceMs: nowMs - 40 }), 0, 160 + 200],
    ['long into a head of 6000: no more than .9 of it', waits(a, 9_000, { requestsWaiting: 2, requests: 2, headTokens: 6_000, headSinceMs: 0 }), 0, 80 + 200],
    ['more waiting than in flight, as messages may say: none decodes', endpoint(a, { requests: 1, requestsWaiting: 3 }), 0, 200],
  ])('%s', (_case, candidate, cached, cost) => {
    expect(pick([candidate, endpoint(b)], { cached: { [a]: cached } }).costs[0]).toBeCloseTo(cost, 9);
  });

  it('λ grows as even the least loaded has more waiting, to 2 + 4 at 16 000 tokens for each unit of weight', () => {
    const cost = (...candidates: EndpointSnapshot[]): number => pick(candidates, { cached: { [b]: 4_499 } }).costs[0]! - pick(candidates, { cached: { [a]: 4_499, [b]: 4_499 } }).costs[0]!;
    const ofTokens = (lambda: number): number => (lambda * 4_499) / 45;
    expect(cost(waits(a, 100_000), endpoint(b))).toBeCloseTo(ofTokens(2), 6);
    expect(cost(waits(a, 100_000), waits(b, 8_000))).toBeCloseTo(ofTokens(4), 6);
    expect(cost(waits(a, 100_000), waits(b, 16_000))).toBeCloseTo(ofTokens(6), 6);
    expect(cost(waits(a, 100_000), waits(b, 50_000))).toBeCloseTo(ofTokens(6), 6);
    expect(cost(waits(a, 100_000), waits(b, 16_000, { weight: 2 }))).toBeCloseTo(ofTokens(4), 6);
  });

  it('takes every number from its parameters', () => {
    const parameters = { tokensPerMs: 10, missWeight: 3, overloadMissWeight: 5, overloadTokens: 1_000, stepTokens: 100, scoreMs: 7 };
    const candidates = [waits(a, 500, { requests: 3 }), waits(b, 5_000)];
    // least 500 of 1000: λ = 3 + 2.5.
    const { costs } = pick(candidates, { parameters, promptTokens: 200, scores: [0.5, 1] });
    expect(costs[0]).toBeCloseTo(50 + (5.5 * 200) / 10 + 2 * (1 + 700 / 100) - 3.5, 9);
    expect(costs[1]).toBeCloseTo(500 + (5.5 * 200) / 10 - 7, 9);
  });

  it('a whole point of the scorers outweighs so many ms, not more', () => {
    const candidates = [waits(a, 4_500), endpoint(b)];
    expect(pick(candidates, { scores: [1, 0], parameters: { scoreMs: 101 } }).first).toBe(a);
    expect(pick(candidates, { scores: [1, 0], parameters: { scoreMs: 99 } }).first).toBe(b);
  });
});

describe('what it comes to', () => {
  it.each<[string, readonly EndpointSnapshot[], Asked, string, string]>([
    ['keeps a session where its cache is while waiting costs less than computing anew', [waits(a, 7_900), endpoint(b)], { cached: { [a]: 4_000 } }, a, 'cache-kept'],
    ['leaves the cache when waiting costs more', [waits(a, 8_100), endpoint(b)], { cached: { [a]: 4_000 } }, b, 'cache-left'],
    ['holds on to it longer when all are overloaded', [waits(a, 39_900), waits(b, 16_000)], { cached: { [a]: 4_000 } }, a, 'cache-kept'],
    ['but not for ever', [waits(a, 40_100), waits(b, 16_000)], { cached: { [a]: 4_000 } }, b, 'cache-left'],
    ['goes where a part is cached when the whole is too busy', [waits(a, 9_000), endpoint(b)], { cached: { [a]: 4_000, [b]: 1_000 } }, b, 'cache-partly-kept'],
    ['sends what nobody has to the least waiting', [waits(a, 3_000), waits(b, 2_000)], {}, b, 'nothing-cached'],
    ['takes a prompt of 30 000 tokens for more than ten of 100', [waits(a, 30_000), waits(b, 1_000, { requests: 10, requestsWaiting: 10, headTokens: 100 })], {}, b, 'nothing-cached'],
    ['counts uncached tokens, not requests, of what waits', [waits(a, 500, { requests: 5, requestsWaiting: 5 }), waits(b, 600)], {}, a, 'nothing-cached'],
    ['prefers few that decode, all else equal', [endpoint(a, { requests: 9 }), endpoint(b, { requests: 8 })], {}, b, 'nothing-cached'],
    ['prefers the faster GPU', [endpoint(a), endpoint(b, { weight: 2 })], {}, b, 'nothing-cached'],
    ['does not take one that hangs for idle', [waits(a, 30_000, { headSinceMs: 0 }), waits(b, 2_500)], {}, b, 'nothing-cached'],
  ])('%s', (_case, candidates, asked, first, reason) => {
    expect(pick(candidates, asked)).toMatchObject({ first, reason, home: undefined });
    // Whatever the order in which they come and whatever is drawn.
    expect(pick([...candidates].reverse(), { ...asked, draw: 0.99 })).toMatchObject({ first, reason });
  });

  it('orders all candidates by cost, for what Envoy should try next', () => {
    const load = fc.record({
      requests: fc.nat({ max: 50 }),
      requestsWaiting: fc.nat({ max: 20 }),
      uncachedTokensWaiting: fc.nat({ max: 100_000 }),
      headTokens: fc.nat({ max: 100_000 }),
      headSinceMs: fc.nat({ max: 2 * nowMs }),
      weight: fc.constantFrom(0.5, 1, 3),
      cached: fc.nat({ max: 4_499 }),
    });
    fc.assert(
      fc.property(fc.array(load, { minLength: 1, maxLength: 8 }), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (loads, draw) => {
        const candidates = loads.map((changes, i) => endpoint(`10.0.0.${i}:80`, changes));
        const cached = Object.fromEntries(loads.map((it, i) => [`10.0.0.${i}:80`, it.cached]));
        const { order, costs } = pick(candidates, { cached, session: 's', parameters: { leanMs: 50 }, draw });
        expect([...order].sort((x, y) => (x.address < y.address ? -1 : 1))).toEqual(candidates);
        const inOrder = order.map((candidate) => costs[candidates.indexOf(candidate)]!);
        expect(inOrder).toEqual([...inOrder].sort((x, y) => x - y));
        expect(inOrder.every(Number.isFinite)).toBe(true);
      }),
    );
  });
});

describe('J: where a session leans', () => {
  const ten = Array.from({ length: 10 }, (_, i) => endpoint(`10.0.0.${i}:80`));
  const parameters = { leanMs: 50 };
  const counts = (choices: readonly string[]): number[] => ten.map(({ address }) => choices.filter((choice) => choice === address).length);

  it('routers that know the same choose the same for a session, whatever each draws, and spread sessions over all endpoints', () => {
    const sessions = Array.from({ length: 1_000 }, (_, i) => `session ${i}`);
    const [one, other] = [0.1, 0.9].map((draw) => sessions.map((session) => pick(ten, { session, draw, parameters }).first));
    expect(other).toEqual(one);
    // 100 each, and about three standard deviations to either side.
    expect(Math.min(...counts(one!))).toBeGreaterThan(70);
    expect(Math.max(...counts(one!))).toBeLessThan(130);
  });

  it('simultaneous first turns do not herd on one idle endpoint, nor onto loaded ones', () => {
    const candidates = ten.map((candidate, i) => (i < 5 ? candidate : waits(candidate.address, 9_000)));
    const choices = Array.from({ length: 500 }, (_, i) => pick(candidates, { session: `s${i}`, parameters }).first);
    expect(counts(choices).slice(5)).toEqual([0, 0, 0, 0, 0]);
    expect(Math.min(...counts(choices).slice(0, 5))).toBeGreaterThan(60);
  });

  it.each([
    [undefined, 15],
    [1, 15],
    [2, 67.5],
    [8, 106.875],
  ])('with %s routers is up to %f ms', (routers, ms) => {
    const candidates = [endpoint(a), endpoint(b)];
    const { costs } = pick(candidates, { session: 's', parameters: { leanMs: 120, missWeight: 0 }, ...(routers !== undefined && { routers }) });
    candidates.forEach((candidate, i) => expect(costs[i]).toBeCloseTo(ms * (1 - pairFraction(hash('', 's'), candidate.hash)), 9));
  });

  it('never makes up for a difference larger than it is', () => {
    for (let i = 0; i < 200; i += 1) {
      const session = `s${i}`;
      expect(pick([waits(a, 50 * 45 + 1), endpoint(b)], { session, parameters }).first).toBe(b);
      expect(pick([endpoint(a), endpoint(b)], { session, parameters, promptTokens: 2_000, cached: { [a]: 1_200 } }).first).toBe(a);
    }
  });

  it('without a session, goes by the prefix, so that equal prompts lean to one endpoint', () => {
    const choices = Array.from({ length: 500 }, (_, i) => [0.2, 0.7].map((draw) => pick(ten, { prefixHashes: [1, 2, 1_000 + i], draw, parameters }).first));
    for (const [one, other] of choices) expect(other).toBe(one);
    expect(Math.min(...counts(choices.map(([one]) => one!)))).toBeGreaterThan(25);
  });

  it('without either, goes by chance', () => {
    const choices = Array.from({ length: 500 }, (_, i) => pick(ten, { draw: i / 500, parameters }).first);
    expect(Math.min(...counts(choices))).toBeGreaterThan(25);
    // And where nothing leans, ties are broken by the draw.
    const ties = Array.from({ length: 500 }, (_, i) => pick(ten, { draw: i / 500, session: 's' }).first);
    expect(counts(ties)).toEqual(ten.map(() => 50));
  });
});

describe('what other routers send at the same moment', () => {
  const c = '10.0.0.3:80';
  const candidates = [endpoint(a), waits(b, 4_500), waits(c, 90_000)];

  it.each([
    [0, [0, 100, 2_000]],
    [4_500, [50, 100, 2_000]],
    [9_000, [100, 100, 2_000]],
    [18_000, [150, 150, 2_000]],
    [360_000, [6_100 / 3, 6_100 / 3, 6_100 / 3]],
  ])('%i tokens: half of them fill up where least waits, and sessions lean by twice an endpoint’s part', (unheardTokens, waitMs) => {
    const { costs } = pick(candidates, { session: 's', unheardTokens, parameters: { missWeight: 0, overloadMissWeight: 0 } });
    candidates.forEach((candidate, i) => {
      const leanMs = ((2 * unheardTokens) / 3 / 45) * (1 - pairFraction(hash('', 's'), candidate.hash));
      expect(costs[i]).toBeCloseTo(waitMs[i]! + leanMs, 6);
    });
  });

  it('spreads them over what they fill, and no further', () => {
    const spread = (unheardTokens: number): number[] => {
      const choices = Array.from({ length: 400 }, (_, i) => pick(candidates, { session: `s${i}`, unheardTokens }).first);
      return [a, b, c].map((address) => choices.filter((choice) => choice === address).length);
    };
    expect(spread(0)).toEqual([400, 0, 0]);
    const [onA, onB, onC] = spread(18_000);
    expect(Math.min(onA!, onB!)).toBeGreaterThan(150);
    expect(onC).toBe(0);
  });

  it('a session keeps its cache where the others make up for the difference anyway', () => {
    const kept = (unheardTokens: number): number => {
      const reasons = Array.from({ length: 200 }, (_, i) => pick([waits(a, 8_100), endpoint(b)], { session: `s${i}`, cached: { [a]: 4_000 }, unheardTokens }).reason);
      return reasons.filter((reason) => reason === 'cache-kept').length;
    };
    expect(kept(0)).toBe(0);
    expect(kept(20_000)).toBeGreaterThan(140);
  });
});

describe('turn after turn', () => {
  it('keeps sessions with their cache and their load even', () => {
    const addresses = Array.from({ length: 6 }, (_, i) => `10.0.0.${i}:80`);
    const view = new CacheView(addresses.length);
    const sent = new Map(addresses.map((address) => [address, 0]));
    /** Uncached tokens by endpoint of what has no first token yet. */
    const waiting = new Map<string, number[]>();
    let follow = 0;
    let kept = 0;
    for (let turn = 0; turn < 5; turn += 1) {
      for (let i = 0; i < 120; i += 1) {
        // A common system prompt of two blocks, then the session's own, three blocks more each turn.
        const prefixHashes = [1, 2, ...Array.from({ length: 3 * (turn + 1) }, (_, block) => 1_000 * (i + 1) + block)];
        const prompt = { keyId: `s${i}`, promptTokens: (prefixHashes.length + 0.3) * prefixBlockTokens, prefixHashes };
        const cached = Object.fromEntries(view.cachedTokens(prompt));
        const candidates = addresses.map((address) => {
          const line = waiting.get(address) ?? [];
          const uncachedTokensWaiting = line.reduce((sum, tokens) => sum + tokens, 0);
          return endpoint(address, { requests: line.length, requestsWaiting: line.length, uncachedTokensWaiting, headTokens: line[0] ?? 0 });
        });
        const { first, reason } = pick(candidates, { session: `s${i}`, promptTokens: prompt.promptTokens, prefixHashes, cached, parameters: { leanMs: 50 }, draw: (i * 7 + turn) % 10 / 10 });
        view.note(first, prompt);
        sent.set(first, (sent.get(first) ?? 0) + 1);
        waiting.set(first, [...(waiting.get(first) ?? []), prompt.promptTokens - (cached[first] ?? 0)]);
        // Twenty come at once, and have their first tokens when the next twenty come.
        if (i % 20 === 19) waiting.clear();
        if (turn === 0) continue;
        follow += 1;
        if (reason === 'cache-kept') kept += 1;
      }
    }
    expect(kept / follow).toBeGreaterThan(0.95);
    expect(Math.max(...sent.values())).toBeLessThan(2 * (600 / addresses.length));
    expect(Math.min(...sent.values())).toBeGreaterThan(0.4 * (600 / addresses.length));
  });
});
