import { existsSync, readdirSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { type EndpointSnapshot, endpointStates, idleEndpoint } from '../../src/core/fleet-snapshot.ts';
import { createAffinityHasher, hashName } from '../../src/core/hash.ts';
import { bestMax, type DecisionInput } from '../../src/core/policy.ts';
import { noFacts, prefixBlockTokens } from '../../src/core/request-facts.ts';
import { presets, type StepSpec } from '../../src/strategies/presets.ts';
import { registry } from '../../src/strategies/registry.ts';
import type { Strategy } from '../../src/strategies/strategy.ts';

const hash = createAffinityHasher('test-secret');
const folder = (kind: string): URL => new URL(`../../src/strategies/${kind}/`, import.meta.url);

const filters = [...registry.filters.values()];
const scorers = [...registry.scorers.values()];
const pickers = [...registry.pickers.values()];
const all: Strategy<string, unknown>[] = [...filters, ...scorers, ...pickers];

/** Frozen all the way down: a strategy that writes to what it is given throws. */
function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value) && !(value instanceof Set) && !(value instanceof Map)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) frozen(inner);
  }
  return value;
}

const count = fc.oneof(fc.nat({ max: 5 }), fc.nat({ max: 1_000_000 }));
const share = fc.double({ min: 0, max: 1, noNaN: true });
const positive = fc.double({ min: 0.001, max: 1_000_000, noNaN: true });
const maybe = <T>(some: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(some, { nil: undefined, freq: 3 });
const times = fc.record({ mean: positive, p95: positive, p99: positive });
const latency = fc.record({ samples: fc.nat({ max: 200 }), ttftMs: maybe(times), tpotMs: maybe(times), failureShare: share });
const metrics = fc.record({
  scrapedMs: fc.double({ min: 0, max: 1e9, noNaN: true }),
  requestsRunning: maybe(count),
  requestsQueued: maybe(count),
  kvUsage: maybe(share),
  kvTokensMax: maybe(fc.integer({ min: 1, max: 2_000_000 })),
  adapters: maybe(fc.uniqueArray(fc.constantFrom('small', 'tuned', 'large'), { maxLength: 3 }).map((names) => new Set(names))),
  adaptersMax: maybe(fc.nat({ max: 4 })),
});
/** The labels that examples of strategies name, and others. */
const labels = fc.record(
  { gpu: fc.constantFrom('h100', 'h200', 'l4'), zone: fc.constantFrom('a', 'b'), region: fc.constantFrom('eu-west', 'eu-central', 'us-east') },
  { requiredKeys: [] },
);
const endpoint = fc
  .record({
    id: fc.nat({ max: 10_000 }),
    weight: fc.oneof(fc.constant(1), positive),
    labels,
    state: fc.constantFrom(...endpointStates),
    trialsFree: fc.integer({ min: 0, max: 3 }),
    readySinceMs: maybe(fc.double({ min: 0, max: 1e9, noNaN: true })),
    requestsMax: maybe(fc.integer({ min: 1, max: 10 })),
    contextTokensMax: maybe(fc.integer({ min: 1, max: 200_000 })),
    full: fc.boolean(),
    requests: count,
    promptTokens: count,
    requestsWaiting: count,
    uncachedTokensWaiting: count,
    headTokens: count,
    headSinceMs: fc.double({ min: 0, max: 1e9, noNaN: true }),
    latency: maybe(latency),
    metrics: maybe(metrics),
  })
  .map(({ id, ...rest }): EndpointSnapshot => {
    const address = `10.0.${id >> 8}.${id & 255}:80`;
    return { ...rest, address, hash: hashName(address) };
  });

/** A pool as the fleet view gives it, sorted by address, and a request to it. */
const situation = fc
  .record({
    endpoints: fc.uniqueArray(endpoint, { minLength: 1, maxLength: 12, selector: ({ address }) => address }),
    session: maybe(fc.string()),
    placed: maybe(fc.nat()),
    promptTokens: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 200_000 })),
    maxTokens: maybe(fc.nat({ max: 100_000 })),
    blocks: fc.array(fc.maxSafeNat(), { maxLength: 20 }),
    cachedBlocks: fc.array(fc.nat({ max: 25 }), { maxLength: 12 }),
    draw: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    sequence: fc.nat(),
    nowMs: fc.double({ min: 0, max: 1e9, noNaN: true }),
    tenant: maybe(fc.string()),
    model: maybe(fc.oneof(fc.string(), fc.constantFrom('small', 'tuned'))),
  })
  .map(({ endpoints, session, placed, tenant, model, maxTokens, blocks, cachedBlocks, ...rest }) => {
    const sorted = [...endpoints].sort((x, y) => (x.address < y.address ? -1 : 1));
    const cached = sorted.slice(0, cachedBlocks.length).map(({ address }, i): [string, number] => [address, cachedBlocks[i]! * prefixBlockTokens]);
    const input: DecisionInput = {
      ...rest,
      facts: {
        ...noFacts,
        path: '/v1/chat/completions',
        model,
        session,
        tenant,
        promptTokens: rest.promptTokens,
        maxTokens,
        prefixHashes: blocks,
      },
      pool: { name: 'chat', endpoints: sorted },
      affinityKey: session === undefined ? undefined : hash(tenant ?? '', session),
      placedOn: placed === undefined ? undefined : sorted[placed % (sorted.length + 1)]?.address,
      cachedTokens: new Map(cached),
    };
    return frozen(input);
  });

