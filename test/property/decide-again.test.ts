import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { cachedOf } from '../../src/core/cached-tokens.ts';
import { toHostPort } from '../../src/core/data-parallel-rank.ts';
import { decide } from '../../src/core/decide.ts';
import { type Decision, type Rejection, countRejections } from '../../src/core/decision.ts';
import { columnsOf } from '../../src/core/endpoint-columns.ts';
import { levelAfter, tokensPerMsDefault, waitingTokens } from '../../src/core/expected-wait.ts';
import { type EndpointSnapshot, endpointStates } from '../../src/core/fleet-snapshot.ts';
import { createAffinityHasher, pairFraction } from '../../src/core/hash.ts';
import { bestMax, type DecisionInput, type Policy } from '../../src/core/policy.ts';
import type { PoolSnapshot } from '../../src/core/pool-snapshot.ts';
import { rendezvousOrder } from '../../src/core/rendezvous.ts';
import { noFacts } from '../../src/core/request-facts.ts';
import type { Load } from '../../src/fleet/load.ts';
import { type FleetPool, FleetView } from '../../src/fleet/fleet-view.ts';
import { Reservations } from '../../src/fleet/reservations.ts';
import { createDeadlineGuard, createResidencyGuard, createSaturationGuard } from '../../src/router/guards.ts';
import { byScore } from '../../src/strategies/by-score.ts';
import { presets } from '../../src/strategies/presets.ts';

// What is kept from one decision to the next, and what is read from columns, against deciding from nothing on plain copies of the
// endpoints: filter by filter, all scores, all sorted. Between decisions everything about the endpoints changes, in every way that it can.

const hash = createAffinityHasher('test-secret');

function policyOf(written: string): Policy {
  const outcome = loadConfig(`pools: [{ name: chat, policy: ${written}, slowStart: false, endpoints: [{ address: '10.0.0.1:80' }] }]`);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config.table.routes[0]!.targets[0]!.pool.policy;
}

const filters = [
  'ready',
  'within-limits',
  'not-ejected',
  '{ type: labels, parameters: { require: { gpu: [h100, l4] }, requireHeader: { tier: x-tier }, prefer: { zone: a } } }',
  '{ type: region, parameters: { order: [eu, us], spillTokens: 2000 } }',
  'slow-start',
  '{ type: labels, parameters: { require: { gpu: [h100, l4, a100] } } }',
];
const withAllFilters = policyOf(`{ filters: [${filters.join()}], scorers: [least-requests, least-tokens, weighted-least-requests, lean], picker: highest-score }`);
const policies: Readonly<Record<string, Policy>> = {
  ...Object.fromEntries(Object.keys(presets).map((name) => [name, policyOf(`{ preset: ${name} }`)])),
  'all filters': withAllFilters,
  'room in the KV cache': policyOf('{ filters: [ready, { type: within-limits, parameters: { kvHeadroom: 0.2 } }], picker: sticky, scorers: [least-requests] }'),
  guarded: {
    ...withAllFilters,
    filters: [
      createResidencyGuard({ label: 'region', allowed: (tenant) => (tenant === 'bound' ? new Set(['eu']) : undefined) }),
      ...withAllFilters.filters,
      createSaturationGuard({ waitingTokensMax: 3_000, tokensPerMs: 45 }),
      createDeadlineGuard({ tokensPerMs: 45, seesWaiting: true, seesCaches: true }),
    ],
  },
};

/** An endpoint as it is now, as plain data. */
function copyOf(endpoint: EndpointSnapshot): EndpointSnapshot {
  const { address, hash: own, weight, labels, state, trialsFree, readySinceMs, requestsMax, contextTokensMax, full } = endpoint;
  const { requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs, latency, metrics } = endpoint;
  return {
    ...{ address, hash: own, weight, labels, state, trialsFree, readySinceMs, requestsMax, contextTokensMax, full },
    ...{ requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs, latency, metrics },
  };
}

/** All of an endpoint that is no load. */
function standingOf({ address: id, weight, labels, state, trialsFree, readySinceMs, requestsMax, contextTokensMax }: EndpointSnapshot): readonly unknown[] {
  return [id, weight, labels, state, trialsFree, readySinceMs ?? null, requestsMax ?? null, contextTokensMax ?? null];
}

