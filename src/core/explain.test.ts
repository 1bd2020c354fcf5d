import { describe, expect, it } from 'vitest';
import type { Decision } from './decision.ts';
import { type Considered, createAccount, type DecisionAccount, explain, formatExplanation, summarize, summaryCharsMax } from './explain.ts';
import { noFacts } from './request-facts.ts';

const a = '10.0.0.1:80';
const b = '10.0.0.2:80';
const c = '10.0.0.3:80';

type Routing = Extract<Decision, { kind: 'route' }>;

function routed(change: Partial<Omit<Routing, 'trace'>> & { trace?: Partial<Routing['trace']> } = {}): Routing {
  const { trace, ...rest } = change;
  return {
    kind: 'route',
    addresses: [b, a],
    reason: 'highest-score',
    home: undefined,
    trace: { policy: 'p', candidates: [a, b], rejections: [], scores: [], ...trace },
    ...rest,
  };
}

function account(decision: Decision, change: Partial<Considered> = {}): DecisionAccount {
  const made = createAccount('chat', { ...noFacts, model: 'm', promptTokens: 100 }, 'k'.repeat(32));
  made.considered.push({ pool: 'chat', decision, promptTokens: 100, cachedTokens: new Map(), ...change });
  return made;
}

const tippedOf = (decision: Decision): string | null | undefined => explain(account(decision)).pools[0]?.tipped;

describe('createAccount', () => {
  it('keeps no session, tenant or path', () => {
    const facts = { ...noFacts, path: '/v1/secret', session: 'secret session', tenant: 'secret tenant', headers: new Map([['x', 'secret header']]) };
    expect(JSON.stringify(createAccount('r', facts, 'key'))).not.toContain('secret');
  });

  it.each([
    ['meta-llama/Llama-3.1-8B-Instruct', 'meta-llama/Llama-3.1-8B-Instruct'],
    ['ft:gpt-4o:org::id', 'ft:gpt-4o:org::id'],
    ['my name is Ann', '(not a name)'],
    ['x'.repeat(129), '(not a name)'],
    [undefined, undefined],
  ])('takes the model %s for %s', (model, kept) => {
    expect(createAccount('r', { ...noFacts, model }, undefined).model).toBe(kept);
  });
});

describe('explain', () => {
  it('tells every endpoint: those to be tried in their order with score and cost, then those left out with the reason', () => {
    const decision = routed({
      home: a,
      trace: {
        rejections: [{ address: c, filter: 'ready', reason: 'draining' }],
        scores: [
          { scorer: 's', weight: 2, ratings: [0.25, 0.5] },
          { scorer: 't', weight: 1, ratings: [1, 1] },
        ],
        costs: [9, 4],
      },
    });
    const [pool] = explain(account(decision, { cachedTokens: new Map([[b, 64]]) })).pools;
    expect(pool).toMatchObject({ pool: 'chat', policy: 'p', outcome: 'route', reason: 'highest-score', home: a, promptTokens: 100, shadow: null });
    expect(pool?.endpoints).toEqual([
      { address: b, place: 1, score: 2, ratings: { s: 0.5, t: 1 }, cost: 4, cachedTokens: 64, leftOut: null },
      { address: a, place: 2, score: 1.5, ratings: { s: 0.25, t: 1 }, cost: 9, cachedTokens: 0, leftOut: null },
      { address: c, place: null, score: null, ratings: {}, cost: null, cachedTokens: 0, leftOut: { filter: 'ready', reason: 'draining' } },
    ]);
  });

  it('says why a pool had nobody', () => {
    const trace = { policy: 'p', candidates: [], rejections: [{ address: a, filter: 'within-limits', reason: 'at-limit' }], scores: [] };
    const [pool] = explain(account({ kind: 'none', cause: 'saturated', trace })).pools;
    expect(pool).toMatchObject({ outcome: 'saturated', reason: null, tipped: null });
    expect(pool?.endpoints).toHaveLength(1);
  });

  it('tells how far the choice was ahead, and of what', () => {
    const scores = [
      { scorer: 's', weight: 1, ratings: [0.5, 0.6] },
      { scorer: 't', weight: 3, ratings: [0, 0.5] },
    ];
    expect(tippedOf(routed({ trace: { costs: [34, 12.34] } }))).toBe(`cost 12.3; next ${a} with 34`);
    expect(tippedOf(routed({ trace: { scores } }))).toBe(`score 2.1; next ${a} with 0.5; most of it by t (+1.5)`);
    expect(tippedOf(routed({ trace: { scores: [{ scorer: 's', weight: 1, ratings: [1, 1] }] } }))).toBe(`score 1; next ${a} with 1: a tie, broken by the picker`);
    expect(tippedOf(routed({ trace: { scores: [{ scorer: 's', weight: 1, ratings: [1, 0] }] } }))).toMatch(/^by the picker, not by score/);
    expect(tippedOf(routed())).toBe('by the picker; nothing scores in p');
    expect(tippedOf(routed({ addresses: [b], trace: { candidates: [b] } }))).toBe('the only candidate');
  });

  it('puts the regret of a shadow as live less shadow', () => {
    const shadow = { policy: 'other', outcome: 'differ', address: a, reason: 'r', expectedTtftMs: { live: 50, shadow: 20 } } as const;
    expect(explain(account(routed(), { shadow })).pools[0]?.shadow).toEqual({ policy: 'other', outcome: 'differ', address: a, reason: 'r', regretMs: 30 });
  });
});

