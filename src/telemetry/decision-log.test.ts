import { describe, expect, it } from 'vitest';
import type { Decision } from '../core/decision.ts';
import { type Considered, createAccount, type DecisionAccount } from '../core/explain.ts';
import { createAffinityHasher } from '../core/hash.ts';
import { noFacts, type RequestFacts } from '../core/request-facts.ts';
import type { DecisionLog } from '../router/ports.ts';
import type { Routed } from '../router/routed.ts';
import { combineDecisionLogs, DecisionRecorder, type DecisionRecorderOptions } from './decision-log.ts';

const address = '10.0.0.1:80';
const hash = createAffinityHasher('secret of the tests');
const decision: Extract<Decision, { kind: 'route' }> = {
  kind: 'route',
  addresses: [address],
  reason: 'cache-kept',
  home: undefined,
  trace: { policy: 'sticky', candidates: [address], rejections: [], scores: [] },
};

function accountOf(facts: Partial<RequestFacts> = {}, change: Partial<Considered> = {}): DecisionAccount {
  const whole = { ...noFacts, model: 'm', promptTokens: 1_200, maxTokens: 64, stream: true, prefixHashes: [11, 22], ...facts };
  const account = createAccount('all', whole, whole.session === undefined ? undefined : hash(whole.tenant ?? '', whole.session).id);
  account.considered.push({ pool: 'chat', decision, promptTokens: 1_200, cachedTokens: new Map([[address, 1_024]]), ...change });
  return account;
}

function routedOf(lease: string, account: DecisionAccount = accountOf()): Routed {
  const routed: Partial<Routed> = {
    kind: 'route',
    lease,
    pool: { name: 'chat' } as Routed['pool'],
    addresses: [address],
    decision,
    account,
    promptTokens: 1_200,
    uncachedTokens: 176,
    decisionMs: 0.0421,
  };
  return routed as Routed;
}

type Line = Readonly<Record<string, unknown>>;

function recorder(change: Partial<DecisionRecorderOptions> = {}): { log: DecisionRecorder; lines: Line[]; texts: string[]; dropped: () => number } {
  const lines: Line[] = [];
  const texts: string[] = [];
  let dropped = 0;
  const log = new DecisionRecorder({
    routerId: 'r1',
    sample: 1,
    prefixHashes: false,
    trace: false,
    sink: {
      write: (line) => {
        texts.push(line);
        lines.push(JSON.parse(line) as Line);
        return true;
      },
    },
    wallMs: () => Date.UTC(2026, 0, 2, 3, 4, 5, 678),
    onDropped: () => (dropped += 1),
    ...change,
  });
  return { log, lines, texts, dropped: () => dropped };
}

