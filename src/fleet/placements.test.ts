import { describe, expect, it } from 'vitest';
import { Placements } from './placements.ts';

const home = '10.0.0.1:80';
const other = '10.0.0.2:80';

describe('Placements', () => {
  it('knows nothing of a session that was never noted', () => {
    expect(new Placements().find('chat', 'k')).toBeUndefined();
  });

  it('remembers where a session went that did not go home', () => {
    const placements = new Placements();
    placements.note('chat', 'k', other, home);
    expect(placements.find('chat', 'k')).toBe(other);
    expect(placements.size).toBe(1);
  });

  it('keeps no entry for a session that goes home, and drops the one it had', () => {
    const placements = new Placements();
    placements.note('chat', 'k', home, home);
    expect(placements.size).toBe(0);
    placements.note('chat', 'k', other, home);
    placements.note('chat', 'k', home, home);
    expect(placements.find('chat', 'k')).toBeUndefined();
    expect(placements.size).toBe(0);
  });

  it('the latest place counts', () => {
    const placements = new Placements();
    placements.note('chat', 'k', other, home);
    placements.note('chat', 'k', '10.0.0.3:80', home);
    expect(placements.find('chat', 'k')).toBe('10.0.0.3:80');
    expect(placements.size).toBe(1);
  });

  it('keeps pools and sessions apart', () => {
    const placements = new Placements();
    placements.note('chat', 'k', other, home);
    expect(placements.find('batch', 'k')).toBeUndefined();
    expect(placements.find('chat', 'l')).toBeUndefined();
    placements.note('batch', 'k', home, home);
    expect(placements.find('chat', 'k')).toBe(other);
  });

  it('says what a note changed', () => {
    const placements = new Placements();
    expect(placements.note('chat', 'k', home, home)).toBeUndefined();
    expect(placements.note('chat', 'k', other, home)).toBe('away');
    expect(placements.note('chat', 'k', other, home)).toBeUndefined();
    expect(placements.note('chat', 'k', '10.0.0.3:80', home)).toBe('away');
    expect(placements.note('chat', 'k', home, home)).toBe('home');
    expect(placements.note('chat', 'k', home, home)).toBeUndefined();
  });

  it('takes and forgets what other routers tell', () => {
    const placements = new Placements();
    placements.set('chat', 'k', other);
    expect(placements.find('chat', 'k')).toBe(other);
    expect(placements.forget('chat', 'k')).toBe(true);
    expect(placements.forget('chat', 'k')).toBe(false);
    expect(placements.forget('batch', 'k')).toBe(false);
    expect(placements.find('chat', 'k')).toBeUndefined();
  });

  it('lists the latest used of a pool, newest first', () => {
    const placements = new Placements();
    for (const key of ['a', 'b', 'c']) placements.set('chat', key, other);
    placements.set('batch', 'd', other);
    placements.find('chat', 'a');
    expect(placements.latest('chat', 2)).toEqual([
      { keyId: 'a', address: other },
      { keyId: 'c', address: other },
    ]);
    expect(placements.latest('chat', 9).map(({ keyId }) => keyId)).toEqual(['a', 'c', 'b']);
    expect(placements.latest('none', 9)).toEqual([]);
  });

  it('is bounded per pool: forgets the least recently used first', () => {
    const placements = new Placements();
    placements.note('batch', '0', other, home);
    for (let i = 0; i < 200_000; i += 1) placements.note('chat', String(i), other, home);
    expect(placements.find('chat', '0')).toBe(other);
    for (let i = 200_000; i < 200_010; i += 1) placements.note('chat', String(i), other, home);
    // 0 was just used; 1 to 10 were not.
    expect(placements.find('chat', '0')).toBe(other);
    expect(placements.find('chat', '1')).toBeUndefined();
    expect(placements.find('chat', '11')).toBe(other);
    expect(placements.find('batch', '0')).toBe(other);
    expect(placements.size).toBe(200_001);
  });
});

it('forgets pools that are gone', () => {
  const placements = new Placements();
  placements.set('a', 'k', '10.0.0.1:80');
  placements.set('b', 'k', '10.0.0.2:80');
  placements.keepPools(new Set(['b', 'c']));
  expect([placements.find('a', 'k'), placements.find('b', 'k'), placements.size]).toEqual([undefined, '10.0.0.2:80', 1]);
});
