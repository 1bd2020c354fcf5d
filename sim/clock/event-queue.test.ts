import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EventQueue } from './event-queue.ts';

describe('EventQueue', () => {
  it('hands out by time, and what is of one time in the order in which it was added', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 200 }), (times) => {
        const queue = new EventQueue<number>();
        times.forEach((atMs, i) => queue.add(atMs, i));
        const taken: { atMs: number; event: number }[] = [];
        for (let next = queue.take(); next !== undefined; next = queue.take()) taken.push({ atMs: next.atMs, event: next.event });
        const expected = times.map((atMs, event) => ({ atMs, event })).sort((a, b) => a.atMs - b.atMs || a.event - b.event);
        expect(taken).toEqual(expected);
      }),
    );
  });

  it('keeps the order while events come and go', () => {
    const queue = new EventQueue<string>();
    queue.add(5, 'e');
    queue.add(1, 'a');
    expect(queue.take()?.event).toBe('a');
    queue.add(3, 'c');
    queue.add(3, 'd');
    expect(queue.nextMs).toBe(3);
    expect([queue.take()?.event, queue.take()?.event, queue.take()?.event, queue.take()]).toEqual(['c', 'd', 'e', undefined]);
    expect(queue.nextMs).toBeUndefined();
  });

  it('takes no event without a time', () => {
    expect(() => new EventQueue<number>().add(NaN, 1)).toThrow(RangeError);
  });
});
