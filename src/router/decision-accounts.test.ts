import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import type { DecisionAccount } from '../core/explain.ts';
import { noFacts, type RequestFacts } from '../core/request-facts.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { createMemoryExchange } from './memory-exchange.ts';
import type { Completion, RouterEvents } from './ports.ts';
import type { Routed } from './routed.ts';
import { Router } from './router.ts';
import type { RoutedPool } from './routing-table.ts';

const finished: Completion = { ending: 'finished', signal: 'access-log', status: 200 };
const endpoints = "[{ address: '10.0.0.1:80' }, { address: '10.0.0.2:80' }, { address: '10.0.0.3:80' }]";
const plain = `pools: [{ name: chat, policy: { preset: least-requests }, endpoints: ${endpoints} }]`;
const shadowed = `pools: [{ name: chat, policy: { preset: least-requests }, shadow: { policy: { preset: round-robin } }, endpoints: ${endpoints} }]`;

/** A router whose decision log is kept, one line each. */
function trial(yaml: string, changePool: (pool: RoutedPool) => RoutedPool = (pool) => pool): {
  router: Router;
  fleet: FleetView;
  log: string[];
  accounts: DecisionAccount[];
  clock: { ms: number };
  route: (facts?: Partial<RequestFacts>, options?: Parameters<Router['route']>[1]) => ReturnType<Router['route']>;
} {
  const outcome = loadConfig(yaml);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  const { config } = outcome;
  const table = {
    ...config.table,
    routes: config.table.routes.map((route) => ({ ...route, targets: route.targets.map((target) => ({ ...target, pool: changePool(target.pool) })) })),
  };
  const fleet = new FleetView(config.pools);
  const log: string[] = [];
  const accounts: DecisionAccount[] = [];
  const clock = { ms: 1_000 };
  let drawn = 0;
  const quiet = new Proxy({}, { get: () => () => {} }) as RouterEvents;
  const router = new Router({
    id: 'r',
    table,
    fleet,
    affinitySecret: 'of the tests',
    clock: { nowMs: () => clock.ms },
    rng: { draw: () => (drawn = (drawn + 0.37) % 1) },
    exchange: createMemoryExchange(),
    events: quiet,
    decisions: {
      decided: ({ lease, account }) => {
        log.push(`decided ${lease}`);
        accounts.push(account);
      },
      refused: (code, account) => {
        log.push(`refused ${code}`);
        accounts.push(account);
      },
      firstToken: (lease, ms) => log.push(`first-token ${lease} ${ms}`),
      ended: (lease, { ending }, ms) => log.push(`ended ${lease} ${ending} ${ms}`),
    },
    expireAfterMsMax: 60_000,
    assumedDurationMs: 30_000,
    endpointsMax: 8,
  });
  const route = (facts: Partial<RequestFacts> = {}, options: Parameters<Router['route']>[1] = {}): ReturnType<Router['route']> =>
    router.route({ ...noFacts, path: '/v1/chat/completions', ...facts }, options);
  return { router, fleet, log, accounts, clock, route };
}

describe('the decision log', () => {
  it('hears of a decision, its first token and its end, each once', () => {
    const { router, log, clock, route } = trial(plain);
    const { lease } = route() as Routed;
    clock.ms += 40;
    router.firstToken(lease);
    router.firstToken(lease);
    clock.ms += 60;
    router.observe(lease, finished);
    router.observe(lease, finished);
    expect(log).toEqual(['decided r.1', 'first-token r.1 40', 'ended r.1 finished 100']);
  });

  it('hears of expiry as an end', () => {
    const { router, log, clock, route } = trial(plain);
    route();
    clock.ms += 60_001;
    router.expire();
    router.expire();
    expect(log).toEqual(['decided r.1', 'ended r.1 expired 60001']);
  });

  it('hears nothing of a provisional decision before it stands, and then of the last', () => {
    const { router, log, accounts, route } = trial(plain);
    const earlier = route({}, { provisional: true }) as Routed;
    expect(log).toEqual([]);
    route({ model: 'of-the-body' }, { earlier });
    expect(log).toEqual(['decided r.1']);
    expect(accounts[0]?.model).toBe('of-the-body');
    const second = route({}, { provisional: true }) as Routed;
    router.confirm(second.lease);
    router.confirm(second.lease);
    expect(log).toEqual(['decided r.1', 'decided r.2']);
  });

  it('hears of a refusal with what was looked at, and of a provisional one nothing', () => {
    const { fleet, log, accounts, route } = trial(plain);
    for (const endpoint of fleet.pool('chat')!.endpoints) endpoint.state = 'draining';
    route({}, { provisional: true });
    expect(log).toEqual([]);
    const refusal = route();
    expect(log).toEqual(['refused no_ready_endpoint']);
    expect(refusal.account).toBe(accounts[0]);
    expect(accounts[0]?.considered).toMatchObject([{ pool: 'chat', decision: { kind: 'none', trace: { rejections: [{ reason: 'draining' }, {}, {}] } } }]);
  });

  it('is told who was asked by keyed hash alone', () => {
    const { accounts, route } = trial(plain);
    route({ session: 'private session', tenant: 'private tenant', path: '/private' });
    expect(accounts[0]?.sessionKey).toMatch(/^[0-9a-f]{32}$/);
    expect(JSON.stringify(accounts[0])).not.toContain('private');
  });
});

describe('a shadow policy', () => {
  const broken = ({ shadow, ...pool }: RoutedPool): RoutedPool => ({
    ...pool,
    shadow: shadow && {
      ...shadow,
      policy: {
        ...shadow.policy,
        filters: [
          {
            name: 'broken',
            run: () => {
              throw new Error('a bug of the shadow');
            },
          },
        ],
      },
    },
  });

  it.each([
    ['that works', shadowed, (pool: RoutedPool) => pool],
    ['that throws', shadowed, broken],
  ])('%s changes no decision', (_title, yaml, changePool) => {
    const [alone, watched] = [trial(plain), trial(yaml, changePool)];
    const choose = ({ route, router }: typeof alone): string[] =>
      Array.from({ length: 200 }, (_, i) => {
        const routed = route({ session: `s${i % 7}`, promptTokens: 100 + i }) as Routed;
        if (i % 3 === 0) router.observe(routed.lease, finished);
        return routed.addresses.join();
      });
    expect(choose(watched)).toEqual(choose(alone));
    expect(watched.accounts.every(({ considered }) => considered[0]?.shadow !== undefined)).toBe(true);
    expect(alone.accounts.every(({ considered }) => considered[0]?.shadow === undefined)).toBe(true);
  });

  it('is scored on the load that the live decision saw, before it added its own', () => {
    const { accounts, route, fleet } = trial(shadowed);
    Object.assign(fleet.pool('chat')!.endpoint('10.0.0.1:80')!.foreign, { requests: 1, requestsWaiting: 1, uncachedTokensWaiting: 4_500 });
    route({ promptTokens: 450 });
    const shadow = accounts[0]?.considered[0]?.shadow;
    // Round robin begins with the first, least requests never goes there: 4950 against 450 tokens at 45 a millisecond.
    expect(shadow).toMatchObject({ policy: 'round-robin', outcome: 'differ', address: '10.0.0.1:80', expectedTtftMs: { live: 10, shadow: 110 } });
  });

  it('that throws is told as failed, where the live one refuses as well', () => {
    const { accounts, route, fleet } = trial(shadowed, broken);
    for (const endpoint of fleet.pool('chat')!.endpoints) endpoint.state = 'draining';
    route();
    expect(accounts[0]?.considered[0]?.shadow).toMatchObject({ outcome: 'failed' });
  });
});
