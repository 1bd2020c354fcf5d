import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { PoolLoad } from './pool-load.ts';
import { type ReserveServer, StandbyController, type StandbySettings, type StandbyVerdict } from './standby.ts';

const settings: StandbySettings = {
  pressure: { waitMs: 1_000, inFlightShare: 0.9 },
  forMs: 2_000,
  calm: { waitMs: 200, inFlightShare: 0.6, utilization: 0.6 },
  calmForMs: 60_000,
};
const idle: PoolLoad = {
  weight: 6,
  servers: 6,
  waitMs: 0,
  inFlightShare: undefined,
  waitingTokens: 0,
  requests: 0,
  requestsPerS: 0,
  promptTokensPerS: 0,
  prefillTokensPerS: 0,
  capacityTokensPerS: 10_000,
};

/** A pool of six and a reserve; what the controller asks for is done, unless `obeys` is false. */
class Pool {
  readonly controller = new StandbyController(settings);
  readonly active = new Set<string>();
  readonly unable = new Set<string>();
  readonly joins: { readonly atMs: number; readonly address: string }[] = [];
  readonly leaves: { readonly atMs: number; readonly address: string }[] = [];
  obeys = true;
  nowMs = 0;
  readonly reserve: readonly string[];

  constructor(reserve: readonly string[] = ['a', 'b']) {
    this.reserve = reserve;
  }

  get servers(): ReserveServer[] {
    return this.reserve.map((address) => {
      const able = !this.unable.has(address);
      const active = this.active.has(address);
      return { address, weight: 1, active, able, serving: active && able };
    });
  }

  /** Runs for so long under a load that is spread over whoever serves. */
  run(ms: number, load: Partial<PoolLoad> & { readonly work?: number }, mayLeave = true): StandbyVerdict {
    let verdict: StandbyVerdict = { changes: [], exhausted: false };
    for (const untilMs = this.nowMs + ms; this.nowMs < untilMs; this.nowMs += 250) {
      const weight = (load.weight ?? 6) + this.servers.filter(({ serving }) => serving).length;
      const spread = load.work === undefined ? {} : { waitMs: load.work / weight };
      verdict = this.controller.decide({ ...idle, ...load, ...spread, weight, servers: weight }, this.servers, this.nowMs, mayLeave);
      if (!this.obeys) continue;
      for (const { address, active } of verdict.changes) {
        (active ? this.joins : this.leaves).push({ atMs: this.nowMs, address });
        if (active) this.active.add(address);
        else this.active.delete(address);
      }
    }
    return verdict;
  }
}

describe('under pressure', () => {
  it('nobody joins before it has lasted', () => {
    const pool = new Pool();
    pool.run(2_000, { waitMs: 5_000 });
    expect(pool.joins).toEqual([]);
    pool.run(250, { waitMs: 0 });
    pool.run(2_000, { waitMs: 5_000 });
    expect(pool.joins).toEqual([]);
    pool.run(250, { waitMs: 5_000 });
    expect(pool.joins).not.toEqual([]);
  });

  it('as many join as bring it below the threshold, no more, and by address', () => {
    const pool = new Pool(['c', 'a', 'b', 'd']);
    // 6 × 1.3 s of work: spread over 8 it is below 1 s.
    pool.run(3_000, { work: 7_800 });
    expect(pool.joins.map(({ address }) => address)).toEqual(['a', 'b']);
    expect(new Set(pool.joins.map(({ atMs }) => atMs)).size).toBe(1);
  });

  it('the pool gets time to show what a join did before the next', () => {
    const pool = new Pool(['a', 'b', 'c']);
    pool.run(10_000, { waitMs: 1_001 });
    expect(pool.joins.map(({ address }) => address)).toEqual(['a', 'b', 'c']);
    for (const [i, { atMs }] of pool.joins.entries()) if (i > 0) expect(atMs - pool.joins[i - 1]!.atMs).toBeGreaterThanOrEqual(settings.forMs);
  });

  it('of requests against their limits they join as well', () => {
    const pool = new Pool(['a', 'b']);
    pool.run(3_000, { inFlightShare: 0.95 });
    expect(pool.joins.map(({ address }) => address)).toEqual(['a']);
  });

  it('all join where nobody serves', () => {
    const pool = new Pool(['a', 'b', 'c']);
    pool.run(3_000, { weight: 0 });
    expect(pool.joins.map(({ address }) => address)).toEqual(['a', 'b', 'c']);
  });

  it('those that could not serve are passed over, and it is said when nobody is left', () => {
    const pool = new Pool(['a', 'b']);
    pool.unable.add('a');
    expect(pool.run(2_250, { waitMs: 5_000 }).exhausted).toBe(false);
    expect(pool.joins.map(({ address }) => address)).toEqual(['b']);
    expect(pool.run(3_000, { waitMs: 5_000 }).exhausted).toBe(true);
    expect(pool.run(3_000, { waitMs: 500 }).exhausted).toBe(false);
  });

  it('a change that was not made is asked for again', () => {
    const pool = new Pool();
    pool.obeys = false;
    pool.run(3_000, { waitMs: 5_000 });
    expect(pool.run(1_000, { waitMs: 5_000 }).changes).not.toEqual([]);
  });
});

