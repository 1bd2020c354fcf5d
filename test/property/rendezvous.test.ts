import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAffinityHasher, hashName } from '../../src/core/hash.ts';
import { rendezvousOrder } from '../../src/core/rendezvous.ts';

const hash = createAffinityHasher('test-secret');

const member = fc
  .record({ id: fc.nat({ max: 65_535 }), weight: fc.oneof(fc.constant(1), fc.double({ min: 0.01, max: 1_000, noNaN: true })) })
  .map(({ id, weight }) => ({ address: `10.0.${id >> 8}.${id & 255}:80`, hash: hashName(`10.0.${id >> 8}.${id & 255}:80`), weight }));
const members = fc.uniqueArray(member, { minLength: 1, maxLength: 16, selector: ({ address }) => address });
const key = fc.tuple(fc.string(), fc.string()).map(([tenant, session]) => hash(tenant, session));

describe('rendezvous hashing', () => {
  it('prefers the same in whatever order members stand, and leaves out none', () => {
    fc.assert(
      fc.property(
        key,
        members.chain((all) => fc.tuple(fc.constant(all), fc.shuffledSubarray(all, { minLength: all.length }))),
        (session, [all, shuffled]) => {
          const order = rendezvousOrder(session, all);
          expect(rendezvousOrder(session, shuffled)).toEqual(order);
          expect(new Set(order)).toEqual(new Set(all));
          expect(order).toHaveLength(all.length);
        },
      ),
    );
  });

  it('without some members, prefers the rest as before: only their keys move', () => {
    fc.assert(
      fc.property(
        key,
        members.chain((all) => fc.tuple(fc.constant(all), fc.subarray(all))),
        (session, [all, left]) => {
          expect(rendezvousOrder(session, left)).toEqual(rendezvousOrder(session, all).filter((one) => left.includes(one)));
        },
      ),
    );
  });

  it('raising a weight never makes that member less preferred, and changes nothing among the others', () => {
    fc.assert(
      fc.property(key, members, fc.nat(), fc.double({ min: 1, max: 100, noNaN: true }), (session, all, at, factor) => {
        const raised = all[at % all.length]!;
        const heavier = all.map((one) => (one === raised ? { ...one, weight: one.weight * factor } : one));
        const before = rendezvousOrder(session, all).map(({ address }) => address);
        const after = rendezvousOrder(session, heavier).map(({ address }) => address);
        expect(after.indexOf(raised.address)).toBeLessThanOrEqual(before.indexOf(raised.address));
        const others = (addresses: readonly string[]): string[] => addresses.filter((address) => address !== raised.address);
        expect(others(after)).toEqual(others(before));
      }),
    );
  });
});
