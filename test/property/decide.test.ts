import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { decide } from '../../src/core/decide.ts';
import type { Decision } from '../../src/core/decision.ts';
import type { EndpointState, EngineMetrics } from '../../src/core/fleet-snapshot.ts';
import { createAffinityHasher } from '../../src/core/hash.ts';
import type { DecisionInput, Policy } from '../../src/core/policy.ts';
import { noFacts, prefixBlockTokens } from '../../src/core/request-facts.ts';
import { type Load, noLoad } from '../../src/fleet/load.ts';
import { FleetPool } from '../../src/fleet/fleet-view.ts';
import { presets } from '../../src/strategies/presets.ts';
import { registry } from '../../src/strategies/registry.ts';
import type { FilterStrategy, Strategy } from '../../src/strategies/strategy.ts';

const hash = createAffinityHasher('test-secret');

/** A policy as the configuration builds it. */
function policyOf(written: string): Policy {
  const outcome = loadConfig(`pools: [{ name: chat, policy: ${written}, slowStart: false, endpoints: [{ address: '10.0.0.1:80' }] }]`);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config.table.routes[0]!.targets[0]!.pool.policy;
}

/** A step of this strategy, as configuration writes it, with the parameters that its documentation shows. */
const stepOf = ({ type, example }: Strategy<string, unknown>): string => JSON.stringify({ type, ...(example !== undefined && { parameters: example }) });
const standing = ['ready', 'within-limits'];
/** The standing filters in their order, and this one, with its parameters, in its place or after them. */
const filtersWith = (filter: FilterStrategy): string =>
  (standing.includes(filter.type) ? standing : [...standing, filter.type]).map((type) => (type === filter.type ? stepOf(filter) : type)).join();

/** All presets, and every strategy of the registry in a pipeline of its own. */
const policies: Readonly<Record<string, Policy>> = {
  ...Object.fromEntries(Object.keys(presets).map((name) => [name, policyOf(`{ preset: ${name} }`)])),
  ...Object.fromEntries([...registry.filters].map(([type, filter]) => [`filter ${type}`, policyOf(`{ filters: [${filtersWith(filter)}], picker: random }`)])),
  ...Object.fromEntries(
    [...registry.scorers].map(([type, scorer]) => [`scorer ${type}`, policyOf(`{ filters: [ready, within-limits], scorers: [${stepOf(scorer)}], picker: highest-score }`)]),
  ),
  ...Object.fromEntries(
    [...registry.pickers].map(([type, picker]) => [`picker ${type}`, policyOf(`{ filters: [ready, within-limits], scorers: [least-requests], picker: ${stepOf(picker)} }`)]),
  ),
  'session-affinity, tight': policyOf('{ preset: session-affinity, parameters: { bound: 1, slackRequests: 0 } }'),
  'session-affinity, by requests': policyOf('{ preset: session-affinity, parameters: { load: requests, bound: 1.25, slackRequests: 1 } }'),
};

interface Written {
  readonly address: string;
  readonly weight: number;
  readonly state: EndpointState;
  readonly requestsMax: number | undefined;
  readonly contextTokensMax: number | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly readySinceMs: number | undefined;
  /** Undefined: never scraped. */
  readonly kvUsage: number | undefined;
  /** Blocks of the prompt that its cache holds. */
  readonly cachedBlocks: number;
  readonly load: Load;
}

/** The pool as the fleet view holds it, when it was configured in this order. */
function toPool(written: readonly Written[]): FleetPool {
  const pool = new FleetPool({
    name: 'chat',
    endpoints: written.map(({ address, weight, labels, requestsMax, contextTokensMax }) => ({ address, weight, labels, requestsMax, contextTokensMax })),
  });
  for (const { address, state, readySinceMs, kvUsage, load } of written) {
    const endpoint = pool.endpoint(address)!;
    endpoint.state = state;
    endpoint.readySinceMs = readySinceMs;
    endpoint.metrics = kvUsage === undefined ? undefined : { ...nothingScraped, kvUsage };
    Object.assign(endpoint.own, load);
  }
  return pool;
}

const endpoint = fc
  .record({
    id: fc.nat({ max: 4_095 }),
    weight: fc.constantFrom(1, 1, 1, 2, 0.5),
    state: fc.constantFrom<EndpointState>('ready', 'ready', 'ready', 'not-ready', 'ejected', 'draining'),
    requestsMax: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }),
    contextTokensMax: fc.option(fc.integer({ min: 1, max: 12_000 }), { nil: undefined, freq: 2 }),
    labels: fc.record({ gpu: fc.constantFrom('h100', 'l4'), zone: fc.constantFrom('a', 'b'), region: fc.constantFrom('eu-west', 'us-east') }, { requiredKeys: [] }),
    readySinceMs: fc.option(fc.integer({ min: -90_000, max: 0 }), { nil: undefined, freq: 2 }),
    kvUsage: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined, freq: 2 }),
    cachedBlocks: fc.nat({ max: 16 }),
    requests: fc.nat({ max: 8 }),
    waiting: fc.nat({ max: 8 }),
    tokensEach: fc.nat({ max: 4_000 }),
  })
  .map(({ id, requests, waiting, tokensEach, ...rest }): Written => {
    const requestsWaiting = Math.min(waiting, requests);
    return {
      ...rest,
      address: `10.0.${id >> 8}.${id & 255}:80`,
      load: { requests, promptTokens: requests * tokensEach, requestsWaiting, uncachedTokensWaiting: requestsWaiting * tokensEach },
    };
  });
