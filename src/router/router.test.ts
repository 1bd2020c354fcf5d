import { beforeEach, describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { createAffinityHasher, hashName } from '../core/hash.ts';
import type { Picker } from '../core/policy.ts';
import { rendezvousOrder } from '../core/rendezvous.ts';
import { noFacts, type RequestFacts } from '../core/request-facts.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { type LoadEvent, SharedState } from '../fleet/shared-state.ts';
import { createMemoryExchange } from './memory-exchange.ts';
import type { Completion, RouterEvents, StateExchange } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { Router, type RouterOptions } from './router.ts';
import type { Routed } from './routed.ts';

const finished: Completion = { ending: 'finished', signal: 'access-log', status: 200 };
const abandoned: Completion = { ending: 'client-abort', signal: 'ext-proc' };

/** Everything that the router told anyone, in its order. */
type Told = { readonly [K in keyof RouterEvents]: readonly [K, ...Parameters<RouterEvents[K]>] }[keyof RouterEvents];

interface Bench {
  readonly router: Router;
  readonly fleet: FleetView;
  readonly told: Told[];
  readonly published: LoadEvent[];
  readonly forwarded: unknown[][];
  nowMs: number;
  /** Draws to come; then .5 for ever. */
  readonly draws: number[];
  route(facts?: Partial<RequestFacts>, options?: Parameters<Router['route']>[1]): Routed;
  refuse(facts?: Partial<RequestFacts>, options?: Parameters<Router['route']>[1]): Refusal;
  names(): string[];
  /** `[requests, prompt tokens, requests waiting, uncached tokens waiting]` by endpoint. */
  load(pool?: string): Record<string, number[]>;
}

function compiled(yaml: string): CompiledConfig {
  const outcome = loadConfig(yaml);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config;
}

function bench(yaml: string, options: Partial<RouterOptions> & { forward?: boolean } = {}): Bench {
  const config = compiled(yaml);
  const fleet = new FleetView(config.pools);
  const told: Told[] = [];
  const published: LoadEvent[] = [];
  const forwarded: unknown[][] = [];
  const draws: number[] = [];
  const exchange: StateExchange = {
    ...createMemoryExchange(),
    publish: (event) => published.push(event),
    forward: (...args) => {
      forwarded.push(args);
      return options.forward ?? false;
    },
  };
  const events: RouterEvents = {
    decided: (...args) => told.push(['decided', ...args]),
    refused: (code, pool) => told.push(['refused', code, pool]),
    firstToken: (...args) => told.push(['firstToken', ...args]),
    released: (...args) => told.push(['released', ...args]),
    foreignReport: (...args) => told.push(['foreignReport', ...args]),
    unknownLease: (...args) => told.push(['unknownLease', ...args]),
    noCompletionSignal: (...args) => told.push(['noCompletionSignal', ...args]),
    noFirstToken: (...args) => told.push(['noFirstToken', ...args]),
    endpointChanged: (...args) => told.push(['endpointChanged', ...args]),
    ejectionWithheld: (...args) => told.push(['ejectionWithheld', ...args]),
  };
  const made: Bench = {
    router: new Router({
      id: 'a',
      table: config.table,
      fleet,
      affinitySecret: 'test-secret',
      clock: { nowMs: () => made.nowMs },
      rng: { draw: () => draws.shift() ?? 0.5 },
      exchange,
      events,
      expireAfterMsMax: 1_800_000,
      assumedDurationMs: 30_000,
      endpointsMax: 8,
      ...options,
    }),
    fleet,
    told,
    published,
    forwarded,
    nowMs: 1_000,
    draws,
    route: (facts = {}, how = {}) => {
      const outcome = made.router.route({ ...noFacts, path: '/v1/chat/completions', ...facts }, how);
      if (outcome.kind !== 'route') throw new Error(`refused: ${outcome.code}`);
      return outcome;
    },
    refuse: (facts = {}, how = {}) => {
      const outcome = made.router.route({ ...noFacts, path: '/v1/chat/completions', ...facts }, how);
      if (outcome.kind !== 'refuse') throw new Error(`routed to ${outcome.addresses.join(', ')}`);
      return outcome;
    },
    names: () => told.map(([name]) => name),
    load: (pool = 'chat') =>
      Object.fromEntries(
        fleet.pool(pool)!.endpoints.map(({ address, own }) => [address.replace(/^10\.0\.0\.|:80$/g, ''), [own.requests, own.promptTokens, own.requestsWaiting, own.uncachedTokensWaiting]]),
      ),
  };
  return made;
}

const endpoints = (...numbers: readonly number[]): string => `[${numbers.map((n) => `{ address: '10.0.0.${n}:80' }`).join(', ')}]`;
const oneByOne = `pools: [{ name: chat, policy: { preset: round-robin }, endpoints: ${endpoints(1, 2, 3)} }]`;
const sticky = `pools: [{ name: chat, policy: { preset: session-affinity }, endpoints: ${endpoints(1, 2, 3)} }]`;

/** Addresses in the order in which the session prefers them. */
function preference(session: string, ...numbers: readonly number[]): string[] {
  const members = numbers.map((n) => ({ address: `10.0.0.${n}:80`, hash: hashName(`10.0.0.${n}:80`), weight: 1 }));
  return rendezvousOrder(createAffinityHasher('test-secret')('', session), members).map(({ address }) => address);
}

let on: Bench;
beforeEach(() => {
  on = bench(oneByOne);
});

describe('route', () => {
  it('names no endpoint with a limit to retry on, where no place was taken', () => {
    const limited = bench(`pools: [{ name: chat, policy: { preset: round-robin }, endpoints: [
      { address: '10.0.0.1:80', limits: { requests: 5 } }, { address: '10.0.0.2:80', limits: { requests: 5 } }, { address: '10.0.0.3:80' }] }]`);
    expect(limited.route().addresses).toEqual(['10.0.0.1:80', '10.0.0.3:80']);
    expect(limited.route().addresses).toEqual(['10.0.0.2:80', '10.0.0.3:80']);
    expect(limited.route().addresses).toEqual(['10.0.0.3:80']);
  });

  it('decides, reserves, and tells', () => {
    const routed = on.route({ promptTokens: 100 });
    expect(routed).toMatchObject({
      kind: 'route',
      lease: 'a.1',
      addresses: ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80'],
      promptTokens: 100,
      pool: { name: 'chat', cluster: 'chat' },
      decision: { reason: 'in-turn' },
    });
    expect(on.load()).toEqual({ 1: [1, 100, 1, 100], 2: [0, 0, 0, 0], 3: [0, 0, 0, 0] });
    expect(on.told).toEqual([['decided', routed]]);
    expect(on.published).toMatchObject([{ kind: 'dispatch', pool: 'chat', address: '10.0.0.1:80', promptTokens: 100 }]);
    expect(on.router.requestsInFlight).toBe(1);
  });

  it('gives each request a lease of its own', () => {
    expect([on.route(), on.route(), on.route()].map(({ lease }) => lease)).toEqual(['a.1', 'a.2', 'a.3']);
  });

  it('takes as many fallbacks as are allowed, the choice included', () => {
    on = bench(oneByOne, { endpointsMax: 2 });
    expect(on.route().addresses).toEqual(['10.0.0.1:80', '10.0.0.2:80']);
  });

  it('reckons a prompt of unknown length at the mean of those seen', () => {
    expect(on.route().promptTokens).toBe(1);
    on.route({ promptTokens: 640 });
    expect(on.route().promptTokens).toBe(640);
    on.route({ promptTokens: 1_280 });
    expect(on.route().promptTokens).toBe(650);
  });

  it('measures the time it took', () => {
    let nowMs = 0;
    on = bench(oneByOne, { clock: { nowMs: () => (nowMs += 0.25), wallMs: () => 0 } });
    expect(on.route().decisionMs).toBe(0.25);
  });

  it('counts its own load into the next decision', () => {
    on = bench(`pools: [{ name: chat, policy: { preset: least-requests }, endpoints: ${endpoints(1, 2, 3)} }]`);
    expect([on.route(), on.route(), on.route()].map(({ addresses }) => addresses[0]).sort()).toEqual(['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80']);
  });

  it('draws once a request', () => {
    on.draws.push(0.1, 0.2);
    expect([on.route(), on.route()].map(({ chance }) => chance.draw)).toEqual([0.1, 0.2]);
  });
});

describe('what was sent to a pool', () => {
  it('is what stands, at the length it is reckoned at, and no decision that may be made again', () => {
    const { dispatched } = on.router.fleet.pool('chat')!;
    const first = on.route({ promptTokens: 300 }, { provisional: true });
    expect(dispatched).toEqual({ requests: 0, promptTokens: 0, uncachedTokens: 0 });
    on.route({ promptTokens: 500 }, { earlier: first });
    on.route({ promptTokens: 20 });
    expect(dispatched).toEqual({ requests: 2, promptTokens: 520, uncachedTokens: 520 });
  });
});

describe('refusals', () => {
  const routes = `
pools:
  - { name: chat, policy: { preset: round-robin }, endpoints: [{ address: '10.0.0.1:80', limits: { requests: 1 } }] }
routes:
  - { match: { path: '/v1/*', model: 'gpt-*' }, targets: [{ pool: chat }] }`;

  it.each<[string, string, number, Partial<RequestFacts>]>([
    ['no model where routes ask for one', 'model_required', 400, {}],
    ['a model without a route', 'model_not_found', 404, { model: 'llama' }],
    ['a path without a route', 'route_not_found', 404, { path: '/other' }],
    ['a path without a route, with a model', 'model_not_found', 404, { path: '/other', model: 'gpt-4' }],
    ['an empty subset', 'subset_unavailable', 503, { model: 'gpt-4', subset: new Set() }],
    ['a subset of strangers', 'subset_unavailable', 503, { model: 'gpt-4', subset: new Set(['192.0.2.1:80']) }],
  ])('%s: %s', (_case, code, status, facts) => {
    on = bench(routes);
    expect(on.refuse(facts)).toMatchObject({ kind: 'refuse', code, status });
    // Where a route was found, it is its first pool that refuses.
    expect(on.told).toEqual([['refused', code, code === 'subset_unavailable' ? 'chat' : undefined]]);
    expect(on.published).toEqual([]);
    expect(on.router.requestsInFlight).toBe(0);
  });

  it('too long for every context: the prompt is to blame', () => {
    const sized = `pools: [{ name: chat, policy: { preset: round-robin }, endpoints: [{ address: '10.0.0.1:80', limits: { contextTokens: 8000 } }, { address: '10.0.0.2:80', limits: { contextTokens: 32000 } }] }]`;
    on = bench(sized);
    for (let i = 0; i < 4; i += 1) expect(on.route({ promptTokens: 20_000, maxTokens: 4_000 }).addresses).toEqual(['10.0.0.2:80']);
    expect(on.refuse({ promptTokens: 50_000 })).toMatchObject({ code: 'prompt_too_long', status: 400, retryAfterS: undefined });
    expect(on.refuse({ promptTokens: 20_000, maxTokens: 30_000 })).toMatchObject({ code: 'prompt_too_long' });
    // Another endpoint may take more when it is ready.
    on.fleet.pool('chat')!.endpoint('10.0.0.2:80')!.state = 'draining';
    expect(on.refuse({ promptTokens: 50_000 })).toMatchObject({ code: 'no_ready_endpoint' });
  });

  it('all at their limit: overloaded, until one ends', () => {
    on = bench(routes);
    const { lease } = on.route({ model: 'gpt-4' });
    expect(on.refuse({ model: 'gpt-4' })).toMatchObject({ code: 'overloaded', status: 429, retryAfterS: 1 });
    on.router.observe(lease, finished);
    expect(on.route({ model: 'gpt-4' }).lease).toBe('a.2');
  });

  it('none ready: no_ready_endpoint', () => {
    on = bench(routes);
    on.fleet.pool('chat')!.endpoints[0]!.state = 'ejected';
    expect(on.refuse({ model: 'gpt-4' })).toMatchObject({ code: 'no_ready_endpoint', status: 503 });
  });

  it('never repeat what the client sent', () => {
    on = bench(routes);
    const { message } = on.refuse({ model: 'secret-model', path: '/v1/secret', session: 'secret-session', tenant: 'secret-tenant' });
    expect(message).not.toContain('secret');
  });

  it('a request without model takes the route that takes every model', () => {
    on = bench(`${routes}\n  - { targets: [{ pool: chat }] }`);
    expect(on.route({ path: '/v1/models' }).pool.name).toBe('chat');
  });
});

describe('deciding again for the same request', () => {
  it('moves the reservation, keeps the lease, and tells of the second decision only', () => {
    const first = on.route({}, { provisional: true });
    expect(on.told).toEqual([]);
    expect(on.published).toEqual([]);
    expect(on.load()[1]).toEqual([1, 1, 1, 1]);
    const second = on.route({ promptTokens: 500 }, { earlier: first });
    expect(second.lease).toBe(first.lease);
    expect(on.load()).toEqual({ 1: [1, 500, 1, 500], 2: [0, 0, 0, 0], 3: [0, 0, 0, 0] });
    expect(on.told).toEqual([['decided', second]]);
    expect(on.published).toMatchObject([{ kind: 'dispatch', promptTokens: 500 }]);
    expect(on.router.requestsInFlight).toBe(1);
  });

  it('repeats chance and order: without new facts it decides the same, and takes no other turn', () => {
    on.draws.push(0.1, 0.9);
    const first = on.route({}, { provisional: true });
    const second = on.route({}, { earlier: first });
    expect(second.addresses).toEqual(first.addresses);
    expect(second.chance.draw).toBe(0.1);
    expect(on.route().addresses[0]).toBe('10.0.0.2:80');
    expect(on.fleet.pool('chat')!.sequence).toBe(2);
  });

  it('takes one turn in each pool that it was considered for', () => {
    on = bench(`
pools:
  - { name: chat, policy: { preset: round-robin }, endpoints: ${endpoints(1, 2)} }
  - { name: gpt, policy: { preset: round-robin }, endpoints: ${endpoints(3, 4)} }
routes:
  - { match: { model: 'gpt-*' }, targets: [{ pool: gpt }] }
  - { targets: [{ pool: chat }] }`);
    const first = on.route({}, { provisional: true });
    const second = on.route({ model: 'gpt-4' }, { earlier: first, provisional: true });
    const third = on.route({ model: 'gpt-4' }, { earlier: second });
    expect([first, second, third].map(({ addresses }) => addresses[0])).toEqual(['10.0.0.1:80', '10.0.0.3:80', '10.0.0.3:80']);
    expect(on.load('chat')).toEqual({ 1: [0, 0, 0, 0], 2: [0, 0, 0, 0] });
    expect(on.load('gpt')).toEqual({ 3: [1, 1, 1, 1], 4: [0, 0, 0, 0] });
    expect([on.fleet.pool('chat')!.sequence, on.fleet.pool('gpt')!.sequence]).toEqual([1, 1]);
  });

  it('its own load does not count against it', () => {
    on = bench(`pools: [{ name: chat, policy: { preset: least-requests }, endpoints: [{ address: '10.0.0.1:80', limits: { requests: 1 } }] }]`);
    const first = on.route({}, { provisional: true });
    expect(on.route({ promptTokens: 9 }, { earlier: first }).addresses).toEqual(['10.0.0.1:80']);
  });

  it('keeps its start: the time until the second decision is part of the request', () => {
    const first = on.route({}, { provisional: true });
    on.nowMs += 400;
    const { lease } = on.route({}, { earlier: first });
    on.nowMs += 100;
    on.router.observe(lease, finished);
    expect(on.told.at(-1)).toEqual(['released', 'chat', '10.0.0.1:80', finished, 500]);
  });

  it('refused the second time, it is counted no more and was never told of', () => {
    const first = on.route({}, { provisional: true });
    expect(on.refuse({ subset: new Set() }, { earlier: first }).code).toBe('subset_unavailable');
    expect(on.router.requestsInFlight).toBe(0);
    expect(on.load()[1]).toEqual([0, 0, 0, 0]);
    expect(on.told).toEqual([['refused', 'subset_unavailable', 'chat']]);
    on.router.confirm(first.lease);
    expect(on.published).toEqual([]);
  });

  it('refused provisionally, nothing is told, and it may be routed later', () => {
    expect(on.refuse({ subset: new Set() }, { provisional: true }).code).toBe('subset_unavailable');
    expect(on.told).toEqual([]);
    on.route();
    expect(on.names()).toEqual(['decided']);
  });

  it('learns the length of a prompt once', () => {
    const first = on.route({ promptTokens: 640 }, { provisional: true });
    on.route({ promptTokens: 1_280 }, { earlier: first });
    expect(on.fleet.pool('chat')!.promptTokensMean).toBe(1_280);
  });

  it('learns the length of a prompt whose provisional decision stands', () => {
    on.router.confirm(on.route({ promptTokens: 640 }, { provisional: true }).lease);
    expect(on.fleet.pool('chat')!.promptTokensMean).toBe(640);
  });

  it('does not bring back a request that is over', () => {
    const first = on.route({}, { provisional: true });
    on.router.observe(first.lease, abandoned);
    on.router.route({ ...noFacts, path: '/' }, { earlier: first });
    expect(on.router.requestsInFlight).toBe(0);
  });
});

describe('confirm', () => {
  it('lets a provisional decision stand, once', () => {
    const routed = on.route({ promptTokens: 5 }, { provisional: true });
    on.router.confirm(routed.lease);
    on.router.confirm(routed.lease);
    expect(on.told).toEqual([['decided', routed]]);
    expect(on.published).toMatchObject([{ kind: 'dispatch', promptTokens: 5 }]);
    expect(on.router.requestsInFlight).toBe(1);
  });

  it('says nothing new of a final decision, of a lease that is over, and of none', () => {
    const { lease } = on.route();
    on.router.confirm(lease);
    on.router.observe(lease, finished);
    on.router.confirm(lease);
    on.router.confirm('a.99');
    expect(on.names()).toEqual(['decided', 'released']);
  });
});

describe('firstToken', () => {
  it('ends the waiting, once, and tells', () => {
    const { lease } = on.route({ promptTokens: 100 });
    on.nowMs += 250;
    on.router.firstToken(lease);
    on.router.firstToken(lease);
    expect(on.load()[1]).toEqual([1, 100, 0, 0]);
    expect(on.told.slice(1)).toEqual([['firstToken', 'chat', '10.0.0.1:80', 250]]);
    expect(on.published.map(({ kind }) => kind)).toEqual(['dispatch', 'first-token']);
  });

  it('is proof that a provisional decision stands', () => {
    const { lease } = on.route({}, { provisional: true });
    on.router.firstToken(lease);
    expect(on.names()).toEqual(['decided', 'firstToken']);
  });

  it('after the end, means nothing', () => {
    const { lease } = on.route();
    on.router.observe(lease, finished);
    on.router.firstToken(lease);
    expect(on.names()).toEqual(['decided', 'released']);
    expect(on.load()[1]).toEqual([0, 0, 0, 0]);
  });
});

describe('observe', () => {
  it.each<Completion>([
    finished,
    abandoned,
    { ending: 'upstream-failure', signal: 'access-log', status: 503 },
    { ending: 'not-proxied', signal: 'access-log', status: 403 },
    { ending: 'stream-error', signal: 'ext-proc' },
    { ending: 'finished', signal: 'response-phases', status: 200 },
  ])('$ending by $signal: releases and tells once, however often it is said', (completion) => {
    const { lease } = on.route({ promptTokens: 100 });
    on.nowMs += 70;
    on.router.observe(lease, completion);
    on.router.observe(lease, completion);
    on.router.observe(lease, finished);
    expect(on.load()[1]).toEqual([0, 0, 0, 0]);
    expect(on.router.requestsInFlight).toBe(0);
    expect(on.told.slice(1)).toEqual([['released', 'chat', '10.0.0.1:80', completion, 70], ['unknownLease'], ['unknownLease']]);
    expect(on.published.map(({ kind }) => kind)).toEqual(['dispatch', 'done']);
  });

  it('releases what was reserved, whoever served it in the end', () => {
    const { lease } = on.route({ promptTokens: 100 });
    on.router.observe(lease, { ...finished, servedBy: '10.0.0.2:80' });
    expect(on.load()).toEqual({ 1: [0, 0, 0, 0], 2: [0, 0, 0, 0], 3: [0, 0, 0, 0] });
  });

  it('of a provisional decision, tells that it stood and that it ended', () => {
    const { lease } = on.route({}, { provisional: true });
    on.router.observe(lease, abandoned);
    expect(on.names()).toEqual(['decided', 'released']);
    expect(on.published.map(({ kind }) => kind)).toEqual(['dispatch', 'done']);
  });

  it.each(['a.99', 'a.', 'a.x'])('%s: a lease of ours that is not held', (lease) => {
    on.router.observe(lease, finished);
    expect(on.told).toEqual([['unknownLease']]);
    expect(on.forwarded).toEqual([]);
  });

  it.each([
    ['b.1', 'b'],
    ['a.b.1', 'a.b'],
    ['b.', 'b'],
    ['', ''],
    ['nonsense', ''],
    ['.1', ''],
  ])('%j: handed to its owner, and nothing of ours is touched', (lease, owner) => {
    on.route();
    on.router.observe(lease, finished);
    expect(on.forwarded).toEqual([[owner, lease, finished]]);
    expect(on.told.slice(1)).toEqual([['foreignReport', owner, false]]);
    expect(on.router.requestsInFlight).toBe(1);
    expect(on.router.completionsSeen).toBe(false);
  });

  it('says so when a foreign lease found its way', () => {
    on = bench(oneByOne, { forward: true });
    on.router.observe('b.1', finished);
    expect(on.told).toEqual([['foreignReport', 'b', true]]);
  });

  it('knows that completions come, from those signals that mean it', () => {
    on.router.observe(on.route().lease, abandoned);
    expect(on.router.completionsSeen).toBe(false);
    on.router.observe(on.route().lease, { ending: 'finished', signal: 'response-phases' });
    expect(on.router.completionsSeen).toBe(true);
  });
});

describe('expire', () => {
  it('without any completion ever, drops requests after the assumed duration', () => {
    const { lease } = on.route({ promptTokens: 100 });
    on.nowMs += 29_999;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(1);
    on.nowMs += 1;
    on.router.expire();
    expect(on.load()[1]).toEqual([0, 0, 0, 0]);
    expect(on.told.slice(1)).toEqual([['released', 'chat', '10.0.0.1:80', { ending: 'expired', signal: 'timer' }, 30_000]]);
    expect(on.published.map(({ kind }) => kind)).toEqual(['dispatch', 'done']);
    on.router.observe(lease, finished);
    expect(on.names().slice(2)).toEqual(['unknownLease']);
  });

  it('once completions come, waits as long as hardly any request takes', () => {
    const first = on.route();
    on.nowMs += 10_000;
    on.router.observe(first.lease, finished);
    // Mean 10 s, deviation 5 s: 10 + 16 × 5 = 90 s.
    on.route();
    on.nowMs += 89_999;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(1);
    on.nowMs += 1;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(0);
  });

  it('waits as long as allowed where completions come but none of them finished', () => {
    on.router.observe(on.route().lease, { ending: 'upstream-failure', signal: 'access-log' });
    on.route();
    on.nowMs += 1_799_999;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(1);
    on.nowMs += 1;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(0);
  });

  it('never waits longer than allowed', () => {
    on = bench(oneByOne, { expireAfterMsMax: 20_000 });
    const first = on.route();
    on.nowMs += 15_000;
    on.router.observe(first.lease, finished);
    on.route();
    on.nowMs += 20_000;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(0);
  });

  it('learns from finished requests alone: those cut short say nothing of how long one takes', () => {
    const first = on.route();
    on.nowMs += 100_000;
    on.router.observe(first.lease, { ending: 'client-abort', signal: 'access-log' });
    on.route();
    on.nowMs += 1_000_000;
    on.router.expire();
    expect(on.router.requestsInFlight).toBe(1);
  });

  it('counts a provisional decision as made before it drops it', () => {
    on.route({}, { provisional: true });
    on.nowMs += 30_000;
    on.router.expire();
    expect(on.names()).toEqual(['decided', 'released']);
    expect(on.published.map(({ kind }) => kind)).toEqual(['dispatch', 'done']);
  });

  it('finds a request that was decided on again by its start', () => {
    const first = on.route({}, { provisional: true });
    on.nowMs += 1_000;
    on.route();
    on.route({}, { earlier: first });
    on.nowMs += 29_000;
    on.router.expire();
    expect(on.names().filter((name) => name === 'released')).toHaveLength(1);
  });
});

describe('silence', () => {
  const send = (requests: number): void => {
    for (let i = 0; i < requests; i += 1) on.route();
  };
  const silences = (): unknown[] => on.told.filter(([name]) => name === 'noCompletionSignal');

  it('is told once, when 50 requests were sent and 20 s have passed', () => {
    send(50);
    on.nowMs += 19_999;
    on.router.expire();
    expect(silences()).toEqual([]);
    on.nowMs += 1;
    on.router.expire();
    on.router.expire();
    send(50);
    on.nowMs += 60_000;
    on.router.expire();
    expect(silences()).toEqual([['noCompletionSignal', 50]]);
  });

  it('is no matter while few requests were sent', () => {
    send(49);
    on.nowMs += 3_600_000;
    on.router.expire();
    expect(silences()).toEqual([]);
    send(1);
    on.router.expire();
    expect(silences()).toEqual([['noCompletionSignal', 50]]);
  });

  it('is none once a completion came', () => {
    send(50);
    on.router.observe('a.1', finished);
    on.nowMs += 60_000;
    on.router.expire();
    expect(silences()).toEqual([]);
  });

  it('is not broken by what ext_proc itself notices', () => {
    send(50);
    on.router.observe('a.1', abandoned);
    on.nowMs += 20_000;
    on.router.expire();
    expect(silences()).toHaveLength(1);
  });
});

describe('sessions', () => {
  beforeEach(() => {
    on = bench(sticky);
  });

  it('go to one endpoint, turn after turn, which is the home that every router computes', () => {
    for (const session of ['alice', 'bob', 'carol', 'dave']) {
      for (let turn = 0; turn < 5; turn += 1) {
        const { addresses, lease } = on.route({ session, promptTokens: 100 });
        expect(addresses).toEqual(preference(session, 1, 2, 3));
        on.router.observe(lease, finished);
      }
    }
  });

  it('of different tenants are different sessions', () => {
    const homes = (tenant: string): (string | undefined)[] =>
      Array.from({ length: 20 }, (_, i) => {
        const { addresses, lease } = on.route({ session: `s${i}`, tenant, promptTokens: 1 });
        on.router.observe(lease, finished);
        return addresses[0];
      });
    expect(homes('acme')).toEqual(homes('acme'));
    expect(homes('acme')).not.toEqual(homes('globex'));
  });

  it('diverted by load stay where they went, when home has room again', () => {
    const [home, next] = preference('alice', 1, 2, 3);
    const busy = on.fleet.pool('chat')!.endpoint(home!)!;
    Object.assign(busy.foreign, { requests: 50, promptTokens: 50_000 });
    const first = on.route({ session: 'alice', promptTokens: 100 });
    expect(first).toMatchObject({ decision: { reason: 'affinity-diverted', home } });
    expect(first.addresses[0]).toBe(next);
    on.router.observe(first.lease, finished);
    Object.assign(busy.foreign, { requests: 0, promptTokens: 0 });
    const second = on.route({ session: 'alice', promptTokens: 100 });
    expect(second).toMatchObject({ decision: { reason: 'affinity-placed', home } });
    expect(second.addresses[0]).toBe(next);
    // Another session of the same home is not affected.
    const other = Array.from({ length: 50 }, (_, i) => `s${i}`).find((session) => preference(session, 1, 2, 3)[0] === home);
    expect(on.route({ session: other, promptTokens: 100 }).addresses[0]).toBe(home);
  });

  it('are placed by final decisions only', () => {
    const [home] = preference('alice', 1, 2, 3);
    const busy = on.fleet.pool('chat')!.endpoint(home!)!;
    Object.assign(busy.foreign, { requests: 50, promptTokens: 50_000 });
    const first = on.route({ session: 'alice', promptTokens: 100 }, { provisional: true });
    expect(first.decision.reason).toBe('affinity-diverted');
    Object.assign(busy.foreign, { requests: 0, promptTokens: 0 });
    expect(on.route({ session: 'alice', promptTokens: 100 }, { earlier: first }).addresses[0]).toBe(home);
    expect(on.route({ session: 'alice', promptTokens: 100 }).decision.reason).toBe('affinity-home');
  });

  it('diverted by a limit stay where they went, when home has room again', () => {
    on = bench(sticky.replaceAll(":80'", ":80', limits: { requests: 4 }"));
    const [home, next] = preference('alice', 1, 2, 3);
    const full = on.fleet.pool('chat')!.endpoint(home!)!;
    Object.assign(full.foreign, { requests: 4 });
    const first = on.route({ session: 'alice', promptTokens: 100 });
    expect(first.addresses[0]).toBe(next);
    on.router.observe(first.lease, finished);
    Object.assign(full.foreign, { requests: 0 });
    expect(on.route({ session: 'alice', promptTokens: 100 }).addresses[0]).toBe(next);
  });
});

describe('targets by weight', () => {
  const canary = (policy: string): string => `
pools:
  - { name: stable, policy: { preset: ${policy} }, endpoints: ${endpoints(1, 2)} }
  - { name: canary, policy: { preset: ${policy} }, endpoints: ${endpoints(3, 4)} }
routes:
  - { targets: [{ pool: stable, weight: 90 }, { pool: canary, weight: 10 }] }`;

  it('share requests without a session by the draw', () => {
    on = bench(canary('round-robin'));
    const counts = { stable: 0, canary: 0 };
    for (let i = 0; i < 1_000; i += 1) {
      on.draws.push((i + 0.5) / 1_000);
      counts[on.route().pool.name as 'stable' | 'canary'] += 1;
    }
    expect(counts).toEqual({ stable: 900, canary: 100 });
  });

  it('share sessions by their hash: each stays with its target, whatever is drawn', () => {
    on = bench(canary('session-affinity'));
    let onCanary = 0;
    for (let i = 0; i < 2_000; i += 1) {
      on.draws.push(0, 0.999);
      const first = on.route({ session: `s${i}`, promptTokens: 1 });
      const second = on.route({ session: `s${i}`, promptTokens: 1 });
      expect(second.pool.name).toBe(first.pool.name);
      if (first.pool.name === 'canary') onCanary += 1;
      for (const { lease } of [first, second]) on.router.observe(lease, finished);
    }
    // 200 expected, standard deviation 13.
    expect(Math.abs(onCanary - 200)).toBeLessThan(4 * 13);
  });

  it('a target of weight 0 gets nothing', () => {
    on = bench(canary('round-robin').replace('weight: 90', 'weight: 0'));
    for (const draw of [0, 0.5, 0.999_999]) {
      on.draws.push(draw);
      expect(on.route().pool.name).toBe('canary');
    }
  });

  it('the last target of weight 0 gets nothing either', () => {
    on = bench(canary('round-robin').replace('weight: 10', 'weight: 0'));
    on.draws.push(1 - Number.EPSILON / 2);
    expect(on.route().pool.name).toBe('stable');
  });

  it('all endpoints of a target get their share of ties', () => {
    on = bench(canary('session-affinity'));
    const seen = new Set<string | undefined>();
    for (let i = 0; i < 1_000; i += 1) {
      on.draws.push((i + 0.5) / 1_000);
      const { pool, addresses, lease } = on.route();
      if (pool.name === 'canary') seen.add(addresses[0]);
      on.router.observe(lease, finished);
    }
    expect([...seen].sort()).toEqual(['10.0.0.3:80', '10.0.0.4:80']);
  });
});

describe('a request that goes on for long', () => {
  it('stays counted as long as it is heard of, and ends as any other', () => {
    const { lease } = on.route();
    const { lease: silent } = on.route();
    for (let i = 0; i < 40; i += 1) {
      on.nowMs += 15_000;
      on.router.observe(lease, { ending: 'open', signal: 'access-log' });
      on.router.expire();
    }
    expect(on.router.requestsInFlight).toBe(1);
    expect(on.told.filter(([kind]) => kind === 'released')).toMatchObject([['released', expect.anything(), expect.anything(), { ending: 'expired' }, expect.anything()]]);
    on.router.observe(lease, finished);
    on.router.observe(silent, finished);
    expect(on.router.requestsInFlight).toBe(0);
    expect(on.published.filter(({ kind }) => kind === 'done')).toHaveLength(2);
  });
});

describe('first tokens that never come', () => {
  it.each([
    ['are missed where a stream was asked for', true, 1],
    ['are missed where nobody knows', undefined, 1],
    ['are not missed of answers in one piece', false, 0],
  ])('%s', (_title, stream, times) => {
    const noticing = bench(oneByOne.replace('policy:', 'observe: { firstToken: true }, policy:'));
    for (let i = 0; i < 60; i += 1) noticing.router.observe(noticing.route({ stream }).lease, finished);
    expect(noticing.names().filter((name) => name === 'noFirstToken')).toHaveLength(times);
  });
});

describe('a bug in a policy', () => {
  const withPicker = (run: Picker, yaml = oneByOne): Bench => {
    const { table } = compiled(yaml);
    const [route] = table.routes;
    const { pool } = route!.targets[0]!;
    const policy = { ...pool.policy, picker: { name: 'broken', run } };
    return bench(yaml, { table: { ...table, routes: [{ ...route!, targets: [{ pool: { ...pool, policy }, weight: 1 }] }] } });
  };

  it.each([
    ['all but the best have a limit', 0, 0],
    ['some beside the best have none', 1, 1],
  ])('in the order of all matters to nobody where %s', (_, unlimited, asked) => {
    const endpoints = Array.from({ length: 12 }, (_one, i) => `{ address: '10.0.0.${10 + i}:80'${i < 3 || i >= 12 - unlimited ? '' : ', limits: { requests: 9 }'} }`);
    let orders = 0;
    on = withPicker(
      (candidates) => ({
        best: candidates.slice(0, 8),
        get order() {
          orders += 1;
          return candidates;
        },
        reason: 'first',
        home: undefined,
      }),
      `pools: [{ name: chat, policy: { preset: random }, endpoints: [${endpoints.join()}] }]`,
    );
    expect(on.route().addresses).toEqual([10, 11, 12, ...(unlimited === 1 ? [21] : [])].map((n) => `10.0.0.${n}:80`));
    expect(orders).toBe(asked);
  });

  it('reaches the caller, and leaves nothing counted', () => {
    on = withPicker(() => {
      throw new Error('bug');
    });
    expect(() => on.route()).toThrow('bug');
    expect(on.router.requestsInFlight).toBe(0);
    expect(on.told).toEqual([]);
  });

  it('is told what others turned out to send at the moment of own dispatches, as soon as these stand', () => {
    const expected: (number | undefined)[] = [];
    on = withPicker((order, _scores, { unheardTokens }) => {
      expected.push(unheardTokens);
      return { order, reason: 'first', home: undefined };
    });
    const others = new SharedState(on.fleet, new Placements());
    const meet = (): void => {
      const first = on.route({}, { provisional: true });
      on.nowMs += 100;
      on.router.confirm(first.lease);
      const [dispatch] = on.published.slice(-1);
      others.applyEvent('b', { ...dispatch, uncachedTokens: 6_400 } as LoadEvent, on.nowMs + 1);
      on.nowMs += 100;
      on.router.observe(first.lease, finished);
    };
    meet();
    meet();
    on.route();
    // Learned at the next dispatch or event: a 64th of 6400, then a 64th of what is still missing.
    expect(expected).toEqual([0, 0, 100]);
  });

  it('on the second decision, leaves every dispatch told with its end', () => {
    let calls = 0;
    on = withPicker((order) => {
      calls += 1;
      if (calls === 2) throw new Error('bug');
      return { order, reason: 'first', home: undefined };
    });
    const first = on.route({}, { provisional: true });
    expect(() => on.route({}, { earlier: first })).toThrow('bug');
    // As the stream does when it fails.
    on.router.observe(first.lease, { ending: 'stream-error', signal: 'ext-proc' });
    expect(on.published.filter(({ kind }) => kind === 'dispatch')).toHaveLength(on.published.filter(({ kind }) => kind === 'done').length);
  });
});

describe('missingFacts', () => {
  it('asks the routing table', () => {
    on = bench(sticky);
    expect([...on.router.missingFacts({ path: '/', model: undefined, session: undefined, tenant: undefined })].sort()).toEqual(['promptTokens', 'session']);
    expect([...on.router.missingFacts({ path: '/', model: undefined, session: 'alice', tenant: undefined })]).toEqual(['promptTokens']);
  });
});

describe('what endpoints have cached', () => {
  const byCache = `pools: [{ name: chat, policy: { preset: sticky }, endpoints: ${endpoints(1, 2, 3)} }]`;
  const keyIdOf = (session: string, tenant = ''): string => createAffinityHasher('test-secret')(tenant, session).id;
  const asks = (router: Router, session: string | undefined, tenant?: string): string[] =>
    [...router.missingFacts({ path: '/v1/chat/completions', model: undefined, session, tenant })].sort();
  const turn = { session: 'alice', promptTokens: 1_500, prefixHashes: [1, 2] };

  it('a session whose body was read once is not asked for its prefix again; others are', () => {
    on = bench(byCache);
    expect(asks(on.router, 'alice')).toEqual(['prefix', 'promptTokens']);
    on.route({ session: 'alice', promptTokens: 1_500 });
    expect(asks(on.router, 'alice')).toEqual(['prefix', 'promptTokens']);
    on.route(turn);
    expect(asks(on.router, 'alice')).toEqual(['promptTokens']);
    expect(asks(on.router, 'bob')).toEqual(['prefix', 'promptTokens']);
    expect(asks(on.router, 'alice', 'another tenant')).toEqual(['prefix', 'promptTokens']);
    expect(asks(on.router, undefined)).toEqual(['prefix', 'promptTokens', 'session']);
  });

  it('a session that is known in one pool is read for another, as far as the headers tell which it will be', () => {
    on = bench(`
pools: [${['chat', 'code'].map((name, i) => `{ name: ${name}, policy: { preset: sticky }, endpoints: ${endpoints(i + 1)} }`).join(', ')}]
routes: [{ match: { model: 'code-*' }, targets: [{ pool: code }] }, { targets: [{ pool: chat }] }]`);
    const asksFor = (model: string | undefined): string[] => [...on.router.missingFacts({ path: '/v1/chat/completions', model, session: 'alice', tenant: undefined })].sort();
    on.route({ ...turn, model: 'llama' });
    expect(asksFor('llama')).toEqual(['promptTokens']);
    expect(asksFor('code-1')).toEqual(['prefix', 'promptTokens']);
    on.route({ ...turn, model: 'code-1' });
    expect([asksFor('llama'), asksFor('code-1')]).toEqual([['promptTokens'], ['promptTokens']]);
  });

  it('nor is it by any other router, once it heard of that', () => {
    on = bench(byCache);
    const { addresses } = on.route(turn);
    const other = bench(byCache, { id: 'b' });
    const heard = new SharedState(other.fleet, new Placements());
    for (const event of on.published) heard.applyEvent('a', event, 0);
    heard.forget('a', 0);
    expect(asks(other.router, 'alice')).toEqual(['promptTokens']);
    expect(other.route({ session: 'alice', promptTokens: 1_600 })).toMatchObject({ addresses: [addresses[0], expect.anything(), expect.anything()], uncachedTokens: 100 });
  });

  it('a decision that may be made again teaches nothing until it stands', () => {
    on = bench(byCache);
    const provisional = on.route(turn, { provisional: true });
    expect([asks(on.router, 'alice'), on.published]).toEqual([['prefix', 'promptTokens'], []]);
    on.router.confirm(provisional.lease);
    expect([asks(on.router, 'alice'), on.published.length]).toEqual([['promptTokens'], 1]);
  });

  it('is told with each dispatch, where the policy reckons with it, and by keyed hash only', () => {
    on = bench(byCache);
    on.route(turn);
    on.route({ promptTokens: 700, prefixHashes: [1] });
    on.route({ session: 'bob', tenant: 'acme', promptTokens: 700 });
    expect(on.published).toMatchObject([
      { kind: 'dispatch', promptTokens: 1_500, uncachedTokens: 1_500, cached: { keyId: keyIdOf('alice'), prefixHashes: [1, 2] }, placement: undefined },
      { kind: 'dispatch', promptTokens: 700, cached: { keyId: undefined, prefixHashes: [1] } },
      { kind: 'dispatch', promptTokens: 700, cached: { keyId: keyIdOf('bob', 'acme'), prefixHashes: [] } },
    ]);
    on = bench(sticky);
    on.route(turn);
    expect(on.published).toMatchObject([{ kind: 'dispatch', cached: undefined, uncachedTokens: 1_500 }]);
    expect(on.fleet.pool('chat')!.cache.knows(keyIdOf('alice'))).toBe(false);
  });

  it('does not count as waiting: the rest of the prompt does, in the load and in all that is told, to the end', () => {
    on = bench(byCache);
    const first = on.route(turn);
    on.router.observe(first.lease, finished);
    const second = on.route({ ...turn, promptTokens: 2_000, prefixHashes: [1, 2, 3] });
    expect(second).toMatchObject({ addresses: [first.addresses[0], expect.anything(), expect.anything()], promptTokens: 2_000, uncachedTokens: 976 });
    const at = first.addresses[0]!.replace(/^10\.0\.0\.|:80$/g, '');
    expect(on.load()[at]).toEqual([1, 2_000, 1, 976]);
    on.router.firstToken(second.lease);
    expect(on.load()[at]).toEqual([1, 2_000, 0, 0]);
    on.router.observe(second.lease, finished);
    expect(on.published.slice(2)).toMatchObject([
      { kind: 'dispatch', promptTokens: 2_000, uncachedTokens: 976 },
      { kind: 'first-token', uncachedTokens: 976 },
      { kind: 'done', promptTokens: 2_000, uncachedTokens: 976, waiting: false },
    ]);
    expect(on.fleet.pool('chat')!.endpoints.map(({ line }) => line.length)).toEqual([0, 0, 0]);
  });

  it('is that of the endpoint where the place was taken, not of the choice that had none', async () => {
    const capped = `pools: [{ name: chat, policy: { preset: sticky }, endpoints: [${[1, 2].map((n) => `{ address: '10.0.0.${n}:80', limits: { requests: 9 } }`).join(', ')}] }]`;
    const published: LoadEvent[] = [];
    let full = '';
    const caps: StateExchange['caps'] = {
      acquire: (_pool, _lease, asked) => Promise.resolve({ taken: asked.find(({ address }) => address !== full)?.address }),
      release: () => {},
      shareOf: (requestsMax) => requestsMax,
    };
    on = bench(capped, { exchange: { ...createMemoryExchange(), caps, publish: (event) => published.push(event) } });
    const first = await on.router.secure(on.route(turn));
    if (first.kind !== 'route') throw new Error(first.code);
    full = first.addresses[0]!;
    const second = await on.router.secure(on.route(turn));
    if (second.kind !== 'route') throw new Error(second.code);
    // The choice has it cached, the other nothing of it.
    expect(second.decision.addresses[0]).toBe(full);
    expect(second.addresses[0]).not.toBe(full);
    expect(second.uncachedTokens).toBe(1_500);
    expect(published.at(-1)).toMatchObject({ kind: 'dispatch', address: second.addresses[0], uncachedTokens: 1_500 });
    expect(Object.values(on.load())).toEqual([[1, 1_500, 1, 1_500], [1, 1_500, 1, 1_500]]);
    for (const { lease } of [first, second]) on.router.observe(lease, finished);
    expect(Object.values(on.load())).toEqual([[0, 0, 0, 0], [0, 0, 0, 0]]);
  });
});