/** The parameters that its documentation shows, else none. */
const parametersOf = (strategy: Strategy<string, unknown>): unknown => strategy.parameters.parse(strategy.example ?? {});
const create = (strategy: Strategy<string, unknown>): unknown => strategy.create(parametersOf(strategy));

const scoresFor = (input: DecisionInput): number[] => input.pool.endpoints.map((_, i) => ((input.sequence + i * 7) % 5) / 4);

/** Runs on one situation, then on another, then on the first again: what remembers anything gives itself away. */
function expectPure(run: (input: DecisionInput) => unknown): void {
  fc.assert(
    fc.property(situation, situation, (one, other) => {
      const first = structuredClone(run(one));
      run(other);
      expect(run(one)).toEqual(first);
    }),
  );
}

describe.each(all.map((strategy) => [`${strategy.kind} ${strategy.type}`, strategy] as const))('%s', (_name, strategy) => {
  it('is registered under its type, in the file that bears its name, with a test beside it', () => {
    const { kind, type } = strategy;
    const registered: ReadonlyMap<string, unknown> = kind === 'filter' ? registry.filters : kind === 'scorer' ? registry.scorers : registry.pickers;
    expect(registered.get(type)).toBe(strategy);
    expect(type).toMatch(/^[a-z]+(-[a-z]+)*$/);
    expect(existsSync(new URL(`${type}.ts`, folder(`${kind}s`)))).toBe(true);
    expect(existsSync(new URL(`${type}.test.ts`, folder(`${kind}s`)))).toBe(true);
  });

  it('works with its example, and without any parameters unless it needs some', () => {
    expect(create(strategy)).toBeTypeOf('function');
    const bare = strategy.parameters.safeParse({});
    if (bare.success) expect(strategy.create(bare.data)).toBeTypeOf('function');
    else expect(strategy.example).toBeDefined();
  });

  it('refuses parameters that it does not know, and what is no object', () => {
    const outcome = strategy.parameters.safeParse({ ...(strategy.example as object | undefined), 'not-a-parameter': 1 });
    expect(outcome.error?.issues).toMatchObject([{ code: 'unrecognized_keys', keys: ['not-a-parameter'] }]);
    for (const value of [null, 1, 'x', []]) expect(strategy.parameters.safeParse(value).success).toBe(false);
  });

  it('makes independent instances', () => {
    expect(create(strategy)).not.toBe(create(strategy));
  });

  it('says what it prefers, when it is wrong, its formula and source, and what each parameter means', () => {
    for (const text of [strategy.prefers, strategy.wrongWhen, strategy.source]) expect(text).toMatch(/^[A-Z“].{20,}[.”]$/s);
    expect(strategy.formula).toMatch(/^\S.{5,}[^.]$/);
    const { properties = {} } = z.toJSONSchema(strategy.parameters, { io: 'input' }) as { properties?: Record<string, { description?: string }> };
    for (const [name, { description }] of Object.entries(properties)) expect([name, description]).toEqual([name, expect.stringMatching(/^.{10,}[^.]$/s)]);
    for (const name of Object.keys((strategy.example as object | undefined) ?? {})) expect(properties).toHaveProperty(name);
  });
});