const written = fc.uniqueArray(endpoint, { minLength: 1, maxLength: 10, selector: ({ address }) => address });

const situation = written.chain((all) =>
  fc.record({
    all: fc.constant(all),
    shuffled: fc.shuffledSubarray(all, { minLength: all.length }),
    session: fc.option(fc.string({ maxLength: 8 }), { nil: undefined }),
    placedOn: fc.option(fc.constantFrom(...all.map(({ address }) => address)), { nil: undefined }),
    subset: fc.option(fc.subarray(all.map(({ address }) => address)), { nil: undefined, freq: 4 }),
    promptTokens: fc.integer({ min: 1, max: 8_000 }),
    maxTokens: fc.option(fc.nat({ max: 8_000 }), { nil: undefined, freq: 2 }),
    hasBlocks: fc.boolean(),
    seed: fc.nat({ max: 1_000 }),
    draw: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    sequence: fc.nat({ max: 1_000 }),
  }),
);
type Situation = typeof situation extends fc.Arbitrary<infer S> ? S : never;

const nothingScraped: EngineMetrics = {
  scrapedMs: 0,
  requestsRunning: undefined,
  requestsQueued: undefined,
  kvUsage: undefined,
  kvTokensMax: 40_000,
  adapters: undefined,
  adaptersMax: undefined,
};

function inputOf({ all, session, placedOn, subset, promptTokens, maxTokens, hasBlocks, seed, draw, sequence }: Situation, pool: FleetPool): DecisionInput {
  const blocks = Math.floor(promptTokens / prefixBlockTokens);
  return {
    facts: {
      ...noFacts,
      session,
      promptTokens,
      maxTokens,
      prefixHashes: hasBlocks ? Array.from({ length: blocks }, (_, i) => seed * 7_919 + i) : [],
      subset: subset && new Set(subset),
    },
    pool,
    affinityKey: session === undefined ? undefined : hash('', session),
    placedOn: session === undefined ? undefined : placedOn,
    promptTokens,
    cachedTokens: new Map(all.map(({ address, cachedBlocks }) => [address, Math.min(cachedBlocks, blocks) * prefixBlockTokens])),
    nowMs: 0,
    draw,
    sequence,
  };
}

/** Why an endpoint may not take the request, reckoned anew. */
function causeAgainst({ state, contextTokensMax, requestsMax, load }: Written, { promptTokens, maxTokens = 0 }: Situation): string | undefined {
  if (state !== 'ready') return 'not-ready';
  if (contextTokensMax !== undefined && promptTokens / 1.25 + maxTokens > contextTokensMax) return 'too-long';
  return requestsMax !== undefined && load.requests >= requestsMax ? 'saturated' : undefined;
}

/** Those that the gateway allows and nothing speaks against, and among them those that the prompt fits by estimate. */
function usableOf(at: Situation): { readonly usable: string[]; readonly fitting: string[] } {
  const allowed = at.all.filter(({ address }) => at.subset === undefined || at.subset.includes(address));
  const usable = allowed.filter((one) => causeAgainst(one, at) === undefined);
  const fitting = usable.filter(({ contextTokensMax = Infinity }) => at.promptTokens + (at.maxTokens ?? 0) <= contextTokensMax);
  const addressesOf = (some: readonly Written[]): string[] => some.map(({ address }) => address).sort();
  return { usable: addressesOf(usable), fitting: addressesOf(fitting) };
}

/** All of a decision, what is worked out only when it is read included. */
function writtenOut(decision: Decision): object {
  const { trace } = decision;
  const { candidates, rejections } = trace;
  return { ...decision, addresses: decision.kind === 'route' && decision.addresses, trace: { ...trace, candidates, rejections } };
}

/** Pipelines whose filter may leave none of those that may serve, as residency must. */
const hardFilters = new Set(['filter labels', 'filter within-limits']);