interface Told {
  readonly policy: string;
  readonly candidates: readonly string[];
  readonly rejections: readonly Rejection[];
  readonly totals: readonly number[];
  readonly kept: readonly EndpointSnapshot[];
}

/** Filter by filter, each asked about everyone, then all scores. */
function filterAndScore(policy: Policy, input: DecisionInput): Told {
  const rejections: Rejection[] = [];
  const { subset } = input.facts;
  let kept = input.pool.endpoints;
  const pass = (name: string, soft: boolean, run: (endpoint: EndpointSnapshot) => string | undefined): void => {
    const asked = kept.map((endpoint) => ({ endpoint, reason: run(endpoint) }));
    const passed = asked.filter(({ reason }) => reason === undefined).map(({ endpoint }) => endpoint);
    if (soft && passed.length === 0) return;
    for (const { endpoint, reason } of asked) if (reason !== undefined) rejections.push({ address: endpoint.address, filter: name, reason });
    kept = passed;
  };
  if (subset !== undefined) pass('subset', false, ({ address }) => (subset.has(toHostPort(address)) ? undefined : 'outside-subset'));
  for (const soft of [false, true]) {
    for (const step of policy.filters) if ((step.soft === true) === soft) pass(step.name, soft, (endpoint) => step.run(endpoint, input));
  }
  const totals = kept.map(() => 0);
  for (const { run, weight } of kept.length === 0 ? [] : policy.scorers) run(kept, input).forEach((rating, i) => (totals[i] = totals[i]! + weight * rating));
  return { policy: policy.name, candidates: kept.map(({ address }) => address), rejections, totals, kept };
}

/** The order of all, by the policies' formulas as they are documented. */
const orders: Readonly<Record<string, (kept: readonly EndpointSnapshot[], input: DecisionInput) => readonly EndpointSnapshot[]>> = {
  'round-robin': (kept, { sequence }) => kept.map((_, i) => kept[(sequence + i) % kept.length]!),
  'least-requests': (kept, { affinityKey, draw }) => {
    // Leaning by the draw hangs on the key that is made of it: the scorers' own test is for that.
    if (affinityKey === undefined) return kept.length === 1 ? kept : [];
    const least = Math.min(...kept.map(({ requests }) => requests));
    const scores = kept.map((endpoint) => (least + 1) / (endpoint.requests + 1) + 0.05 * pairFraction(affinityKey, endpoint.hash));
    return byScore(kept, scores, draw);
  },
  sticky: (kept, input) => {
    const { affinityKey, promptTokens, nowMs, draw, routers = 1, unheardTokens = 0 } = input;
    if (affinityKey === undefined) return kept.length === 1 ? kept : [];
    const waiting = kept.map((endpoint) => waitingTokens(endpoint, tokensPerMsDefault, nowMs));
    const least = Math.min(...kept.map(({ weight }, i) => waiting[i]! / weight));
    const level = unheardTokens > 0 ? levelAfter(unheardTokens / 2, columnsOf(kept, {}), waiting) : least;
    const lambda = 2 + 4 * Math.min(1, level / 16_000);
    const weights = kept.reduce((sum, { weight }) => sum + weight, 0);
    const leanMs = 120 * (1 - 0.875 / routers) + (2 * unheardTokens) / (tokensPerMsDefault * weights);
    const gains = kept.map((endpoint, i) => {
      const { weight, requests, requestsWaiting, address } = endpoint;
      const rate = tokensPerMsDefault * weight;
      const work = Math.max(waiting[i]!, level * weight);
      const uncached = promptTokens - (input.cachedTokens.get(address) ?? 0);
      const decoding = Math.max(0, requests - requestsWaiting) / weight;
      return -(work / rate + (lambda * uncached) / rate + decoding * (1 + (work + uncached) / 8_192) + leanMs * (1 - pairFraction(affinityKey, endpoint.hash)));
    });
    return byScore(kept, gains, draw);
  },
  'session-affinity': (kept, { affinityKey, promptTokens, placedOn }) => {
    if (affinityKey === undefined) return kept.length === 1 ? kept : [];
    const total = kept.reduce((sum, endpoint) => sum + endpoint.promptTokens, promptTokens);
    const slack = (2 * total) / kept.reduce((sum, { requests }) => sum + requests, 1);
    const weights = kept.reduce((sum, { weight }) => sum + weight, 0);
    const mean = ({ weight }: EndpointSnapshot): number => (total * weight) / weights;
    const isWithin = (endpoint: EndpointSnapshot): boolean => endpoint.promptTokens + promptTokens <= Math.max(1.25 * mean(endpoint), mean(endpoint) + slack);
    const isBelow = (endpoint: EndpointSnapshot): boolean => endpoint.promptTokens <= ((total - promptTokens) * endpoint.weight) / weights;
    const order = rendezvousOrder(affinityKey, kept);
    const first = (is: (endpoint: EndpointSnapshot) => boolean): EndpointSnapshot[] => [...order.filter(is), ...order.filter((endpoint) => !is(endpoint))];
    const placed = kept.find(({ address }) => address === placedOn);
    if (placed !== undefined && isWithin(placed)) return first((endpoint) => endpoint === placed);
    return first(kept.some(isWithin) ? isWithin : isBelow);
  },
};

