import { describe, expect, it } from 'vitest';
import { KeptPlacements } from './kept-placements.ts';

describe('placements kept for workers that join', () => {
  it('are read by pool, oldest first, each session once and as it was told last', () => {
    const kept = new KeptPlacements();
    kept.store('chat', [{ keyId: 'a', address: '10.0.0.1:80' }, { keyId: 'b', address: '10.0.0.2:80' }]);
    kept.store('chat', [{ keyId: 'a', address: undefined }]);
    kept.store('other', [{ keyId: 'c', address: '10.0.0.3:80' }]);
    expect(kept.read('chat')).toEqual([{ keyId: 'b', address: '10.0.0.2:80' }, { keyId: 'a', address: undefined }]);
    expect(kept.read('other')).toEqual([{ keyId: 'c', address: '10.0.0.3:80' }]);
    expect(kept.read('unknown')).toEqual([]);
  });

  it('go with their pool', () => {
    const kept = new KeptPlacements();
    for (const pool of ['chat', 'other']) kept.store(pool, [{ keyId: 'a', address: '10.0.0.1:80' }]);
    kept.keepPools(new Set(['other', 'new']));
    expect([kept.read('chat').length, kept.read('other').length]).toEqual([0, 1]);
  });
});
