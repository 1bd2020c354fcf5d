import { describe, expect, it } from 'vitest';
import { drawsOf, endpointsOf, inputFor, sessionKey } from '../../../test/decision-under-test.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { rendezvousHome } from '../../core/rendezvous.ts';
import { slowStart } from './slow-start.ts';

const run = slowStart.create(slowStart.parameters.parse({}));
const sessions = Array.from({ length: 4_000 }, (_, i) => sessionKey(`session-${i}`));

/** Two that have always been ready, and one that is since 0. */
const pool = endpointsOf({}, {}, { readySinceMs: 0 });
const young = pool[2]!;

const admitted = (nowMs: number, endpoints: readonly EndpointSnapshot[] = pool, endpoint = young): Set<number> =>
  new Set(sessions.flatMap((affinityKey, i) => (run(endpoint, inputFor(endpoints, { affinityKey, nowMs })) === undefined ? [i] : [])));

describe('slow-start', () => {
  it.each([
    [0, 0.1],
    [3_000, 0.1],
    [15_000, 0.25],
    [45_000, 0.75],
  ])('after %d ms lets in a share of %d', (nowMs, share) => {
    // Standard deviation at most 32.
    expect(Math.abs(admitted(nowMs).size - share * 4_000)).toBeLessThan(4 * 32);
  });

  it('lets in all when the ramp is over, or was never there', () => {
    expect(admitted(60_000).size).toBe(4_000);
    expect(admitted(1e12).size).toBe(4_000);
    expect(admitted(0, pool, pool[0]).size).toBe(4_000);
  });

  it('keeps in whom it let in: a session does not move twice', () => {
    let before = admitted(0);
    for (let nowMs = 2_000; nowMs <= 60_000; nowMs += 2_000) {
      const now = admitted(nowMs);
      expect([...before].filter((session) => !now.has(session))).toEqual([]);
      before = now;
    }
  });

  it('has nothing to do with whose home it is: of its sessions as many are let in as of the others', () => {
    const half = admitted(30_000);
    const own = sessions.flatMap((key, i) => (rendezvousHome(key, pool) === young ? [i] : []));
    expect(own.length).toBeGreaterThan(1_000);
    // About 1 333 of its own, standard deviation 18.
    expect(Math.abs(own.filter((i) => half.has(i)).length - own.length / 2)).toBeLessThan(4 * 18);
  });

  it('without a session lets in by the draw', () => {
    const passes = drawsOf(4_000).filter((draw) => run(young, inputFor(pool, { draw, nowMs: 15_000 })) === undefined);
    expect(Math.abs(passes.length - 1_000)).toBeLessThan(4 * 28);
    expect(run(young, inputFor(pool, { draw: 0.3, nowMs: 15_000 }))).toBe(run(young, inputFor(pool, { draw: 0.3, nowMs: 15_000 })));
  });

  it('is relative to the one that is furthest: what starts together has nothing to spare each other', () => {
    const fresh = endpointsOf({ readySinceMs: 0 }, { readySinceMs: 0 });
    expect(admitted(0, fresh, fresh[0]).size).toBe(4_000);
    const staggered = endpointsOf({ readySinceMs: -20_000 }, { readySinceMs: -10_000 });
    expect(admitted(0, staggered, staggered[0]).size).toBe(4_000);
    expect(Math.abs(admitted(0, staggered, staggered[1]).size - 2_000)).toBeLessThan(4 * 32);
  });

  it('does not measure itself by one that is not ready', () => {
    const alone = endpointsOf({ state: 'ejected' }, { readySinceMs: 0 });
    expect(admitted(0, alone, alone[1]).size).toBe(4_000);
  });

  it('takes duration and first share from its parameters, and gives its reason', () => {
    const none = slowStart.create({ durationMs: 1_000, initialShare: 0 });
    const reasons = new Set(sessions.map((affinityKey) => none(young, inputFor(pool, { affinityKey, nowMs: 0 }))));
    expect([...reasons]).toEqual(['warming-up']);
    expect(none(young, inputFor(pool, { affinityKey: sessions[0], nowMs: 1_000 }))).toBeUndefined();
  });
});
