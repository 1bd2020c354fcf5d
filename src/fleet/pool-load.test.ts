import { describe, expect, it } from 'vitest';
import type { EndpointState } from '../core/fleet-snapshot.ts';
import { FleetPool } from './fleet-view.ts';
import { decodeTokensPerS, PoolLoadMeter } from './pool-load.ts';

const tokensPerMs = 10;

function createPool(endpoints: readonly { weight?: number; requestsMax?: number; address?: string }[]): FleetPool {
  return new FleetPool({
    name: 'chat',
    endpoints: endpoints.map(({ weight = 1, requestsMax, address }, i) => ({ address: address ?? `10.0.0.${i + 1}:80`, weight, labels: {}, requestsMax })),
  });
}

/** A request that waits, as the reservations count it. */
function wait(pool: FleetPool, index: number, tokens: number, nowMs: number): void {
  const endpoint = pool.endpoints[index]!;
  endpoint.own.requests += 1;
  endpoint.own.requestsWaiting += 1;
  endpoint.own.uncachedTokensWaiting += tokens;
  endpoint.line.join('', tokens, nowMs);
  pool.noteDispatch(tokens, tokens);
}

function firstToken(pool: FleetPool, index: number, tokens: number, nowMs: number): void {
  const endpoint = pool.endpoints[index]!;
  endpoint.own.requestsWaiting -= 1;
  endpoint.own.uncachedTokensWaiting -= tokens;
  endpoint.line.leave('', tokens, nowMs, true);
}

/** Samples four times a second until `untilMs`, and returns the last. */
function settle(meter: PoolLoadMeter, fromMs: number, untilMs: number, step: (nowMs: number) => void = () => {}): ReturnType<PoolLoadMeter['sample']> {
  let load = meter.sample(fromMs);
  for (let nowMs = fromMs + 250; nowMs <= untilMs; nowMs += 250) {
    step(nowMs);
    load = meter.sample(nowMs);
  }
  return load;
}

describe('the wait', () => {
  it('is the prefill that waits over all that take requests, by their weights', () => {
    const pool = createPool([{ weight: 3 }, { weight: 1 }]);
    const meter = new PoolLoadMeter(pool, tokensPerMs);
    // Each in front of the line takes its part off by the clock, so they are made to start now, always.
    const load = settle(meter, 0, 10_000, (nowMs) => {
      for (const index of [0, 1]) pool.endpoints[index]!.line.settle('', { requests: 0, tokens: 0 }, nowMs);
      pool.endpoints[0]!.own.uncachedTokensWaiting = 8_000;
      pool.endpoints[0]!.line.join('', 8_000, nowMs);
    });
    expect(load.weight).toBe(4);
    expect(load.waitMs).toBeCloseTo(8_000 / (tokensPerMs * 4), 0);
  });

  it('counts neither what waits nor the weight of endpoints that take nothing', () => {
    for (const state of ['draining', 'ejected', 'slow', 'half-open', 'not-ready', 'joining', 'standby'] satisfies EndpointState[]) {
      const pool = createPool([{}, {}]);
      wait(pool, 1, 100_000, 0);
      wait(pool, 1, 100_000, 0);
      pool.endpoints[1]!.state = state;
      expect([state, settle(new PoolLoadMeter(pool, tokensPerMs), 0, 5_000)]).toMatchObject([state, { weight: 1, servers: 1, waitMs: 0, waitingTokens: 0 }]);
    }
  });

  it('grows where the first in line takes too long and others stand behind it, however few tokens they are', () => {
    const pool = createPool([{}]);
    wait(pool, 0, 10, 0);
    wait(pool, 0, 10, 0);
    expect(settle(new PoolLoadMeter(pool, tokensPerMs), 0, 10_000).waitMs).toBeGreaterThan(8_000);
    const alone = createPool([{}]);
    wait(alone, 0, 10, 0);
    expect(settle(new PoolLoadMeter(alone, tokensPerMs), 0, 10_000).waitMs).toBeLessThan(10);
  });

  it('of one endpoint without end does not outweigh the rest for ever', () => {
    const pool = createPool([{}]);
    wait(pool, 0, 10, 0);
    wait(pool, 0, 10, 0);
    const meter = new PoolLoadMeter(pool, tokensPerMs);
    settle(meter, 0, 3_600_000);
    firstToken(pool, 0, 10, 3_600_000);
    firstToken(pool, 0, 10, 3_600_000);
    expect(settle(meter, 3_600_250, 3_610_000).waitMs).toBeLessThan(10);
  });
});

describe('requests against limits', () => {
  it('are a part of all limits, and unknown where an endpoint has none', () => {
    const pool = createPool([{ requestsMax: 10 }, { requestsMax: 30 }]);
    for (let i = 0; i < 20; i += 1) wait(pool, 1, 0, 0);
    expect(settle(new PoolLoadMeter(pool, tokensPerMs), 0, 10_000).inFlightShare).toBeCloseTo(0.5, 2);
    expect(settle(new PoolLoadMeter(createPool([{ requestsMax: 10 }, {}]), tokensPerMs), 0, 1_000).inFlightShare).toBeUndefined();
  });
});