describe('when the load fits without it', () => {
  const joined = (): Pool => {
    const pool = new Pool();
    pool.run(2_500, { waitMs: 5_000 });
    expect(pool.active.size).toBe(2);
    return pool;
  };

  it('one after the other leaves, the last first, each after its time', () => {
    const pool = joined();
    const fromMs = pool.nowMs;
    pool.run(200_000, {});
    expect(pool.leaves.map(({ address }) => address)).toEqual(['b', 'a']);
    expect(pool.leaves[0]!.atMs - fromMs).toBeGreaterThanOrEqual(settings.calmForMs);
    expect(pool.leaves[1]!.atMs - pool.leaves[0]!.atMs).toBeGreaterThanOrEqual(settings.calmForMs);
  });

  it.each<[string, Partial<PoolLoad>]>([
    ['prompts wait', { waitMs: 190 }],
    ['requests come near their limits', { inFlightShare: 0.55 }],
    // 0.6 × 10 000 × 7 = 42 000 fits without one of eight.
    ['the rest would be busy', { prefillTokensPerS: 42_100 }],
  ])('none leaves while %s', (_why, load) => {
    const pool = joined();
    pool.run(300_000, load);
    expect(pool.leaves).toEqual([]);
  });

  it('none leaves while the load of others is unknown', () => {
    const pool = joined();
    pool.run(300_000, {}, false);
    expect(pool.leaves).toEqual([]);
  });

  it('one that serves nobody leaves first', () => {
    const pool = joined();
    pool.unable.add('a');
    pool.run(61_000, {});
    expect(pool.leaves.map(({ address }) => address)).toEqual(['a']);
  });

  it('the last that serves stays', () => {
    const pool = new Pool();
    pool.run(3_000, { weight: 0 });
    pool.run(600_000, { weight: 0 });
    expect(pool.active.size).toBe(1);
  });

  it('the time starts anew with every disturbance', () => {
    const pool = joined();
    for (let i = 0; i < 5; i += 1) {
      pool.run(59_000, {});
      pool.run(250, { waitMs: 300 });
    }
    expect(pool.leaves).toEqual([]);
  });
});

describe('a load between the two', () => {
  it('does not make the reserve come and go: each time it waits twice as long', () => {
    const pool = new Pool(['a']);
    // Six cannot do it; seven have no wait at all.
    for (let i = 0; i < 4_000; i += 1) pool.run(1_000, pool.active.size === 0 ? { waitMs: 1_100 } : {});
    const stays = pool.leaves.map(({ atMs }, i) => atMs - pool.joins[i]!.atMs);
    expect(stays.slice(0, 4).map((ms) => Math.round(ms / settings.calmForMs))).toEqual([1, 2, 4, 8]);
    expect(pool.joins.length).toBeLessThan(14);
  });

  it('is forgiven after a long calm', () => {
    const pool = new Pool(['a']);
    for (let i = 0; i < 400; i += 1) pool.run(1_000, pool.active.size === 0 ? { waitMs: 1_100 } : {});
    pool.run(2_000_000, {});
    const before = pool.leaves.length;
    const fromMs = pool.nowMs;
    pool.run(3_000, { waitMs: 1_100 });
    pool.run(70_000, {});
    expect(pool.leaves.length).toBe(before + 1);
    expect(pool.leaves.at(-1)!.atMs - fromMs).toBeLessThan(70_000);
  });
});

describe('two routers', () => {
  it('that see the same ask for the same at the same time, so that one can go on where the other stopped', () => {
    const pool = new Pool();
    const second = new StandbyController(settings);
    const asked: { readonly atMs: number; readonly address: string }[] = [];
    const follow = (ms: number, load: Partial<PoolLoad>): void => {
      for (const untilMs = pool.nowMs + ms; pool.nowMs < untilMs; ) {
        const weight = 6 + pool.active.size;
        const { changes } = second.decide({ ...idle, ...load, weight, servers: weight }, pool.servers, pool.nowMs);
        for (const { address } of changes) asked.push({ atMs: pool.nowMs, address });
        pool.run(250, load);
      }
    };
    follow(2_500, { waitMs: 5_000 });
    follow(30_000, { waitMs: 500 });
    follow(200_000, {});
    expect(pool.joins).toHaveLength(2);
    expect(asked).toEqual([...pool.joins, ...pool.leaves]);
  });
});

describe('whatever the load', () => {
  it('joins and leaves keep their distance', () => {
    const phase = fc.record({ ms: fc.integer({ min: 250, max: 100_000 }), waitMs: fc.integer({ min: 0, max: 4_000 }), prefillTokensPerS: fc.integer({ min: 0, max: 80_000 }) });
    fc.assert(
      fc.property(fc.array(phase, { maxLength: 20 }), (phases) => {
        const pool = new Pool(['a', 'b', 'c']);
        for (const { ms, ...load } of phases) pool.run(ms, load);
        const changes = [...pool.joins.map(({ atMs }) => ({ atMs, ms: settings.forMs })), ...pool.leaves.map(({ atMs }) => ({ atMs, ms: settings.calmForMs }))];
        changes.sort((x, y) => x.atMs - y.atMs);
        for (const [i, { atMs, ms }] of changes.entries()) {
          const before = changes[i - 1];
          if (before !== undefined && before.atMs !== atMs) expect(atMs - before.atMs).toBeGreaterThanOrEqual(ms);
        }
      }),
    );
  });
});