const address = fc.nat({ max: 23 }).map((n) => `10.0.0.${n}:80`);
const definition = fc.record({
  address,
  weight: fc.constantFrom(1, 1, 2, 0.5),
  labels: fc.record({ gpu: fc.constantFrom('h100', 'l4', 'cpu'), zone: fc.constantFrom('a', 'b'), region: fc.constantFrom('eu', 'us'), tier: fc.constantFrom('1', '2') }, { requiredKeys: [] }),
  requestsMax: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined, freq: 3 }),
  contextTokensMax: fc.option(fc.integer({ min: 500, max: 9_000 }), { nil: undefined, freq: 2 }),
});
const definitions = fc.uniqueArray(definition, { minLength: 1, maxLength: 24, selector: (one) => one.address });
/** Few, so that what changes of one is not hidden by what changes of the others. */
const few = fc.uniqueArray(definition, { minLength: 1, maxLength: 3, selector: (one) => one.address });
const load = fc.record({ requests: fc.nat({ max: 8 }), promptTokens: fc.nat({ max: 9_000 }), requestsWaiting: fc.nat({ max: 8 }), uncachedTokensWaiting: fc.nat({ max: 9_000 }) });
const which = fc.nat();
const loadFields = ['requests', 'promptTokens', 'requestsWaiting', 'uncachedTokensWaiting'] as const;

/** Any change of anything that a decision may go by. */
const change = fc.oneof(
  fc.record({ kind: fc.constant('state' as const), which, state: fc.constantFrom(...endpointStates, 'ready' as const, 'ready' as const) }),
  fc.record({ kind: fc.constant('ready' as const), which }),
  fc.record({ kind: fc.constant('ready-since' as const), which, agoMs: fc.option(fc.nat({ max: 70_000 }), { nil: undefined }) }),
  fc.record({ kind: fc.constant('limit' as const), which, requestsMax: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }) }),
  fc.record({ kind: fc.constant('share' as const), which, share: fc.option(fc.constantFrom({ routers: 2, rank: 0 }, { routers: 3, rank: 2 }), { nil: undefined }) }),
  fc.record({ kind: fc.constant('members' as const), definitions }),
  fc.record({ kind: fc.constant('sweep' as const) }),
  fc.record({ kind: fc.constant('half-open' as const), which: fc.constantFrom(0, 1) }),
  fc.record({ kind: fc.constant('trial' as const), which: fc.constantFrom(0, 1), lease: fc.nat({ max: 1 }), act: fc.constantFrom('sent' as const, 'sent' as const, 'passed' as const, 'failed' as const, 'forgot' as const) }),
  fc.record({ kind: fc.constant('trials-max' as const), which, trials: fc.integer({ min: 1, max: 3 }) }),
  fc.record({ kind: fc.constant('reserve' as const), which, lease: fc.nat({ max: 6 }), tokens: fc.nat({ max: 4_000 }) }),
  fc.record({ kind: fc.constant('first-token' as const), lease: fc.nat({ max: 6 }) }),
  fc.record({ kind: fc.constant('aside' as const), lease: fc.nat({ max: 6 }) }),
  fc.record({ kind: fc.constant('release' as const), lease: fc.nat({ max: 6 }) }),
  // Each number alone, whatever others would be written with it.
  fc.record({ kind: fc.constant('written' as const), which, part: fc.constantFrom('own' as const, 'foreign' as const), field: fc.constantFrom(...loadFields), count: fc.nat({ max: 900 }) }),
  fc.record({ kind: fc.constant('added' as const), which, field: fc.constantFrom('requests' as const, 'promptTokens' as const, 'uncachedTokens' as const), count: fc.nat({ max: 900 }) }),
  fc.record({ kind: fc.constant('line' as const), which, act: fc.constantFrom('join' as const, 'leave' as const, 'serve' as const, 'settle' as const), tokens: fc.nat({ max: 2 }) }),
  fc.record({ kind: fc.constant('told' as const), router: fc.constantFrom('b', 'c'), loads: fc.array(fc.tuple(address, load), { maxLength: 6 }), pushes: fc.boolean() }),
  fc.record({ kind: fc.constant('pushed' as const), router: fc.constantFrom('b', 'c'), address, load }),
  fc.record({ kind: fc.constant('gone' as const), router: fc.constantFrom('b', 'c') }),
  fc.record({ kind: fc.constant('hold' as const) }),
  fc.record({ kind: fc.constant('scraped' as const), which, kvUsage: fc.double({ min: 0, max: 1, noNaN: true }) }),
  fc.record({ kind: fc.constant('cached' as const), which, session: fc.nat({ max: 3 }), blocks: fc.nat({ max: 6 }) }),
  fc.record({ kind: fc.constant('time' as const), ms: fc.nat({ max: 40_000 }) }),
);
type Change = typeof change extends fc.Arbitrary<infer C> ? C : never;

