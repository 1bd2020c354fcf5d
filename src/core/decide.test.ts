import { describe, expect, it } from 'vitest';
import { inputFor } from '../../test/decision-under-test.ts';
import { atLimit, contextTooLong, decide, kvFull } from './decide.ts';
import { countRejections, type NoneCause } from './decision.ts';
import { type EndpointSnapshot, idleEndpoint } from './fleet-snapshot.ts';
import type { DecisionInput, Filter, Policy, Scorer } from './policy.ts';

const a = '10.0.0.1:80';
const b = '10.0.0.2:80';
const c = '10.0.0.3:80';

function endpoint(address: string, changes: Partial<EndpointSnapshot> = {}): EndpointSnapshot {
  return { ...idleEndpoint(address), ...changes };
}

function input(endpoints: readonly EndpointSnapshot[], subset?: readonly string[]): DecisionInput {
  return inputFor(endpoints, { promptTokens: 1, facts: { subset: subset && new Set(subset) } });
}

/** Rejects the given addresses for the given reasons. */
const rejecting =
  (reasons: Readonly<Record<string, string>>): Filter =>
  ({ address }) =>
    reasons[address];

/** Rates by address. */
const rating =
  (ratings: Readonly<Record<string, number>>): Scorer =>
  (candidates) =>
    candidates.map(({ address }) => ratings[address] ?? 0);

function policy(filters: readonly Filter[], scorers: readonly (readonly [Scorer, number])[] = []): Policy {
  return {
    name: 'test',
    filters: filters.map((run, i) => ({ name: `filter-${i}`, run })),
    scorers: scorers.map(([run, weight], i) => ({ name: `scorer-${i}`, run, weight })),
    picker: {
      name: 'best',
      run: (candidates, scores) => ({
        order: [...candidates].sort((x, y) => scores[candidates.indexOf(y)]! - scores[candidates.indexOf(x)]!),
        reason: 'best',
        home: undefined,
      }),
    },
    needs: new Set(),
    wantsFirstToken: false,
  };
}

const endpoints = [endpoint(a), endpoint(b), endpoint(c)];

