import { describe, expect, it } from 'vitest';
import type { Decision } from '../core/decision.ts';
import { createAccount, type DecisionAccount } from '../core/explain.ts';
import { noFacts } from '../core/request-facts.ts';
import type { Routed } from '../router/routed.ts';
import { RecentDecisions, recentDecisionsMax } from './recent-decisions.ts';

const address = '10.0.0.1:80';

function routedOf(lease: string, candidates = [address]): Routed {
  const decision: Extract<Decision, { kind: 'route' }> = {
    kind: 'route',
    addresses: candidates,
    reason: 'highest-score',
    home: undefined,
    trace: { policy: 'p', candidates, rejections: [], scores: [] },
  };
  const account = createAccount('all', noFacts, undefined);
  account.considered.push({ pool: 'chat', decision, promptTokens: 1, cachedTokens: new Map() });
  const routed: Partial<Routed> = { lease, addresses: candidates.slice(0, 2), decision, account, decisionMs: 0.05 };
  return routed as Routed;
}
const refusedBy: DecisionAccount = createAccount(undefined, noFacts, undefined);

describe('RecentDecisions', () => {
  it('lists decisions and refusals, newest first, with what became of them', () => {
    let wallMs = Date.UTC(2026, 0, 1);
    const recent = new RecentDecisions(() => (wallMs += 1_000));
    recent.decided(routedOf('r.1'));
    recent.refused('model_not_found', refusedBy);
    recent.decided(routedOf('r.2'));
    recent.firstToken('r.1', 40);
    recent.ended('r.1', { ending: 'finished', signal: 'access-log', status: 200 }, 900);
    const list = recent.list(10);
    expect(list.map(({ lease, refused }) => lease ?? refused)).toEqual(['r.2', 'model_not_found', 'r.1']);
    expect(list[2]).toMatchObject({
      time: '2026-01-01T00:00:01.000Z',
      told: [address],
      decisionMs: 0.05,
      end: { ending: 'finished', status: 200, durationMs: 900, firstTokenMs: 40 },
      pools: [{ pool: 'chat', endpoints: [{ address, place: 1 }] }],
    });
    expect(list[0]?.end).toBeNull();
    expect(recent.list(1).map(({ lease }) => lease)).toEqual(['r.2']);
  });

  it('keeps a bounded number, and forgets the oldest wholly', () => {
    let wallMs = 0;
    const recent = new RecentDecisions(() => (wallMs += 10));
    for (let i = 0; i < recentDecisionsMax + 10; i += 1) recent.decided(routedOf(`r.${i}`));
    const list = recent.list(10_000);
    expect(list).toHaveLength(recentDecisionsMax);
    expect(list.at(-1)?.lease).toBe('r.10');
    // The end of one that is gone is nobody's.
    recent.ended('r.0', { ending: 'finished', signal: 'access-log' }, 1);
    expect(recent.list(10_000).filter(({ end }) => end !== null)).toEqual([]);
  });

  it('keeps all of a burst, and ten a second where thousands come for long', () => {
    let wallMs = 0;
    const recent = new RecentDecisions(() => (wallMs += 0.5));
    for (let i = 0; i < recentDecisionsMax; i += 1) recent.decided(routedOf(`r.${i}`));
    expect(recent.list(10_000)).toHaveLength(recentDecisionsMax);
    for (let i = recentDecisionsMax; i < 10_000; i += 1) recent.decided(routedOf(`r.${i}`));
    const kept = recent.list(20).map(({ lease }) => Number(lease?.slice(2)));
    const gaps = kept.slice(1).map((number, i) => (kept[i] ?? 0) - number);
    expect([Math.min(...gaps), Math.max(...gaps)]).toEqual([200, 200]);
    // Once they are few again, all of them.
    for (let i = 0; i < 20; i += 1) {
      wallMs += 20;
      recent.decided(routedOf(`s.${i}`));
    }
    expect(recent.list(15).map(({ lease }) => lease)).toEqual(Array.from({ length: 15 }, (_, i) => `s.${19 - i}`));
  });

  it('keeps all where they come as fast as all are kept', () => {
    let wallMs = 0;
    const recent = new RecentDecisions(() => (wallMs += 10));
    for (let i = 0; i < 2_000; i += 1) recent.decided(routedOf(`r.${i}`));
    expect(recent.list(10_000).map(({ lease }) => lease)).toEqual(Array.from({ length: recentDecisionsMax }, (_, i) => `r.${1_999 - i}`));
  });

  it('keeps fewer of very large pools, but always the last', () => {
    const recent = new RecentDecisions(() => 0);
    const many = Array.from({ length: 30_000 }, (_, i) => `10.0.0.1:${i}`);
    for (let i = 0; i < 10; i += 1) recent.decided(routedOf(`r.${i}`, many));
    expect(recent.list(10).map(({ lease }) => lease)).toEqual(['r.9', 'r.8', 'r.7']);
    recent.decided(routedOf('r.10', Array.from({ length: 200_000 }, (_, i) => String(i))));
    expect(recent.list(10).map(({ lease }) => lease)).toEqual(['r.10']);
  });
});