const request = fc.record({
  kind: fc.constant('decide' as const),
  session: fc.option(fc.nat({ max: 3 }), { nil: undefined, freq: 3 }),
  tenant: fc.constantFrom(undefined, undefined, 'bound'),
  priority: fc.constantFrom(0, 0, 1, -1),
  deadlineMs: fc.constantFrom(undefined, undefined, 50, 5_000),
  tier: fc.constantFrom(undefined, undefined, '1'),
  promptTokens: fc.integer({ min: 1, max: 8_000 }),
  knowsLength: fc.boolean(),
  maxTokens: fc.option(fc.nat({ max: 4_000 }), { nil: undefined }),
  hasBlocks: fc.boolean(),
  placedOn: fc.option(address, { nil: undefined }),
  subset: fc.option(fc.uniqueArray(address, { maxLength: 24 }), { nil: undefined, freq: 6 }),
  unheardTokens: fc.constantFrom(0, 0, 3_000),
  routers: fc.constantFrom(1, 3),
  draw: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  sequence: fc.nat({ max: 1_000 }),
});
const step = fc.oneof({ weight: 3, arbitrary: change }, { weight: 2, arbitrary: request });

/** One pool over time. */
class Bed {
  readonly fleet: FleetView;
  readonly pool: FleetPool;
  nowMs = 100_000;
  readonly #reservations = new Reservations();

  constructor(written: Parameters<FleetPool['update']>[0]) {
    this.fleet = new FleetView([{ name: 'chat', endpoints: written }]);
    this.pool = this.fleet.pool('chat')!;
  }

