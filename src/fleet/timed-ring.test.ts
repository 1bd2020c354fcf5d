import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TimedRing } from './timed-ring.ts';

const listOf = (ring: TimedRing): number[] => Array.from({ length: ring.count }, (_, i) => ring.at(i));

describe('TimedRing', () => {
  it('keeps what a list keeps, whatever is added and dropped', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 70 }), fc.array(fc.boolean(), { maxLength: 300 }), (max, steps) => {
        const ring = new TimedRing(max);
        const list: { value: number; atMs: number }[] = [];
        steps.forEach((adds, i) => {
          if (adds) {
            if (list.length === max) expect(ring.dropOldest()).toBe(list.shift()?.value);
            ring.add(i, 10 * i);
            list.push({ value: i, atMs: 10 * i });
          } else if (list.length > 0) {
            expect(ring.dropOldest()).toBe(list.shift()?.value);
          }
          expect(listOf(ring)).toEqual(list.map(({ value }) => value));
          expect(ring.oldestMs).toBe(list[0]?.atMs ?? Infinity);
          expect(ring.isFull).toBe(list.length === max);
        });
      }),
    );
  });

  it('neither takes more than it may nor gives what is not there', () => {
    const ring = new TimedRing(1);
    expect(() => ring.dropOldest()).toThrow(RangeError);
    ring.add(1, 0);
    expect(() => ring.add(2, 0)).toThrow(RangeError);
    expect(listOf(ring)).toEqual([1]);
  });
});