describe('rates', () => {
  it('are those of all that is sent, over about ten seconds', () => {
    const pool = createPool([{}, {}]);
    const load = settle(new PoolLoadMeter(pool, tokensPerMs), 0, 60_000, () => {
      for (let i = 0; i < 5; i += 1) pool.noteDispatch(1_000, 400);
    });
    expect(load.requestsPerS).toBeCloseTo(20, 0);
    expect(load.promptTokensPerS).toBeCloseTo(20_000, -3);
    expect(load.prefillTokensPerS).toBeCloseTo(8_000, -3);
  });

  it('reckon with routers that cannot be heard as though they sent what this one does', () => {
    const pool = createPool([{}]);
    const meter = new PoolLoadMeter(pool, tokensPerMs);
    let load = meter.sample(0, 2);
    for (let nowMs = 1_000; nowMs <= 100_000; nowMs += 1_000) {
      pool.noteDispatch(100, 100);
      load = meter.sample(nowMs, 2);
    }
    expect(load.requestsPerS).toBeCloseTo(3, 2);
  });

  it('are not upset by two samples at once', () => {
    const pool = createPool([{}]);
    const meter = new PoolLoadMeter(pool, tokensPerMs);
    meter.sample(0);
    pool.noteDispatch(100, 100);
    meter.sample(0);
    expect(meter.sample(250).requestsPerS).toBeGreaterThan(0);
  });
});

describe('servers', () => {
  it('are addresses, not ranks', () => {
    const pool = createPool([{ address: '10.0.0.1:80#0' }, { address: '10.0.0.1:80#1' }, { address: '10.0.0.2:80' }]);
    expect(new PoolLoadMeter(pool, tokensPerMs).sample(0)).toMatchObject({ servers: 2, weight: 3 });
  });
});

describe('capacity', () => {
  /** Each endpoint does `perS` tokens a second, in prompts of 100, and has `queued` prompts in line. */
  function run(pool: FleetPool, meter: PoolLoadMeter, seconds: number, perS: number, queued: number, fromMs: number): number {
    let nowMs = fromMs;
    let owed = 0;
    const load = settle(meter, fromMs, fromMs + seconds * 1_000, (at) => {
      nowMs = at;
      owed += perS / 4;
      for (const index of pool.endpoints.keys()) {
        const { line } = pool.endpoints[index]!;
        while (line.length < queued + Math.floor(owed / 100)) wait(pool, index, 100, nowMs);
        for (let i = 0; i < Math.floor(owed / 100); i += 1) firstToken(pool, index, 100, nowMs);
      }
      owed %= 100;
    });
    return load.capacityTokensPerS;
  }

  it('is as configured until it was seen', () => {
    expect(new PoolLoadMeter(createPool([{}]), tokensPerMs).sample(0).capacityTokensPerS).toBe(10_000);
  });

  it('is what a pool does that has prompts queued everywhere, for one weight', () => {
    const pool = createPool([{ weight: 2 }, { weight: 2 }]);
    expect(run(pool, new PoolLoadMeter(pool, tokensPerMs), 300, 4_000, 5, 0)).toBeCloseTo(2_000, -2);
  });

  it('is at least what a pool does that has nothing queued', () => {
    const pool = createPool([{}]);
    expect(run(pool, new PoolLoadMeter(pool, tokensPerMs), 120, 40_000, 0, 0)).toBeCloseTo(40_000, -3);
  });

  it('goes back to the configured one when the queue is long gone', () => {
    const pool = createPool([{}]);
    const meter = new PoolLoadMeter(pool, tokensPerMs);
    const learned = run(pool, meter, 300, 2_000, 5, 0);
    while (pool.endpoints[0]!.line.length > 0) firstToken(pool, 0, 100, 300_000);
    const soon = settle(meter, 300_250, 360_000).capacityTokensPerS;
    const late = settle(meter, 360_250, 15_000_000).capacityTokensPerS;
    expect(learned).toBeLessThan(2_200);
    expect(soon).toBeLessThan(2_600);
    expect(late).toBeGreaterThan(9_900);
  });
});

describe('tokens generated', () => {
  it('are those of requests past their first token at the pace measured; of endpoints without one at that of the others', () => {
    const pool = createPool([{}, {}, {}]);
    for (const endpoint of pool.endpoints) endpoint.own.requests = 10;
    pool.endpoints[0]!.own.requestsWaiting = 5;
    expect(decodeTokensPerS(pool)).toBeUndefined();
    // 20 ms a token.
    for (const index of [0, 1]) {
      const { times } = pool.endpoints[index]!;
      times.ended('a.1', { kind: 'answered', firstByteMs: 10, tpotMs: 20 }, 0);
      times.advance(5_000);
    }
    expect(decodeTokensPerS(pool)).toBeCloseTo(25 * 50, 0);
    expect(decodeTokensPerS(createPool([{}]))).toBe(0);
  });
});
