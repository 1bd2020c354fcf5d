import { describe, expect, it } from 'vitest';
import { createMemoryExchange } from './memory-exchange.ts';

describe('createMemoryExchange', () => {
  it('takes every call, hands nothing on, and knows nothing of others', async () => {
    const exchange = createMemoryExchange();
    await exchange.start();
    exchange.publish({ kind: 'dispatch', pool: 'chat', address: '10.0.0.1:80', promptTokens: 1, uncachedTokens: 1, placement: undefined, cached: undefined });
    expect(exchange.kind).toBe('memory');
    expect(exchange.forward('b', 'b.1', { ending: 'finished', signal: 'access-log' })).toBe(false);
    expect(exchange.snapshotAgeMs()).toBeUndefined();
    await exchange.stop();
  });
});