describe('DecisionRecorder', () => {
  it('writes a decision and its end, joined by the lease', () => {
    const { log, lines, texts } = recorder();
    log.decided(routedOf('r1.1', accountOf({ session: 's' })));
    log.firstToken('r1.1', 87.65432);
    log.ended('r1.1', { ending: 'finished', signal: 'access-log', status: 200, firstByteMs: 5, responseBytes: 2_048, attempts: 1, servedBy: address }, 1_234.5678);
    const time = '2026-01-02T03:04:05.678Z';
    expect(lines).toEqual([
      {
        event: 'decision', time, router: 'r1', lease: 'r1.1', route: 'all', model: 'm', session: hash('', 's').id,
        promptTokens: 1_200, maxTokens: 64, stream: true, pool: 'chat', policy: 'sticky', endpoint: address, reason: 'cache-kept',
        reckonedTokens: 1_200, cachedTokens: 1_024, decisionMs: 0.042,
      },
      {
        event: 'completion', time, router: 'r1', lease: 'r1.1', ending: 'finished', signal: 'access-log', status: 200, durationMs: 1_234.568,
        firstTokenMs: 87.654, firstByteMs: 5, responseBytes: 2_048, attempts: 1, servedBy: address,
      },
    ]);
    expect(texts.every((text) => text.endsWith('}\n') && text.indexOf('\n') === text.length - 1)).toBe(true);
  });

  it('writes a refusal with its code', () => {
    const { log, lines } = recorder();
    log.refused('overloaded', accountOf());
    expect(lines).toMatchObject([{ event: 'refusal', code: 'overloaded', pool: 'chat', promptTokens: 1_200 }]);
  });

  it('writes prefix hashes, every endpoint, and the shadow, each only if asked for', () => {
    const shadow = { policy: 'other', outcome: 'differ', address: '10.0.0.2:80', reason: 'r', expectedTtftMs: { live: 9, shadow: 4 } } as const;
    const account = accountOf({}, { shadow });
    const plain = recorder();
    plain.log.decided(routedOf('r1.1', accountOf()));
    for (const field of ['prefixHashes', 'pools', 'shadow']) expect(plain.lines[0]).not.toHaveProperty(field);
    const full = recorder({ prefixHashes: true, trace: true });
    full.log.decided(routedOf('r1.1', account));
    expect(full.lines[0]).toMatchObject({
      prefixHashes: [11, 22],
      pools: [{ pool: 'chat', endpoints: [{ address }] }],
      shadow: { policy: 'other', outcome: 'differ', endpoint: '10.0.0.2:80', regretMs: 5 },
    });
  });

  it('never writes what a client could have said of itself', () => {
    const { log, texts } = recorder({ prefixHashes: true, trace: true });
    const facts = { path: '/secret', session: 'secret session', tenant: 'secret tenant', model: 'secret words', headers: new Map([['x-a', 'secret']]) };
    log.decided(routedOf('r1.1', accountOf(facts)));
    log.refused('overloaded', accountOf(facts));
    expect(texts).toHaveLength(2);
    expect(texts.join('')).not.toContain('secret');
  });

  it('samples sessions whole, about as many as asked for, and alike in every router', () => {
    const sampled = (routerId: string): Set<unknown> => {
      const { log, lines } = recorder({ sample: 0.3, routerId });
      for (let turn = 0; turn < 3; turn += 1) {
        for (let i = 0; i < 1_000; i += 1) log.decided(routedOf(`${routerId}.${turn}.${i}`, accountOf({ session: `s${i}` })));
      }
      const turns = new Map<unknown, number>();
      for (const { session } of lines) turns.set(session, (turns.get(session) ?? 0) + 1);
      expect([...turns.values()].every((count) => count === 3)).toBe(true);
      return new Set(turns.keys());
    };
    const first = sampled('r1');
    expect(first.size).toBeGreaterThan(240);
    expect(first.size).toBeLessThan(360);
    expect(sampled('r2')).toEqual(first);
  });

  it('samples requests without a session one by one, and tells the ends of those alone', () => {
    const { log, lines } = recorder({ sample: 0.3 });
    for (let i = 0; i < 1_000; i += 1) log.decided(routedOf(`r1.${i}`));
    const decided = lines.map(({ lease }) => lease);
    expect(decided.length).toBeGreaterThan(240);
    expect(decided.length).toBeLessThan(360);
    for (let i = 0; i < 1_000; i += 1) log.ended(`r1.${i}`, { ending: 'finished', signal: 'access-log' }, 1);
    expect(lines.slice(decided.length).map(({ lease }) => lease)).toEqual(decided);
    log.ended('r1.1', { ending: 'finished', signal: 'access-log' }, 1);
    expect(lines).toHaveLength(2 * decided.length);
  });

  it('counts what its destination does not take', () => {
    const { log, dropped } = recorder({ sink: { write: () => false } });
    log.decided(routedOf('r1.1'));
    log.ended('r1.1', { ending: 'finished', signal: 'access-log' }, 1);
    expect(dropped()).toBe(2);
  });
});

describe('combineDecisionLogs', () => {
  it('tells all, whatever one of them throws, and hands that on', () => {
    const told: string[] = [];
    const errors: unknown[] = [];
    const bug = new Error('a bug');
    const broken: Partial<DecisionLog> = {
      decided: () => {
        throw bug;
      },
    };
    const log = combineDecisionLogs([broken, {}, { decided: ({ lease }) => told.push(lease), ended: (lease) => told.push(`end ${lease}`) }], (error) => errors.push(error));
    log.decided(routedOf('r1.1'));
    log.refused('overloaded', accountOf());
    log.firstToken('r1.1', 1);
    log.ended('r1.1', { ending: 'finished', signal: 'access-log' }, 1);
    expect(told).toEqual(['r1.1', 'end r1.1']);
    expect(errors).toEqual([bug]);
  });
});
