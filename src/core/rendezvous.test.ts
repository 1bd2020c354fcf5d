import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAffinityHasher, hashName } from './hash.ts';
import { rendezvousBest, rendezvousClaim, rendezvousHome, rendezvousOrder } from './rendezvous.ts';

const hash = createAffinityHasher('test-secret');

interface Member {
  readonly address: string;
  readonly hash: ReturnType<typeof hashName>;
  readonly weight: number;
}

function membersOf(n: number, weight: (i: number) => number = () => 1): Member[] {
  return Array.from({ length: n }, (_, i) => ({ address: `10.0.0.${i + 1}:8000`, hash: hashName(`10.0.0.${i + 1}:8000`), weight: weight(i) }));
}

/** How many of the keys have their home on each member. */
function homes(members: readonly Member[], keys: number, prefix = 'session-'): Map<string, number> {
  const counts = new Map(members.map(({ address }) => [address, 0]));
  for (let i = 0; i < keys; i += 1) {
    const home = rendezvousOrder(hash('', `${prefix}${i}`), members)[0]!.address;
    counts.set(home, counts.get(home)! + 1);
  }
  return counts;
}

function variation(counts: Iterable<number>): number {
  const values = [...counts];
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) / mean;
}

describe('rendezvousOrder', () => {
  it.each([
    ['alice', ['10.0.0.2:8000', '10.0.0.1:8000', '10.0.0.4:8000', '10.0.0.5:8000', '10.0.0.3:8000']],
    ['bob', ['10.0.0.5:8000', '10.0.0.2:8000', '10.0.0.4:8000', '10.0.0.3:8000', '10.0.0.1:8000']],
  ])('sends %s where it always went', (session, order) => {
    expect(rendezvousOrder(hash('', session), membersOf(5)).map(({ address }) => address)).toEqual(order);
  });

  it('spreads 512 sessions a member as evenly as chance can: coefficient of variation at most .0432 in the mean', () => {
    // Chance alone gives √((1 − 1/8) / 512) = .0413. Fixed keys, so that the figure is the same on every run.
    const prefixes = ['session-', 's', 'user:', 'conversation/', 'a', '00000000-0000-4000-8000-', 'x.y.', '#'];
    const variations = prefixes.map((prefix) => variation(homes(membersOf(8), 8 * 512, prefix).values()));
    expect(variations.reduce((sum, value) => sum + value, 0) / variations.length).toBeLessThanOrEqual(0.0432);
    // One set of keys may be somewhat above, as chance is.
    for (const value of variations) expect(value).toBeLessThanOrEqual(0.0432 * 1.5);
  });

  it('gives keys in proportion to weights', () => {
    const members = membersOf(4, (i) => [1, 1, 2, 4][i]!);
    const counts = [...homes(members, 8_000).values()];
    // Binomial with n = 8 000: one standard deviation is 30 at a share of 1/8 and 45 at 1/2.
    [1_000, 1_000, 2_000, 4_000].forEach((share, i) => {
      expect(Math.abs(counts[i]! - share)).toBeLessThan(4 * 45);
    });
  });

  it('is the same however weights are scaled', () => {
    const light = membersOf(6, (i) => i + 1);
    const heavy = membersOf(6, (i) => (i + 1) * 1_024);
    for (let i = 0; i < 200; i += 1) {
      const key = hash('', `session-${i}`);
      expect(rendezvousOrder(key, heavy).map(({ address }) => address)).toEqual(rendezvousOrder(key, light).map(({ address }) => address));
    }
  });

  it('raising one weight only draws keys to that member', () => {
    const before = membersOf(5);
    const after = membersOf(5, (i) => (i === 2 ? 3 : 1));
    let drawn = 0;
    for (let i = 0; i < 2_000; i += 1) {
      const key = hash('', `session-${i}`);
      const was = rendezvousOrder(key, before)[0]!.address;
      const is = rendezvousOrder(key, after)[0]!.address;
      if (is === was) continue;
      expect(is).toBe('10.0.0.3:8000');
      drawn += 1;
    }
    expect(drawn).toBeGreaterThan(0);
  });

  it('removing a member moves its keys and no others; they spread over all that are left', () => {
    const all = membersOf(8);
    const gone = all[3]!;
    const left = all.filter((member) => member !== gone);
    const heirs = new Map<string, number>();
    for (let i = 0; i < 8 * 512; i += 1) {
      const key = hash('', `session-${i}`);
      const was = rendezvousOrder(key, all);
      const is = rendezvousOrder(key, left);
      if (was[0] === gone) heirs.set(is[0]!.address, (heirs.get(is[0]!.address) ?? 0) + 1);
      else expect(is[0]).toBe(was[0]);
      expect(is).toEqual(was.filter((member) => member !== gone));
    }
    expect(heirs.size).toBe(7);
    // 512 keys over 7 heirs: 73 each, standard deviation 8.
    for (const count of heirs.values()) expect(Math.abs(count - 73)).toBeLessThan(4 * 8);
  });

  it('does not touch its input, and takes one member or none', () => {
    const members = Object.freeze(membersOf(3));
    rendezvousOrder(hash('', 'alice'), members);
    expect(members).toEqual(membersOf(3));
    expect(rendezvousOrder(hash('', 'alice'), membersOf(1))).toEqual(membersOf(1));
    expect(rendezvousOrder(hash('', 'alice'), [])).toEqual([]);
  });

  it('members of equal claim keep their order', () => {
    const twin = membersOf(1)[0]!;
    const twins = ['a', 'b', 'c'].map((address) => ({ ...twin, address }));
    expect(rendezvousOrder(hash('', 'alice'), twins).map(({ address }) => address)).toEqual(['a', 'b', 'c']);
  });
});

describe('rendezvousBest', () => {
  it('finds what comes first when all are ordered, whatever weights and refusals', () => {
    const weight = fc.oneof(fc.constant(1), fc.constantFrom(2, 0.5, 1_000, 1e-9), fc.double({ min: 1e-6, max: 1e6, noNaN: true }));
    fc.assert(
      fc.property(fc.string(), fc.array(fc.tuple(weight, fc.boolean()), { maxLength: 200 }), fc.nat({ max: 10 }), (session, made, max) => {
        const key = hash('', session);
        const members = membersOf(made.length, (i) => made[i]![0]);
        const takes = (i: number): boolean => made[i]![1];
        const order = rendezvousOrder(key, members);
        expect(rendezvousBest(key, members, max)).toEqual(order.slice(0, max));
        expect(rendezvousBest(key, members, max, takes)).toEqual(order.filter((member) => takes(members.indexOf(member))).slice(0, max));
        expect(rendezvousHome(key, members)).toBe(order[0]);
      }),
    );
  });

  it('members of equal claim keep their order', () => {
    const twin = membersOf(1)[0]!;
    const twins = ['a', 'b', 'c', 'd'].map((address) => ({ ...twin, address }));
    expect(rendezvousBest(hash('', 'alice'), twins, 2)).toEqual(twins.slice(0, 2));
  });
});

describe('rendezvousClaim', () => {
  it('is positive and finite, and grows with the weight', () => {
    const member = membersOf(1)[0]!;
    for (let i = 0; i < 100; i += 1) {
      const key = hash('', `session-${i}`);
      const claim = rendezvousClaim(key, member);
      expect(claim).toBeGreaterThan(0);
      expect(claim).toBeLessThan(Infinity);
      expect(rendezvousClaim(key, { ...member, weight: 2 })).toBeCloseTo(2 * claim, 9);
    }
  });
});
