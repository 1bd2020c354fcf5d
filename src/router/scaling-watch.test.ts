import { describe, expect, it } from 'vitest';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import type { ExchangeStatus } from './ports.ts';
import { type ScalingSettings, scalingTickMs, ScalingWatch } from './scaling-watch.ts';

const settings: ScalingSettings = {
  pool: 'chat',
  tokensPerMs: 10,
  standby: { pressure: { waitMs: 1_000, inFlightShare: 0.9 }, forMs: 1_000, calm: { waitMs: 200, inFlightShare: 0.6, utilization: 0.6 }, calmForMs: 10_000 },
  autoscale: { replicasMin: 1, replicasMax: undefined, utilization: 0.7, requestsPerReplica: undefined, waitMs: 1_000, drainMs: 10_000, stabilizationMs: 0 },
};

interface Call {
  readonly address: string;
  readonly active: boolean;
  readonly cause: string;
}

class Router {
  readonly fleet: FleetView;
  readonly watch: ScalingWatch;
  readonly calls: Call[] = [];
  status: ExchangeStatus;
  #nowMs = 0;

  constructor(options: { readonly id?: string; readonly kind?: 'memory' | 'redis'; readonly status?: Partial<ExchangeStatus>; readonly addresses?: readonly string[] } = {}) {
    const { id = 'b', kind = 'memory', status = {}, addresses = ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.9:80 standby'] } = options;
    this.status = { connected: true, pushing: true, routersLastSeen: 1, routers: [], ...status };
    const endpoints = addresses.map((text) => {
      const [address = '', standby] = text.split(' ');
      return { address, weight: 1, labels: {}, requestsMax: undefined, standby: standby !== undefined };
    });
    this.fleet = new FleetView([{ name: 'chat', endpoints }]);
    for (const endpoint of this.pool) {
      if (!endpoint.standby) continue;
      endpoint.health.reserve = 'reserve';
      endpoint.state = 'standby';
    }
    this.watch = new ScalingWatch({
      routerId: id,
      fleet: this.fleet,
      settings: [settings],
      exchange: { kind, status: () => this.status },
      clock: { nowMs: () => this.#nowMs },
      health: {
        reserve: (_pool, address, active, cause) => {
          this.calls.push({ address, active, cause });
          const endpoint = this.fleet.pool('chat')!.endpoint(address)!;
          endpoint.health.reserve = active ? 'active' : 'reserve';
          endpoint.state = active ? 'warming' : 'standby';
        },
      },
    });
  }

  get pool(): readonly FleetEndpoint[] {
    return this.fleet.pool('chat')!.endpoints;
  }

  /** Prompts of so many tokens wait at each endpoint that serves. */
  load(tokens: number): void {
    for (const endpoint of this.pool) endpoint.own.uncachedTokensWaiting = tokens;
  }

  run(ms: number): void {
    for (const untilMs = this.#nowMs + ms; this.#nowMs < untilMs; ) {
      this.#nowMs += scalingTickMs;
      this.watch.tick();
    }
  }
}

const heard = (...ids: string[]): Partial<ExchangeStatus> => ({ routers: ids.map((id) => ({ id, ageMs: 0, requestsInFlight: 0 })) });

describe('the reserve', () => {
  it('is called under pressure and sent back in the calm', () => {
    const router = new Router();
    router.load(20_000);
    router.run(5_000);
    expect(router.calls).toEqual([{ address: '10.0.0.9:80', active: true, cause: 'pressure' }]);
    expect(router.watch.of('chat')?.standby).toEqual({ waiting: 0, active: 1, exhausted: true });
    router.load(0);
    router.run(20_000);
    expect(router.calls.slice(1)).toEqual([{ address: '10.0.0.9:80', active: false, cause: 'calm' }]);
    expect(router.watch.of('chat')?.standby).toEqual({ waiting: 1, active: 0, exhausted: false });
  });

  it('comes with all its ranks, and is one server', () => {
    const router = new Router({ addresses: ['10.0.0.1:80', '10.0.0.9:80#0 standby', '10.0.0.9:80#1 standby'] });
    expect(router.watch.of('chat')?.standby.waiting).toBe(1);
    router.load(12_000);
    router.run(3_000);
    expect(router.calls.map(({ address }) => address)).toEqual(['10.0.0.9:80#0', '10.0.0.9:80#1']);
  });

  it('is not asked for an endpoint that could not serve anyway', () => {
    const spoilt: readonly ((endpoint: FleetEndpoint) => void)[] = [
      ({ health }) => {
        health.operator = 'draining';
      },
      ({ health }) => {
        health.probe = 'failing';
      },
      ({ health }) => {
        health.probe = 'unknown';
      },
      ({ health }) => {
        health.breaker.open('open', 0);
      },
      ({ health }) => {
        health.leaving = true;
      },
    ];
    for (const spoil of spoilt) {
      const router = new Router();
      spoil(router.pool.find(({ standby }) => standby)!);
      router.load(20_000);
      router.run(5_000);
      expect([spoil.toString(), router.calls]).toEqual([spoil.toString(), []]);
    }
  });
});

describe('of several routers', () => {
  it.each<[string, Partial<ExchangeStatus>, number]>([
    ['the first by id decides', heard('b', 'c'), 1],
    ['the others only watch', heard('b', 'a'), 0],
    ['one that hears nobody decides for itself', { ...heard('b', 'a'), connected: false }, 1],
  ])('%s', (_what, status, calls) => {
    const router = new Router({ kind: 'redis', status });
    router.load(20_000);
    router.run(5_000);
    expect(router.calls).toHaveLength(calls);
  });

  it('the next goes on where the first stopped', () => {
    const router = new Router({ kind: 'redis', status: heard('b', 'a') });
    router.load(20_000);
    router.run(5_000);
    router.status = { ...router.status, ...heard('b') };
    router.run(scalingTickMs);
    expect(router.calls).toHaveLength(1);
  });

  it('none sends the reserve back while it cannot hear the others', () => {
    const router = new Router({ kind: 'redis', status: heard('b') });
    router.load(20_000);
    router.run(5_000);
    router.load(0);
    router.status = { ...router.status, connected: false };
    router.run(60_000);
    expect(router.calls).toHaveLength(1);
    router.status = { ...router.status, connected: true };
    router.run(20_000);
    expect(router.calls).toHaveLength(2);
  });

  it('those that push nothing count as though they sent what this one does', () => {
    const [alone, two] = [new Router({ kind: 'redis', status: heard('b') }), new Router({ kind: 'redis', status: { ...heard('b', 'c'), pushing: false } })];
    for (const router of [alone, two]) {
      for (let i = 0; i < 400; i += 1) {
        router.fleet.pool('chat')!.noteDispatch(100, 100);
        router.run(scalingTickMs);
      }
    }
    const rate = (router: Router): number => router.watch.of('chat')!.load.prefillTokensPerS;
    expect(rate(two) / rate(alone)).toBeCloseTo(2, 5);
  });
});

describe('other settings', () => {
  it('hold from the next tick on, and those of a pool that did not change keep what was measured', () => {
    const router = new Router();
    router.load(20_000);
    router.run(500);
    const before = router.watch.of('chat')!.load.waitMs;
    router.watch.reconfigure([structuredClone(settings)]);
    router.run(scalingTickMs);
    expect(router.watch.of('chat')!.load.waitMs).toBeGreaterThan(before);
    router.watch.reconfigure([{ ...settings, autoscale: { ...settings.autoscale, replicasMin: 7 } }]);
    router.run(scalingTickMs);
    expect(router.watch.of('chat')).toMatchObject({ advice: { desiredReplicas: 7, reason: 'minimum' }, load: { waitMs: expect.any(Number) as number } });
    expect(router.watch.of('chat')!.load.waitMs).toBeGreaterThan(before);
    router.watch.reconfigure([]);
    router.run(scalingTickMs);
    expect(router.watch.of('chat')).toBeUndefined();
    expect(router.watch.of('none')).toBeUndefined();
  });
});