describe('formatExplanation', () => {
  it('has all of it on lines that a terminal shows', () => {
    const decision = routed({ home: a, trace: { rejections: [{ address: c, filter: 'ready', reason: 'draining' }], scores: [{ scorer: 'least', weight: 1, ratings: [0.1, 0.9] }] } });
    const text = formatExplanation(explain(account(decision)));
    expect(text).toContain(`pool chat, policy p, 100 prompt tokens: ${b} (highest-score)`);
    expect(text).toMatch(/^ {2}1 {2}10\.0\.0\.2:80 +0\.9 +0\.9$/m);
    expect(text).toMatch(/^ {2}2 {2}10\.0\.0\.1:80 +0\.1 +0\.1 {2}home$/m);
    expect(text).toMatch(/^ {2}- {2}10\.0\.0\.3:80 +left out by ready: draining$/m);
    expect(text).toContain(`session  key ${'k'.repeat(32)}`);
  });

  it('does without whatever is unknown', () => {
    expect(formatExplanation(explain(createAccount(undefined, noFacts, undefined)))).toContain('route    none matches\nmodel    not known\nsession  none\nprompt   of unknown length');
  });
});

describe('summarize', () => {
  it('is one line of pairs', () => {
    const decision = routed({ home: a, trace: { costs: [9, 4], rejections: [c, '10.0.0.4:80'].map((address) => ({ address, filter: 'ready', reason: 'draining' })) } });
    expect(summarize(account(decision, { cachedTokens: new Map([[b, 64]]) }))).toBe(
      `pool=chat; policy=p; endpoint=${b}; reason=highest-score; home=${a}; cost=4; cached=64; next=${a}; candidates=2; left-out=ready:draining*2; route=chat`,
    );
  });

  it('tells a refusal, the pools passed over before, and an address told in place of the choice', () => {
    const none: Decision = { kind: 'none', cause: 'saturated', trace: { policy: 'p', candidates: [], rejections: [{ address: a, filter: 'f', reason: 'at-limit' }], scores: [] } };
    expect(summarize(account(none), { refused: 'overloaded' })).toBe('refused=overloaded; pool=chat; policy=p; cause=saturated; candidates=0; left-out=f:at-limit*1; route=chat');
    const both = { ...account(none), considered: [...account(none).considered, { ...account(routed()).considered[0]!, pool: 'second' }] };
    expect(summarize(both)).toMatch(/^pool=second; .*; passed-over=chat; /);
    expect(summarize(account(routed()), { told: a })).toContain(`endpoint=${a}; reason=highest-score; chosen=${b}`);
  });

  it('stays within its bound and within what a header may hold, however many and whatever the filters', () => {
    const rejections = Array.from({ length: 500 }, (_, i) => ({ address: `10.1.0.${i}:80`, filter: `filter-${i}`, reason: 'r'.repeat(50) }));
    const long = summarize({ ...account(routed({ trace: { rejections } })), route: 'a\r\nset-cookie: x\u{1f600}' });
    expect(long.length).toBeLessThanOrEqual(summaryCharsMax);
    const odd = summarize({ ...account(routed()), route: 'a\r\nset-cookie: é' });
    expect(odd).toMatch(/^[\x20-\x7e]*$/);
  });
});