describe.each(filters.map((filter) => [filter.type, filter] as const))('filter %s', (_type, filter) => {
  const parameters = parametersOf(filter);
  const parts = [filter.create(parameters), filter.createPreference?.(parameters)].filter((part) => part !== undefined);
  const judge = (candidate: EndpointSnapshot, input: DecisionInput): (string | undefined)[] => parts.map((part) => part(candidate, input));

  it('is pure', () => {
    expectPure((input) => input.pool.endpoints.map((candidate) => judge(candidate, input)));
  });

  it('judges an endpoint the same, whichever it is asked about first', () => {
    fc.assert(
      fc.property(situation, (input) => {
        const forward = input.pool.endpoints.map((candidate) => judge(candidate, input));
        const [hard, preference] = [filter.create(parameters), filter.createPreference?.(parameters)];
        const backward = [...input.pool.endpoints].reverse().map((candidate) => [hard, preference].flatMap((part) => (part ? [part(candidate, input)] : [])));
        expect(backward.reverse()).toEqual(forward);
      }),
    );
  });

  it('gives stable codes, and lets an idle, ready, unlimited endpoint that has what is wanted pass', () => {
    fc.assert(
      fc.property(situation, (input) => {
        for (const candidate of input.pool.endpoints) {
          for (const reason of judge(candidate, input)) if (reason !== undefined) expect(reason).toMatch(/^[a-z]+(-[a-z]+)*$/);
          const idle = { ...idleEndpoint(candidate.address), weight: candidate.weight, labels: { gpu: 'h100', zone: 'a', region: 'eu-west' } };
          expect(judge(idle, { ...input, pool: { name: 'chat', endpoints: [idle] } })).toEqual(parts.map(() => undefined));
        }
      }),
    );
  });

  it('rejects something: a filter that never does is none', () => {
    const samples = fc.sample(situation, { numRuns: 200, seed: 1 });
    parts.forEach((_, i) => {
      expect(samples.some((input) => input.pool.endpoints.some((candidate) => judge(candidate, input)[i] !== undefined))).toBe(true);
    });
  });
});

describe.each(scorers.map((scorer) => [scorer.type, scorer] as const))('scorer %s', (_type, scorer) => {
  const run = scorer.create(parametersOf(scorer));

  it('is pure', () => {
    expectPure((input) => run(input.pool.endpoints, input));
  });

  it('rates every candidate from 0 to 1', () => {
    fc.assert(
      fc.property(situation, (input) => {
        const ratings = run(input.pool.endpoints, input);
        expect(ratings).toHaveLength(input.pool.endpoints.length);
        for (const rating of ratings) {
          expect(rating).toBeGreaterThanOrEqual(0);
          expect(rating).toBeLessThanOrEqual(1);
        }
      }),
    );
  });

  it('rates each candidate the same, in whatever order they come', () => {
    fc.assert(
      fc.property(situation, (input) => {
        const candidates = input.pool.endpoints;
        expect([...run([...candidates].reverse(), input)].reverse()).toEqual(run(candidates, input));
      }),
    );
  });

  it('tells some candidates apart: a scorer that never does is none', () => {
    const samples = fc.sample(situation, { numRuns: 200, seed: 1 });
    expect(samples.some((input) => new Set(run(input.pool.endpoints, input)).size > 1)).toBe(true);
  });
});

