import { describe, expect, it } from 'vitest';
import { isOurShare } from './scrape-share.ts';

const status = (ids: readonly string[], connected = true): Parameters<typeof isOurShare>[2] => ({
  connected,
  routers: ids.map((id) => ({ id, ageMs: 0, requestsInFlight: 0 })),
});
const servers = Array.from({ length: 1_000 }, (_, i) => `10.0.${i >> 8}.${i & 255}:8000`);
const readersOf = (server: string, ids: readonly string[]): string[] => ids.filter((id) => isOurShare(server, id, status(ids)));

describe('isOurShare', () => {
  it('gives each server to exactly one router, and each router about as many', () => {
    const ids = ['a', 'b', 'c', 'd'];
    const counts = new Map(ids.map((id) => [id, 0]));
    for (const server of servers) {
      const readers = readersOf(server, ids);
      expect(readers).toHaveLength(1);
      counts.set(readers[0]!, counts.get(readers[0]!)! + 1);
    }
    // 250 expected, standard deviation 14.
    for (const count of counts.values()) expect(Math.abs(count - 250)).toBeLessThan(5 * 14);
  });

  it('moves only what a router that is gone read', () => {
    for (const server of servers) {
      const [before] = readersOf(server, ['a', 'b', 'c']);
      const [after] = readersOf(server, ['a', 'c']);
      if (before !== 'b') expect(after).toBe(before);
    }
  });

  it('is all for a router that is alone, or hears nobody', () => {
    expect(servers.every((server) => isOurShare(server, 'a', status(['a'])))).toBe(true);
    expect(servers.every((server) => isOurShare(server, 'a', status(['a', 'b', 'c'], false)))).toBe(true);
    expect(servers.every((server) => isOurShare(server, 'a', status(['a', 'b', 'c'])))).toBe(false);
  });
});
