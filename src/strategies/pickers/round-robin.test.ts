import { describe, expect, it } from 'vitest';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { roundRobin } from './round-robin.ts';

const run = roundRobin.create({});

function pick(sequence: number, names = 'abc', draw = 0): string {
  const candidates = names.split('').map((address) => ({ address }) as EndpointSnapshot);
  return run(candidates, [], { sequence, draw } as DecisionInput)
    .order.map(({ address }) => address)
    .join('');
}

describe('round-robin', () => {
  it('takes all in turn, and names the following ones as what to try next', () => {
    expect([0, 1, 2, 3, 4].map((sequence) => pick(sequence))).toEqual(['abc', 'bca', 'cab', 'abc', 'bca']);
  });

  it('gives each exactly its share, whatever is drawn', () => {
    const counts = new Map<string, number>();
    for (let i = 0; i < 300; i += 1) {
      const first = pick(i, 'abc', (i * 0.37) % 1)[0]!;
      counts.set(first, (counts.get(first) ?? 0) + 1);
    }
    expect(counts).toEqual(new Map([['a', 100], ['b', 100], ['c', 100]]));
  });

  it('goes on when there are fewer candidates, or one, or very many requests', () => {
    expect(pick(5, 'ab')).toBe('ba');
    expect(pick(5, 'a')).toBe('a');
    expect(pick(Number.MAX_SAFE_INTEGER, 'abc')).toBe(pick(Number.MAX_SAFE_INTEGER % 3, 'abc'));
  });

  it('says what tipped it, and has no home', () => {
    expect(run([{ address: 'a' } as EndpointSnapshot], [1], { sequence: 0 } as DecisionInput)).toMatchObject({ reason: 'in-turn', home: undefined });
  });
});
