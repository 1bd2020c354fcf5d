import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Completion, LoadEvent, StateExchange } from '../../src/router/ports.ts';

const address = '10.0.0.1:80';
const finished: Completion = { ending: 'finished', signal: 'access-log', status: 200 };
const events: readonly LoadEvent[] = [
  { kind: 'dispatch', pool: 'chat', address, promptTokens: 10, uncachedTokens: 4, placement: { keyId: 'f'.repeat(32), away: true }, cached: { keyId: 'f'.repeat(32), prefixHashes: [7, 2 ** 53 - 1] } },
  { kind: 'first-token', pool: 'chat', address, uncachedTokens: 4 },
  { kind: 'done', pool: 'chat', address, promptTokens: 10, uncachedTokens: 4, waiting: false },
  // Of a pool and an endpoint that nobody has.
  { kind: 'dispatch', pool: '__proto__', address: 'constructor', promptTokens: 10, uncachedTokens: 10, placement: undefined, cached: undefined },
];

/** What the router relies on, whatever carries the exchange. `create` makes one that is not started, for the pool `chat`. */
export function describeStateExchange(name: string, create: () => StateExchange | Promise<StateExchange>): void {
  describe(`${name} as a StateExchange`, () => {
    let exchange: StateExchange;
    beforeEach(async () => {
      exchange = await create();
    });
    afterEach(async () => {
      await exchange.stop();
    });

    const useAll = (): void => {
      for (const event of events) exchange.publish(event);
      expect(typeof exchange.forward('other', 'other.1', finished)).toBe('boolean');
      expect(exchange.snapshotAgeMs() ?? 0).toBeGreaterThanOrEqual(0);
      const status = exchange.status();
      expect(status.routersLastSeen).toBeGreaterThanOrEqual(1);
      for (const { ageMs, requestsInFlight } of status.routers) expect(Math.min(ageMs, requestsInFlight)).toBeGreaterThanOrEqual(0);
      exchange.trouble();
    };

    it('takes every call before it starts, while it runs and after it stopped, and returns at once', async () => {
      useAll();
      await exchange.start();
      useAll();
      await exchange.stop();
      useAll();
    });

    it('may be stopped twice, or without ever being started', async () => {
      await exchange.stop();
      await exchange.stop();
    });

    it('knows of no trouble when all is well', async () => {
      await exchange.start();
      expect(exchange.trouble()).toBeUndefined();
    });

    it('takes and gives back places exactly, where it has them, and never rejects', async () => {
      const { caps } = exchange;
      if (caps === undefined) {
        expect(exchange.kind).toBe('memory');
        return;
      }
      const capped = [{ address, requestsMax: 2 }];
      expect(await caps.acquire('chat', 'me.1', capped)).toBe('unavailable');
      await exchange.start();
      expect(await caps.acquire('chat', 'me.1', capped)).toEqual({ taken: address });
      expect(await caps.acquire('chat', 'me.1', capped)).toEqual({ taken: address });
      expect(await caps.acquire('chat', 'me.2', capped)).toEqual({ taken: address });
      expect(await caps.acquire('chat', 'me.3', capped)).toEqual({ taken: undefined });
      expect(await caps.acquire('chat', 'me.3', [...capped, { address: '10.0.0.2:80', requestsMax: 1 }])).toEqual({ taken: '10.0.0.2:80' });
      caps.release('chat', address, 'me.1');
      caps.release('chat', address, 'me.1');
      caps.release('chat', address, 'never taken');
      expect(await caps.acquire('chat', 'me.4', capped)).toEqual({ taken: address });
      expect(await caps.acquire('chat', 'me.5', capped)).toEqual({ taken: undefined });
      expect(caps.shareOf(5)).toBe(5);
      await exchange.stop();
      expect(await caps.acquire('chat', 'me.6', capped)).toBe('unavailable');
      caps.release('chat', address, 'me.2');
    });
  });
}