describe('decide', () => {
  it('asks filters in order; the first that rejects is named, the rest are not asked', () => {
    const asked: string[] = [];
    const later: Filter = ({ address }) => {
      asked.push(address);
      return undefined;
    };
    const decision = decide(policy([rejecting({ [a]: 'one' }), rejecting({ [a]: 'two', [b]: 'two' }), later]), input(endpoints));
    expect(decision.trace.rejections).toEqual([
      { address: a, filter: 'filter-0', reason: 'one' },
      { address: b, filter: 'filter-1', reason: 'two' },
    ]);
    expect(decision.trace.candidates).toEqual([c]);
    expect(asked).toEqual([c]);
  });

  it('sums weighted ratings, and hands the picker the sums in the order of the candidates', () => {
    const first = rating({ [a]: 1, [b]: 0.5, [c]: 0 });
    const second = rating({ [a]: 0, [b]: 1, [c]: 1 });
    const decision = decide(policy([], [[first, 1], [second, 3]]), input(endpoints));
    // a: 1, b: .5 + 3, c: 3
    expect(decision).toMatchObject({ kind: 'route', addresses: [b, c, a], reason: 'best', home: undefined });
    expect(decision.trace.scores).toEqual([
      { scorer: 'scorer-0', weight: 1, ratings: [1, 0.5, 0] },
      { scorer: 'scorer-1', weight: 3, ratings: [0, 1, 1] },
    ]);
  });

  it('shows scorers only the candidates', () => {
    const seen: string[][] = [];
    const scorer: Scorer = (candidates) => {
      seen.push(candidates.map(({ address }) => address));
      return candidates.map(() => 1);
    };
    decide(policy([rejecting({ [b]: 'no' })], [[scorer, 1]]), input(endpoints));
    expect(seen).toEqual([[a, c]]);
  });

  it('takes a rating that a scorer leaves out as unknown: .5', () => {
    const short: Scorer = () => [0.4];
    expect(decide(policy([], [[short, 1]]), input(endpoints))).toMatchObject({ addresses: [b, c, a] });
  });

  it('passes on reason and home of the picker', () => {
    const made = policy([]);
    const decision = decide({ ...made, picker: { name: 'p', run: (order) => ({ order, reason: 'why', home: b }) } }, input(endpoints));
    expect(decision).toMatchObject({ kind: 'route', reason: 'why', home: b, trace: { policy: 'test' } });
  });

  describe('a soft filter', () => {
    const soft = (reasons: Readonly<Record<string, string>>, name = 'soft'): Policy['filters'][number] => ({ name, run: rejecting(reasons), soft: true });
    const withFilters = (...filters: Policy['filters']): Policy => ({ ...policy([]), filters });

    it('leaves out what it rejects while others are left', () => {
      const decision = decide(withFilters(soft({ [a]: 'far', [c]: 'far' })), input(endpoints));
      expect(decision.trace.candidates).toEqual([b]);
      expect(decision.trace.rejections).toEqual([
        { address: a, filter: 'soft', reason: 'far' },
        { address: c, filter: 'soft', reason: 'far' },
      ]);
    });

    it('is ignored where it would leave none, without a trace', () => {
      const decision = decide(withFilters(soft({ [a]: 'far', [b]: 'far', [c]: 'far' })), input(endpoints));
      expect(decision.trace).toMatchObject({ candidates: [a, b, c], rejections: [] });
    });

    it('comes after the hard ones, wherever it stands', () => {
      const hard = { name: 'hard', run: rejecting({ [b]: 'down' }) };
      const decision = decide(withFilters(soft({ [a]: 'far', [c]: 'far' }), hard), input(endpoints));
      expect(decision.trace).toMatchObject({ candidates: [a, c], rejections: [{ address: b, filter: 'hard', reason: 'down' }] });
    });

    it('gives way to an earlier one', () => {
      const decision = decide(withFilters(soft({ [a]: 'far' }, 'first'), soft({ [b]: 'old', [c]: 'old' }, 'second')), input(endpoints));
      expect(decision.trace).toMatchObject({ candidates: [b, c], rejections: [{ address: a, filter: 'first' }] });
    });

    it('asks only about what those before it left: one that was given up hinders none after it', () => {
      const made = withFilters(soft({ [c]: 'far' }, 'first'), soft({ [a]: 'old', [b]: 'old' }, 'second'), soft({ [b]: 'cold' }, 'third'));
      const decision = decide(made, input(endpoints));
      expect(decision.trace.candidates).toEqual([a]);
      expect(decision.trace.rejections.map(({ address, filter }) => [address, filter])).toEqual([[c, 'first'], [b, 'third']]);
    });

    it('never brings back what the subset or a hard filter rejects, and does not make a pool saturated', () => {
      const hard = { name: 'hard', run: rejecting({ [a]: 'draining' }) };
      expect(decide(withFilters(soft({ [b]: 'far' }), hard), input(endpoints, [a, b]))).toMatchObject({ kind: 'route', addresses: [b] });
      const none = decide(withFilters(soft({ [a]: atLimit, [c]: atLimit }), hard), input(endpoints, [a]));
      expect(none).toMatchObject({ kind: 'none', cause: 'not-ready' });
      expect(none.trace.rejections.map(({ filter }) => filter)).toEqual(['subset', 'subset', 'hard']);
      expect(decide(withFilters(soft({ [a]: atLimit })), input([endpoint(a)]))).toMatchObject({ kind: 'route', addresses: [a] });
    });
  });

  it('tells what the picker reckoned each candidate to cost, and nothing where it reckons with no costs', () => {
    const made = policy([rejecting({ [b]: 'no' })]);
    const reckoning: Policy = { ...made, picker: { name: 'p', run: (order) => ({ order, reason: 'why', home: undefined, costs: order.map((_, i) => i) }) } };
    expect(decide(reckoning, input(endpoints)).trace).toMatchObject({ candidates: [a, c], costs: [0, 1] });
    expect('costs' in decide(made, input(endpoints)).trace).toBe(false);
  });

  it('names the best, and all others and why they were left out as they were then, though it is read later', () => {
    const fleet = endpoints.map((one) => ({ ...one }));
    const made = policy([({ requests, address }) => (address === a && requests === 0 ? 'idle' : undefined)], [[(all) => all.map(({ requests }) => requests), 1]]);
    const decision = decide(made, input(fleet));
    for (const one of fleet) one.requests = 7;
    expect(decision).toMatchObject({ kind: 'route', best: [b, c], addresses: [b, c] });
    expect(decision.trace).toMatchObject({ candidates: [b, c], rejections: [{ address: a, filter: 'filter-0', reason: 'idle' }], scores: [{ ratings: [0, 0] }] });
    expect(decision.trace.rejectionCounts).toEqual([{ filter: 'filter-0', reason: 'idle', count: 1 }]);
    expect(decision.trace.endpoints).toBe(3);
  });

  it('counts what was left out by filter and reason', () => {
    const { trace } = decide(policy([rejecting({ [a]: 'x', [b]: 'y' }), rejecting({ [c]: 'x' })]), input([...endpoints, endpoint('10.0.0.4:80')], [a, b, c]));
    expect(trace.rejectionCounts).toEqual([
      { filter: 'subset', reason: 'outside-subset', count: 1 },
      { filter: 'filter-0', reason: 'x', count: 1 },
      { filter: 'filter-0', reason: 'y', count: 1 },
      { filter: 'filter-1', reason: 'x', count: 1 },
    ]);
    const { rejections } = trace;
    expect(countRejections({ rejections })).toEqual(trace.rejectionCounts);
  });

  describe('subset', () => {
    it('comes before every filter, and matches address and port', () => {
      const decision = decide(policy([rejecting({ [a]: 'filtered' })]), input([...endpoints, endpoint('10.0.0.2:81')], [a, b]));
      expect(decision).toMatchObject({ kind: 'route', addresses: [b] });
      expect(decision.trace.rejections).toEqual([
        { address: c, filter: 'subset', reason: 'outside-subset' },
        { address: '10.0.0.2:81', filter: 'subset', reason: 'outside-subset' },
        { address: a, filter: 'filter-0', reason: 'filtered' },
      ]);
    });

    it('names no endpoint that the pool has not', () => {
      expect(decide(policy([]), input([endpoint(a)], [a, '192.0.2.1:80']))).toMatchObject({ addresses: [a] });
    });
  });

  describe('says why there is none', () => {
    it.each<[string, NoneCause, Readonly<Record<string, string>>, readonly string[] | undefined]>([
      ['all rejected', 'not-ready', { [a]: 'draining', [b]: 'ejected', [c]: 'not-ready' }, undefined],
      ['all at their limit', 'saturated', { [a]: atLimit, [b]: atLimit, [c]: atLimit }, undefined],
      ['one at its limit, the others not ready', 'saturated', { [a]: 'draining', [b]: atLimit, [c]: 'draining' }, undefined],
      ['one without room in its KV cache', 'saturated', { [a]: 'draining', [b]: kvFull, [c]: contextTooLong }, undefined],
      ['a prompt too long for all', 'too-long', { [a]: contextTooLong, [b]: contextTooLong, [c]: contextTooLong }, undefined],
      ['a prompt too long for all that the subset allows', 'too-long', { [b]: contextTooLong }, [b]],
      ['too long for those that are ready: the others may take more', 'not-ready', { [a]: contextTooLong, [b]: 'not-ready', [c]: contextTooLong }, undefined],
      ['too long for some, others at their limit', 'saturated', { [a]: contextTooLong, [b]: atLimit, [c]: contextTooLong }, undefined],
      ['an empty subset', 'subset', {}, []],
      ['a subset of strangers', 'subset', {}, ['192.0.2.1:80']],
      ['what the subset allows is not ready', 'not-ready', { [a]: 'draining' }, [a]],
      ['what the subset allows is at its limit', 'saturated', { [a]: atLimit }, [a]],
      ['only what the subset forbids is at its limit', 'not-ready', { [a]: 'draining', [b]: atLimit, [c]: atLimit }, [a]],
    ])('%s: %s', (_case, cause, reasons, subset) => {
      const decision = decide(policy([rejecting(reasons)]), input(endpoints, subset));
      expect(decision).toMatchObject({ kind: 'none', cause, trace: { policy: 'test', candidates: [], scores: [] } });
      expect(decision.trace.rejections.map(({ address }) => address).sort()).toEqual([a, b, c]);
    });

    it('an empty pool: not-ready', () => {
      expect(decide(policy([]), input([]))).toMatchObject({ kind: 'none', cause: 'not-ready' });
    });

    it('runs neither scorers nor picker then', () => {
      const never = (): never => {
        throw new Error('must not run');
      };
      const made = policy([rejecting({ [a]: 'no' })], [[never, 1]]);
      expect(decide({ ...made, picker: { name: 'p', run: never } }, input([endpoint(a)])).kind).toBe('none');
    });
  });
});
