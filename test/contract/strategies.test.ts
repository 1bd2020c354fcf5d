import { existsSync, readdirSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EndpointSnapshot } from '../../src/core/fleet-snapshot.ts';
import { createAffinityHasher, hashName } from '../../src/core/hash.ts';
import type { DecisionInput } from '../../src/core/policy.ts';
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
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value) && !(value instanceof Set)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) frozen(inner);
  }
  return value;
}

const count = fc.oneof(fc.nat({ max: 5 }), fc.nat({ max: 1_000_000 }));
const endpoint = fc
  .record({
    id: fc.nat({ max: 10_000 }),
    weight: fc.oneof(fc.constant(1), fc.double({ min: 0.001, max: 1_000_000, noNaN: true })),
    state: fc.constantFrom('ready', 'not-ready', 'ejected', 'draining'),
    requestsMax: fc.option(fc.integer({ min: 1, max: 10 }), { nil: undefined }),
    full: fc.boolean(),
    requests: count,
    promptTokens: count,
    waitingShare: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ id, waitingShare, ...rest }): EndpointSnapshot => {
    const address = `10.0.${id >> 8}.${id & 255}:80`;
    return { ...rest, address, hash: hashName(address), labels: {}, promptTokensWaiting: Math.floor(rest.promptTokens * waitingShare) };
  });

/** A pool as the fleet view gives it, sorted by address, and a request to it. */
const situation = fc
  .record({
    endpoints: fc.uniqueArray(endpoint, { minLength: 1, maxLength: 12, selector: ({ address }) => address }),
    session: fc.option(fc.string(), { nil: undefined }),
    placed: fc.option(fc.nat(), { nil: undefined }),
    promptTokens: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 200_000 })),
    draw: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    sequence: fc.nat(),
    nowMs: fc.double({ min: 0, max: 1e9, noNaN: true }),
    tenant: fc.option(fc.string(), { nil: undefined }),
    model: fc.option(fc.string(), { nil: undefined }),
  })
  .map(({ endpoints, session, placed, tenant, model, ...rest }) => {
    const sorted = [...endpoints].sort((x, y) => (x.address < y.address ? -1 : 1));
    const input: DecisionInput = {
      ...rest,
      facts: {
        path: '/v1/chat/completions',
        model,
        session,
        tenant,
        promptTokens: rest.promptTokens,
        maxTokens: undefined,
        stream: undefined,
        prefixHashes: [],
        subset: undefined,
      },
      pool: { name: 'chat', endpoints: sorted },
      affinityKey: session === undefined ? undefined : hash(tenant ?? '', session),
      placedOn: placed === undefined ? undefined : sorted[placed % (sorted.length + 1)]?.address,
    };
    return frozen(input);
  });

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

  it('works without any parameters', () => {
    expect(strategy.create(strategy.parameters.parse({}))).toBeTypeOf('function');
  });

  it('refuses parameters that it does not know, and what is no object', () => {
    const outcome = strategy.parameters.safeParse({ 'not-a-parameter': 1 });
    expect(outcome.error?.issues).toMatchObject([{ code: 'unrecognized_keys', keys: ['not-a-parameter'] }]);
    for (const value of [null, 1, 'x', []]) expect(strategy.parameters.safeParse(value).success).toBe(false);
  });

  it('makes independent instances', () => {
    expect(strategy.create(strategy.parameters.parse({}))).not.toBe(strategy.create(strategy.parameters.parse({})));
  });
});

describe.each(filters.map((filter) => [filter.type, filter] as const))('filter %s', (_type, filter) => {
  const run = filter.create(filter.parameters.parse({}));

  it('is pure', () => {
    expectPure((input) => input.pool.endpoints.map((candidate) => run(candidate, input)));
  });

  it('gives stable codes, and lets an idle, ready, unlimited endpoint pass', () => {
    fc.assert(
      fc.property(situation, (input) => {
        for (const candidate of input.pool.endpoints) {
          const reason = run(candidate, input);
          if (reason !== undefined) expect(reason).toMatch(/^[a-z]+(-[a-z]+)*$/);
          const idle = { ...candidate, state: 'ready' as const, requestsMax: undefined, full: false, requests: 0, promptTokens: 0, promptTokensWaiting: 0 };
          expect(run(idle, input)).toBeUndefined();
        }
      }),
    );
  });

  it('rejects something: a filter that never does is none', () => {
    const samples = fc.sample(situation, { numRuns: 200, seed: 1 });
    expect(samples.some((input) => input.pool.endpoints.some((candidate) => run(candidate, input) !== undefined))).toBe(true);
  });
});

describe.each(scorers.map((scorer) => [scorer.type, scorer] as const))('scorer %s', (_type, scorer) => {
  const run = scorer.create(scorer.parameters.parse({}));

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

  it('tells some candidates apart: a scorer that never does is none', () => {
    const samples = fc.sample(situation, { numRuns: 200, seed: 1 });
    expect(samples.some((input) => new Set(run(input.pool.endpoints, input)).size > 1)).toBe(true);
  });
});

describe.each(pickers.map((picker) => [picker.type, picker] as const))('picker %s', (_type, picker) => {
  const run = picker.create(picker.parameters.parse({}));

  it('is pure', () => {
    expectPure((input) => run(input.pool.endpoints, scoresFor(input), input));
  });

  it('returns all candidates, each once, a stable code, and a home among them or none', () => {
    fc.assert(
      fc.property(situation, (input) => {
        const candidates = input.pool.endpoints;
        const { order, reason, home } = run(candidates, scoresFor(input), input);
        expect([...order].sort((x, y) => (x.address < y.address ? -1 : 1))).toEqual(candidates);
        for (const candidate of order) expect(candidates).toContain(candidate);
        expect(reason).toMatch(/^[a-z]+(-[a-z]+)*$/);
        if (home !== undefined) expect(candidates.map(({ address }) => address)).toContain(home);
      }),
    );
  });

  it('does not send everything to one endpoint', () => {
    const firsts = new Set<string | undefined>();
    const candidates = [1, 2, 3].map((i): EndpointSnapshot => {
      const address = `10.0.0.${i}:80`;
      const idle = { state: 'ready' as const, requestsMax: undefined, full: false, requests: 0, promptTokens: 0, promptTokensWaiting: 0 };
      return { address, hash: hashName(address), weight: 1, labels: {}, ...idle };
    });
    const [sample] = fc.sample(situation, { numRuns: 1, seed: 1 });
    for (let i = 0; i < 60; i += 1) {
      const input = { ...sample!, pool: { name: 'chat', endpoints: candidates }, affinityKey: hash('', `session-${i}`), placedOn: undefined, draw: i / 60, sequence: i };
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