  apply(it: Change): void {
    const { pool, nowMs } = this;
    const endpoint = pool.endpoints['which' in it ? it.which % Math.max(1, pool.endpoints.length) : 0];
    if (it.kind === 'time') this.nowMs += it.ms;
    else if (it.kind === 'members') pool.update(it.definitions, nowMs);
    else if (it.kind === 'sweep') pool.sweep(nowMs, 0);
    else if (it.kind === 'told') pool.foreign.applySnapshot(it.router, new Map<string, Load>(it.loads), it.pushes, nowMs);
    else if (it.kind === 'pushed') pool.foreign.applyChange(it.router, it.address, it.load);
    else if (it.kind === 'gone') pool.foreign.forget(it.router, nowMs);
    else if (it.kind === 'hold') pool.foreign.hold();
    else if (it.kind === 'first-token') this.#reservations.firstToken(String(it.lease), nowMs);
    else if (it.kind === 'aside') this.#reservations.setAside(String(it.lease), nowMs);
    else if (it.kind === 'release') this.#reservations.release(String(it.lease), nowMs);
    else if (endpoint === undefined) return;
    else if (it.kind === 'state') endpoint.state = it.state;
    else if (it.kind === 'ready') endpoint.setState('ready', nowMs);
    else if (it.kind === 'ready-since') endpoint.readySinceMs = it.agoMs === undefined ? undefined : nowMs - it.agoMs;
    else if (it.kind === 'limit') endpoint.requestsMax = it.requestsMax;
    else if (it.kind === 'share') endpoint.shareCap(it.share);
    else if (it.kind === 'reserve') this.#reservations.reserve(String(it.lease), pool, endpoint, { promptTokens: it.tokens, uncachedTokens: Math.ceil(it.tokens / 2) }, nowMs);
    else if (it.kind === 'scraped') endpoint.metrics = { ...nothingScraped, scrapedMs: nowMs, kvUsage: it.kvUsage };
    else if (it.kind === 'cached') pool.cache.note(endpoint.address, { keyId: hash('', `s${it.session}`).id, promptTokens: it.blocks * 512 + 1, prefixHashes: blocksOf(it.session, it.blocks) });
    else if (it.kind === 'written') endpoint[it.part][it.field] = it.count;
    else if (it.kind === 'added') endpoint.added[it.field] += it.count;
    else if (it.kind === 'line') {
      if (it.act === 'join') endpoint.line.join('d', it.tokens, nowMs);
      else if (it.act === 'settle') endpoint.line.settle('d', { requests: it.tokens, tokens: it.tokens * 100 }, nowMs);
      else endpoint.line.leave('d', it.tokens, nowMs, it.act === 'serve');
    } else {
      const { breaker } = endpoint.health;
      if (it.kind === 'trials-max') breaker.configure({ consecutiveFailures: 5, failureShare: 0.5, requestsMin: 10, windowMs: 10_000, backOffMs: 0, backOffMsMax: 0, trials: it.trials });
      else if (it.kind === 'half-open') {
        breaker.open('open', nowMs - 60_000);
        breaker.tick(nowMs);
        endpoint.state = 'half-open';
      } else {
        const lease = `t${it.lease}`;
        if (it.act === 'sent') breaker.dispatched(lease);
        else if (it.act === 'forgot') breaker.forgot(lease);
        else breaker.ended(lease, it.act === 'failed', nowMs);
      }
    }
  }

  inputOf(it: typeof request extends fc.Arbitrary<infer R> ? R : never, pool: PoolSnapshot): DecisionInput {
    const key = it.session === undefined ? undefined : hash('', `s${it.session}`);
    const prefixHashes = it.hasBlocks && it.session !== undefined ? blocksOf(it.session, Math.floor(it.promptTokens / 512)) : [];
    return {
      facts: {
        ...noFacts,
        tenant: it.tenant,
        priority: it.priority,
        deadlineMs: it.deadlineMs,
        headers: new Map(it.tier === undefined ? [] : [['x-tier', it.tier]]),
        promptTokens: it.knowsLength ? it.promptTokens : undefined,
        maxTokens: it.maxTokens,
        prefixHashes,
        subset: it.subset && new Set(it.subset),
      },
      pool,
      affinityKey: key,
      placedOn: it.placedOn,
      promptTokens: it.promptTokens,
      cachedTokens: this.pool.cache.lookUp({ keyId: key?.id, promptTokens: it.promptTokens, prefixHashes }, pool.endpoints),
      routers: it.routers,
      unheardTokens: it.unheardTokens,
      nowMs: this.nowMs,
      draw: it.draw,
      sequence: it.sequence,
    };
  }
}

function blocksOf(session: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (i < 2 ? i + 1 : session * 7_919 + i));
}

const nothingScraped = { requestsRunning: 1, requestsQueued: 2, kvTokensMax: 20_000, adapters: undefined, adaptersMax: undefined };

/** All of a decision, what is worked out only when it is read included. */
function writtenOut(decision: Decision): object {
  const { trace } = decision;
  const { policy, candidates, rejections, rejectionCounts, endpoints, scores, costs } = trace;
  const route = decision.kind === 'route' && { addresses: decision.addresses, best: decision.best, reason: decision.reason, home: decision.home };
  return { kind: decision.kind, cause: decision.kind === 'none' && decision.cause, route, policy, candidates, rejections, rejectionCounts, endpoints, scores, costs };
}