describe.each(pickers.map((picker) => [picker.type, picker] as const))('picker %s', (_type, picker) => {
  const run = picker.create(parametersOf(picker));

  it('is pure', () => {
    expectPure((input) => {
      const preference = run(input.pool.endpoints, scoresFor(input), input);
      return { ...preference, order: preference.order };
    });
  });

  it('finds the best where the order begins, and tells the order as it was then, though loads have changed', () => {
    fc.assert(
      fc.property(situation, (input) => {
        const scores = scoresFor(input);
        const { order } = run(input.pool.endpoints, scores, input);
        const endpoints = input.pool.endpoints.map((one) => ({ ...one }));
        const pool = { ...input.pool, endpoints };
        const later = run(endpoints, scores, { ...input, pool });
        for (const one of endpoints) Object.assign(one, { requests: 3, promptTokens: 1_000, requestsWaiting: 1, uncachedTokensWaiting: 500, state: 'draining' });
        const addressesOf = (some: readonly EndpointSnapshot[]): string[] => some.map(({ address }) => address);
        expect(addressesOf(later.order)).toEqual(addressesOf(order));
        expect(addressesOf(later.best ?? later.order.slice(0, bestMax))).toEqual(addressesOf(order).slice(0, bestMax));
      }),
    );
  });

  it('returns all candidates, each once, a stable code, and a home among them or none', () => {
    fc.assert(
      fc.property(situation, (input) => {
        const candidates = input.pool.endpoints;
        const { order, reason, home, costs } = run(candidates, scoresFor(input), input);
        expect([...order].sort((x, y) => (x.address < y.address ? -1 : 1))).toEqual(candidates);
        for (const candidate of order) expect(candidates).toContain(candidate);
        expect(reason).toMatch(/^[a-z]+(-[a-z]+)*$/);
        if (home !== undefined) expect(candidates.map(({ address }) => address)).toContain(home);
        if (costs !== undefined) {
          expect(costs).toHaveLength(candidates.length);
          for (const cost of costs) expect(cost).toSatisfy(Number.isFinite);
        }
      }),
    );
  });

  it('does not send everything to one endpoint', () => {
    const firsts = new Set<string | undefined>();
    const candidates = [1, 2, 3].map((i) => idleEndpoint(`10.0.0.${i}:80`));
    const [sample] = fc.sample(situation, { numRuns: 1, seed: 1 });
    for (let i = 0; i < 60; i += 1) {
      const input = {
        ...sample!,
        facts: noFacts,
        pool: { name: 'chat', endpoints: candidates },
        affinityKey: hash('', `session-${i}`),
        placedOn: undefined,
        cachedTokens: new Map<string, number>(),
        draw: i / 60,
        sequence: i,
      };
      firsts.add(run(candidates, [1, 1, 1], input).order[0]?.address);
    }
    expect(firsts.size).toBe(3);
  });
});

describe('registry', () => {
  it.each([
    ['filters', registry.filters],
    ['scorers', registry.scorers],
    ['pickers', registry.pickers],
  ] as const)('has every file of %s/', (kind, registered) => {
    const files = readdirSync(folder(kind)).filter((file) => !file.endsWith('.test.ts'));
    expect(files.sort()).toEqual([...registered.keys()].map((type) => `${type}.ts`).sort());
  });
});

describe.each(Object.entries(presets))('preset %s', (_name, preset) => {
  it('names only registered strategies, with parameters that they take', () => {
    const steps: (readonly [ReadonlyMap<string, Strategy<string, unknown>>, StepSpec])[] = [
      ...preset.filters.map((step) => [registry.filters, step] as const),
      ...preset.scorers.map((step) => [registry.scorers, step] as const),
      [registry.pickers, preset.picker],
    ];
    for (const [known, { type, parameters }] of steps) {
      expect([type, known.get(type)?.parameters.safeParse(parameters ?? {}).success]).toEqual([type, true]);
    }
  });

  it('leaves out what is not ready or at its limit', () => {
    expect(preset.filters.map(({ type }) => type)).toEqual(['ready', 'within-limits']);
  });
});