describe.each(Object.entries(policies))('policy %s', (name, policy) => {
  const isHard = hardFilters.has(name);

  it('decides the same whatever order the endpoints were configured in, and every time', () => {
    fc.assert(
      fc.property(situation, (at) => {
        const decision = writtenOut(decide(policy, inputOf(at, toPool(at.all))));
        const pool = toPool(at.shuffled);
        expect(writtenOut(decide(policy, inputOf(at, pool)))).toEqual(decision);
        expect(writtenOut(decide(policy, inputOf(at, pool)))).toEqual(decision);
      }),
    );
  });

  it('never names an endpoint that is filtered, outside the subset, or twice; names all others; and accounts for every one', () => {
    fc.assert(
      fc.property(situation, (at) => {
        const decision = decide(policy, inputOf(at, toPool(at.all)));
        const { usable, fitting } = usableOf(at);
        const { candidates, rejections } = decision.trace;
        const left = [...candidates];
        for (const address of left) expect(usable).toContain(address);
        if (/^filter /.test(name)) expect(left.length > 0 || usable.length === 0 || isHard).toBe(true);
        else expect(left).toEqual(fitting.length > 0 ? fitting : usable);
        const rejected = rejections.map(({ address }) => address);
        expect([...left, ...rejected].sort()).toEqual(at.all.map(({ address }) => address).sort());
        if (decision.kind === 'route') expect([...decision.addresses].sort()).toEqual(left);
        else expect(left).toEqual([]);
      }),
    );
  });

  it('says why there is none as it is', () => {
    fc.assert(
      fc.property(situation, (at) => {
        const decision = decide(policy, inputOf(at, toPool(at.all)));
        if (decision.kind === 'route') return;
        if (isHard && usableOf(at).usable.length > 0) return;
        const allowed = at.all.filter(({ address }) => at.subset === undefined || at.subset.includes(address));
        const causes = allowed.map((one) => causeAgainst(one, at));
        const expected: typeof decision.cause =
          allowed.length === 0 ? 'subset' : causes.includes('saturated') ? 'saturated' : causes.every((cause) => cause === 'too-long') ? 'too-long' : 'not-ready';
        expect(decision.cause).toBe(expected);
      }),
    );
  });
});

describe('session affinity', () => {
  const idle = fc.uniqueArray(
    endpoint.map((one): Written => ({ ...one, state: 'ready', requestsMax: undefined, contextTokensMax: undefined, load: noLoad })),
    { minLength: 2, maxLength: 10, selector: ({ address }) => address },
  );
  const bare = { shuffled: [], placedOn: undefined, subset: undefined, promptTokens: 1, maxTokens: undefined, hasBlocks: false, seed: 0, draw: 0, sequence: 0 };
  const homeOf = (all: readonly Written[], session: string): Decision =>
    decide(
      policies['session-affinity']!,
      inputOf({ ...bare, all: [...all], session }, toPool(all)),
    );

  it('removing one endpoint moves its sessions and no others', () => {
    fc.assert(
      fc.property(idle, fc.nat(), fc.array(fc.string({ maxLength: 8 }), { minLength: 1, maxLength: 30 }), (all, at, sessions) => {
        const gone = all[at % all.length]!;
        const left = all.filter((one) => one !== gone);
        for (const session of sessions) {
          const before = homeOf(all, session);
          const after = homeOf(left, session);
          if (before.kind !== 'route' || after.kind !== 'route') throw new Error('all are ready');
          expect(after.addresses).toEqual(before.addresses.filter((address) => address !== gone.address));
        }
      }),
    );
  });

  it('removing one endpoint and filtering it out are the same', () => {
    fc.assert(
      fc.property(idle, fc.nat(), fc.string({ maxLength: 8 }), (all, at, session) => {
        const gone = all[at % all.length]!;
        const removed = homeOf(
          all.filter((one) => one !== gone),
          session,
        );
        const drained = homeOf(
          all.map((one) => (one === gone ? { ...one, state: 'draining' } : one)),
          session,
        );
        if (removed.kind !== 'route' || drained.kind !== 'route') throw new Error('others are ready');
        expect(drained.addresses).toEqual(removed.addresses);
      }),
    );
  });

  it.each([
    ['session-affinity', 'promptTokens', 1.25, 2],
    ['session-affinity, tight', 'promptTokens', 1, 0],
    ['session-affinity, by requests', 'requests', 1.25, 1],
  ] as const)('%s: the bound holds wherever any endpoint is within it', (name, unit, bound, slackRequests) => {
    fc.assert(
      fc.property(situation, (at) => {
        fc.pre(at.session !== undefined);
        const pool = toPool(at.all);
        const decision = decide(policies[name]!, inputOf(at, pool));
        if (decision.kind !== 'route') return;
        const candidates = decision.trace.candidates.map((address) => pool.endpoint(address)!);
        const own = unit === 'requests' ? 1 : at.promptTokens;
        const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
        const total = sum(candidates.map((one) => one[unit])) + own;
        const requests = sum(candidates.map((one) => one.requests)) + 1;
        const weights = sum(candidates.map(({ weight }) => weight));
        const isWithin = (address: string): boolean => {
          const one = pool.endpoint(address)!;
          const mean = (total * one.weight) / weights;
          return one[unit] + own <= Math.max(bound * mean, mean + (slackRequests * total) / requests);
        };
        expect(isWithin(decision.addresses[0]!)).toBe(decision.reason !== 'affinity-all-over-bound');
        expect(decision.addresses.some(isWithin)).toBe(decision.reason !== 'affinity-all-over-bound');
        // What is above the bound is tried only after everything that is within it; a session that is placed comes first.
        const fallbacks = decision.reason === 'affinity-placed' ? [] : decision.addresses.map(isWithin);
        expect(fallbacks).toEqual([...fallbacks].sort((x, y) => Number(y) - Number(x)));
      }),
    );
  });
});
