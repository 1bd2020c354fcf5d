import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Autoscaler, type AutoscaleSettings } from './autoscale.ts';
import type { PoolLoad } from './pool-load.ts';

const settings: AutoscaleSettings = {
  replicasMin: 1,
  replicasMax: undefined,
  utilization: 0.5,
  requestsPerReplica: undefined,
  waitMs: 1_000,
  drainMs: 10_000,
  stabilizationMs: 300_000,
};
const idle: PoolLoad = {
  weight: 4,
  servers: 4,
  waitMs: 0,
  inFlightShare: undefined,
  waitingTokens: 0,
  requests: 0,
  requestsPerS: 0,
  promptTokensPerS: 0,
  prefillTokensPerS: 0,
  capacityTokensPerS: 1_000,
};

function advise(load: Partial<PoolLoad>, changed: Partial<AutoscaleSettings> = {}, limitPerServer?: number): { desiredReplicas: number; reason: string } {
  return new Autoscaler({ ...settings, ...changed }).advise({ ...idle, ...load }, { known: 4, limitPerServer }, 0);
}

describe('what is advised', () => {
  it.each<[Partial<PoolLoad>, Partial<AutoscaleSettings>, number | undefined, number, string]>([
    [{}, {}, undefined, 1, 'minimum'],
    // 2 600 tokens/s at 500 a server.
    [{ prefillTokensPerS: 2_600 }, {}, undefined, 6, 'prefill'],
    [{ prefillTokensPerS: 2_500 }, {}, undefined, 5, 'prefill'],
    // And 10 000 that wait, in ten seconds.
    [{ prefillTokensPerS: 2_600, waitingTokens: 10_000 }, {}, undefined, 8, 'prefill'],
    // Servers of weight 3 each.
    [{ prefillTokensPerS: 2_600, weight: 12 }, {}, undefined, 2, 'prefill'],
    [{ requests: 30 }, { requestsPerReplica: 4 }, undefined, 8, 'requests'],
    // Half of a limit of 10.
    [{ requests: 30 }, {}, 10, 6, 'requests'],
    [{ requests: 30 }, { requestsPerReplica: 4 }, 10, 8, 'requests'],
    [{ waitMs: 1_500 }, {}, undefined, 6, 'wait'],
    [{ waitMs: 50_000 }, {}, undefined, 8, 'wait'],
    [{ waitMs: 1_000 }, {}, undefined, 4, 'queue'],
    [{ waitMs: 100, prefillTokensPerS: 600 }, {}, undefined, 2, 'prefill'],
    [{ waitMs: 101, prefillTokensPerS: 600 }, {}, undefined, 4, 'queue'],
    [{ prefillTokensPerS: 2_600 }, { replicasMax: 5 }, undefined, 5, 'maximum'],
    [{ prefillTokensPerS: 600 }, { replicasMin: 3 }, undefined, 3, 'minimum'],
  ])('%j %j, limit %s: %s (%s)', (load, changed, limit, desiredReplicas, reason) => {
    expect(advise(load, changed, limit)).toEqual({ desiredReplicas, reason });
  });

  it('is what there is where nobody serves at the start, and the last advice where nobody does later', () => {
    const none = { ...idle, weight: 0, servers: 0 };
    expect(advise({ weight: 0, servers: 0 })).toEqual({ desiredReplicas: 4, reason: 'nobody-serves' });
    const autoscaler = new Autoscaler(settings);
    autoscaler.advise({ ...idle, prefillTokensPerS: 3_400 }, { known: 4, limitPerServer: undefined }, 0);
    expect(autoscaler.advise(none, { known: 4, limitPerServer: undefined }, 1_000)).toEqual({ desiredReplicas: 7, reason: 'nobody-serves' });
  });
});

describe('a lower advice', () => {
  it('stands only when none was higher for as long as it takes', () => {
    const autoscaler = new Autoscaler(settings);
    const at = (nowMs: number, prefillTokensPerS: number): unknown => autoscaler.advise({ ...idle, prefillTokensPerS }, { known: 4, limitPerServer: undefined }, nowMs);
    expect(at(0, 4_000)).toEqual({ desiredReplicas: 8, reason: 'prefill' });
    expect(at(100_000, 3_000)).toEqual({ desiredReplicas: 8, reason: 'stabilization' });
    expect(at(299_000, 1_000)).toEqual({ desiredReplicas: 8, reason: 'stabilization' });
    expect(at(300_000, 1_000)).toEqual({ desiredReplicas: 6, reason: 'stabilization' });
    expect(at(400_000, 1_000)).toEqual({ desiredReplicas: 2, reason: 'prefill' });
  });

  it('never undercuts the highest of the window, and a higher one stands at once', () => {
    const step = fc.record({ ms: fc.integer({ min: 1, max: 200_000 }), rate: fc.integer({ min: 0, max: 20_000 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const autoscaler = new Autoscaler(settings);
        const given: { readonly atMs: number; readonly wanted: number }[] = [];
        let nowMs = 0;
        for (const { ms, rate } of steps) {
          nowMs += ms;
          given.push({ atMs: nowMs, wanted: Math.max(1, Math.ceil(rate / 500)) });
          const wanted = Math.max(...given.filter(({ atMs }) => atMs > nowMs - settings.stabilizationMs).map((earlier) => earlier.wanted));
          const { desiredReplicas } = autoscaler.advise({ ...idle, prefillTokensPerS: rate }, { known: 4, limitPerServer: undefined }, nowMs);
          expect(desiredReplicas).toBe(wanted);
        }
      }),
    );
  });
});
