import { describe, expect, it } from 'vitest';
import { CapLedger, orphanedMs } from './cap-ledger.ts';

const one = '10.0.0.1:80';
const two = '10.0.0.2:80';

describe('the ledger of places', () => {
  it('gives no more places than the limit, to whichever worker asks, and takes the next endpoint then', () => {
    const ledger = new CapLedger(() => 0);
    expect(ledger.acquire('a', 'chat', 'a.1', [{ address: one, requestsMax: 2 }])).toBe(one);
    expect(ledger.acquire('b', 'chat', 'b.1', [{ address: one, requestsMax: 2 }])).toBe(one);
    expect(ledger.acquire('b', 'chat', 'b.2', [{ address: one, requestsMax: 2 }])).toBeUndefined();
    expect(ledger.acquire('b', 'chat', 'b.2', [{ address: one, requestsMax: 2 }, { address: two, requestsMax: 1 }])).toBe(two);
    // Another pool counts for itself.
    expect(ledger.acquire('b', 'other', 'b.3', [{ address: one, requestsMax: 1 }])).toBe(one);
    expect([ledger.taken('chat', one), ledger.taken('chat', two), ledger.taken('other', one)]).toEqual([2, 1, 1]);
  });

  it('lets a lease keep its place, also on an endpoint that is full, and takes a place back once', () => {
    const ledger = new CapLedger(() => 0);
    const capped = [{ address: one, requestsMax: 1 }];
    expect([ledger.acquire('a', 'chat', 'a.1', capped), ledger.acquire('a', 'chat', 'a.1', capped)]).toEqual([one, one]);
    ledger.release('chat', one, 'a.1');
    ledger.release('chat', one, 'a.1');
    ledger.release('chat', one, 'never');
    expect(ledger.acquire('a', 'chat', 'a.2', capped)).toBe(one);
    expect(ledger.acquire('a', 'chat', 'a.3', capped)).toBeUndefined();
  });

  it('counts the places of a worker that ended for a while, then gives back all of them and no others', () => {
    let nowMs = 0;
    const ledger = new CapLedger(() => nowMs);
    const capped = [{ address: one, requestsMax: 2 }];
    ledger.acquire('a', 'chat', 'a.1', capped);
    ledger.acquire('b', 'chat', 'b.1', capped);
    ledger.ended('a');
    nowMs = orphanedMs - 1;
    expect(ledger.acquire('b', 'chat', 'b.2', capped)).toBeUndefined();
    nowMs = orphanedMs;
    expect(ledger.taken('chat', one)).toBe(1);
    expect(ledger.acquire('b', 'chat', 'b.2', capped)).toBe(one);
    expect(ledger.acquire('b', 'chat', 'b.3', capped)).toBeUndefined();
  });
});