describe('deciding again and again while the fleet changes', () => {
  it.each(Object.entries(policies))('%s: as from nothing, on plain copies of the endpoints', (name, policy) => {
    fc.assert(
      fc.property(fc.oneof(definitions, few), fc.array(step, { minLength: 2, maxLength: 50, size: 'max' }), (written, steps) => {
        const bed = new Bed(written);
        const decided: { readonly decision: Decision; readonly then: object }[] = [];
        for (const it of steps) {
          if (it.kind !== 'decide') {
            bed.apply(it);
            continue;
          }
          const plain = bed.pool.endpoints.map(copyOf);
          const input = bed.inputOf(it, { name: 'chat', endpoints: plain });
          const told = filterAndScore(policy, input);
          const expected = decide(policy, input);
          const decision = decide(policy, bed.inputOf(it, bed.pool));

          const { trace } = decision;
          expect(writtenOut(decision)).toEqual(writtenOut(expected));
          expect([trace.candidates, trace.rejections]).toEqual([told.candidates, told.rejections]);
          expect(trace.rejectionCounts).toEqual(countRejections({ rejections: told.rejections }));
          expect(decision.kind === 'route').toBe(told.kept.length > 0);
          if (decision.kind === 'route') {
            const order = orders[name]?.(told.kept, input) ?? [];
            if (order.length > 0) expect(decision.addresses).toEqual(order.map((endpoint) => endpoint.address));
            if (policy.picker.name === 'highest-score') expect(decision.addresses).toEqual(byScore(told.kept, told.totals, it.draw).map((endpoint) => endpoint.address));
            const { best = decision.addresses } = decision;
            expect(best).toEqual(decision.addresses.slice(0, Math.max(best.length, bestMax)));
          }
          // Another, of which nothing is read until the end.
          decided.push({ decision: decide(policy, bed.inputOf(it, bed.pool)), then: writtenOut(expected) });
        }
        for (const { decision, then } of decided) expect(writtenOut(decision)).toEqual(then);
      }),
      { numRuns: 60 },
    );
  });

  it('the columns say what the endpoints say, and another version that the standing of one is another', () => {
    fc.assert(
      fc.property(few, fc.array(change, { maxLength: 60, size: 'max' }), (written, changes) => {
        const bed = new Bed(written);
        const weightsSeen: { readonly weights: Float64Array; readonly then: readonly number[] }[] = [];
        let before = { version: bed.pool.version, standings: bed.pool.endpoints.map(standingOf) };
        for (const it of changes) {
          bed.apply(it);
          const now = { version: bed.pool.version, standings: bed.pool.endpoints.map(standingOf) };
          if (JSON.stringify(now.standings) !== JSON.stringify(before.standings)) expect(now.version).not.toBe(before.version);
          before = now;
          weightsSeen.push({ weights: bed.pool.columns.weights, then: [...bed.pool.columns.weights] });
          const { endpoints } = bed.pool;
          const { at, columns } = columnsOf(endpoints, bed.pool);
          const told = endpoints.map((_, row) => {
            const place = at[row]!;
            const { weights, requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs } = columns;
            return [weights, requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs].map((column) => column[place]);
          });
          expect(told).toEqual(
            endpoints.map(({ weight, requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs }) =>
              [weight, requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs],
            ),
          );
          expect(columns.fullCount).toBe(endpoints.filter(({ full }) => full).length);
        }
        for (const { weights, then } of weightsSeen) expect([...weights]).toEqual(then);
      }),
      { numRuns: 400 },
    );
  });

  it('what is cached comes by candidate, whichever of them are left', () => {
    fc.assert(
      fc.property(definitions, fc.array(change, { maxLength: 30 }), request, fc.array(fc.boolean(), { minLength: 24, maxLength: 24 }), (written, changes, it, isLeft) => {
        const bed = new Bed(written);
        for (const one of changes) bed.apply(one);
        const input = bed.inputOf(it, bed.pool);
        const left = bed.pool.endpoints.filter((_, i) => isLeft[i % isLeft.length]);
        expect([...cachedOf(left, input)]).toEqual(left.map((endpoint) => input.cachedTokens.get(endpoint.address) ?? 0));
      }),
    );
  });
});
