import { describe, expect, it } from 'vitest';
import { breakerDefaults } from '../../src/fleet/endpoint-health.ts';
import type { ChangeCause, EndpointChange } from '../../src/fleet/endpoint-change.ts';
import type { EndpointState } from '../../src/core/fleet-snapshot.ts';
import { FleetView } from '../../src/fleet/fleet-view.ts';
import type { Routed } from '../../src/router/routed.ts';
import type { Router } from '../../src/router/router.ts';
import { engineProfiles } from '../engine/engine-profiles.ts';
import { SimulatedEndpoint } from '../simulated-endpoint.ts';
import type { SimulatedRouter } from '../simulated-router.ts';
import { HealthChecker } from './health-checker.ts';
import { Violations } from './violation.ts';

const addresses = ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80', '10.0.0.4:80'] as const;
const [a, b, c] = addresses;

function setUp() {
  const violations = new Violations();
  const fleet = new FleetView([{ name: 'p', endpoints: addresses.map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) }]);
  const router: SimulatedRouter = { id: 'r', router: {} as unknown as Router, fleet, probed: () => undefined, discover: () => undefined };
  const endpoints = new Map(addresses.map((address) => [address as string, new SimulatedEndpoint({ address, profile: engineProfiles.demo, slowFactor: 1 })]));
  const checker = new HealthChecker(violations, endpoints, { breaker: breakerDefaults, ejectedShareMax: 0.5 });
  const at = (address: string) => fleet.pool('p')!.endpoint(address)!;
  /** The router changes a state, of its own accord unless `by` says otherwise. */
  const change = (atMs: number, to: EndpointState, cause: ChangeCause, backOffMs?: number, by?: string, address: string = a): void => {
    const endpoint = at(address);
    const told: EndpointChange = { pool: 'p', address, from: endpoint.state, to, cause, detail: undefined, by, atMs, untilMs: backOffMs === undefined ? undefined : atMs + backOffMs };
    endpoint.state = to;
    endpoint.health.stamps.breaker.by = by ?? 'r';
    checker.changed(router, told);
  };
  const choose = (nowMs: number, address: string = b, lease = 'l'): void => {
    checker.chose(router, { pool: { name: 'p' }, addresses: [address], lease, needsPlace: false } as unknown as Routed, nowMs);
  };
  return { at, change, checker, choose, endpoints, router, rules: () => violations.kept.map(({ rule }) => rule), messages: () => violations.kept.map(({ message }) => message) };
}

describe('back-off', () => {
  it('may double up to the longest, and start over after a long calm', () => {
    const { change, rules } = setUp();
    let nowMs = 0;
    for (const [index, backOffMs] of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].entries()) {
      change(nowMs, 'ejected', index === 0 ? 'failures' : 'trial-failed', backOffMs);
      nowMs += backOffMs;
      change(nowMs, 'half-open', 'back-off-over');
    }
    change(nowMs + 10, 'warming', 'trials-passed');
    change(nowMs + 40_000, 'ejected', 'failures', 1_000);
    expect(rules()).toEqual([]);
  });

  it('must not end early', () => {
    const { change, messages } = setUp();
    change(0, 'ejected', 'failures', 2_000);
    change(1_500, 'half-open', 'back-off-over');
    expect(messages()).toEqual([expect.stringContaining('tries 10.0.0.1:80 500 ms before its back-off is over')]);
  });

  it('must not be shorter than configured, nor longer', () => {
    for (const backOffMs of [0, 900, 31_000]) {
      const { change, rules } = setUp();
      change(0, 'ejected', 'failures', backOffMs);
      expect(rules()).toEqual(['endpoint-flapping']);
    }
  });

  it('must grow where there was no calm', () => {
    const { change, rules } = setUp();
    change(0, 'slow', 'slower-than-peers', 4_000);
    change(4_000, 'half-open', 'back-off-over');
    change(4_100, 'ready', 'trials-passed');
    change(5_000, 'ejected', 'failures', 4_000);
    expect(rules()).toEqual(['endpoint-flapping']);
  });

  it('is not judged where another router had the last word', () => {
    const { change, rules } = setUp();
    change(0, 'ejected', 'failures', 8_000);
    change(10, 'ready', 'operator', undefined, 'other');
    change(20, 'ejected', 'failures', 1_000);
    change(30, 'half-open', 'back-off-over', undefined, 'other');
    expect(rules()).toEqual([]);
  });

  it('finds a change that changes nothing', () => {
    const { change, rules } = setUp();
    change(0, 'ready', 'warmed-up');
    expect(rules()).toEqual(['endpoint-flapping']);
  });
});

describe('trials', () => {
  it('are so many at a time; one that had its first token is none any more', () => {
    const { at, checker, choose, router, rules } = setUp();
    at(a).state = 'half-open';
    for (const lease of ['1', '2', '3']) choose(0, a, lease);
    checker.tried(router, { addresses: [a], lease: '2' } as unknown as Routed);
    choose(1, a, '4');
    expect(rules()).toEqual([]);
    choose(2, a, '5');
    expect(rules()).toEqual(['too-many-trials']);
  });

  it('are more where nobody else can take a request', () => {
    const { at, choose, rules } = setUp();
    at(a).state = 'half-open';
    for (const address of addresses.slice(1)) at(address).state = 'draining';
    for (const lease of ['1', '2', '3', '4']) choose(0, a, lease);
    expect(rules()).toEqual([]);
  });

  it('begin anew with the next back-off', () => {
    const { at, change, choose, rules } = setUp();
    at(a).state = 'half-open';
    for (const lease of ['1', '2', '3']) choose(0, a, lease);
    change(1, 'ejected', 'trial-failed', 1_000);
    change(1_001, 'half-open', 'back-off-over');
    for (const lease of ['4', '5', '6']) choose(1_002, a, lease);
    expect(rules()).toEqual([]);
  });
});

describe('trust', () => {
  it('must not come of trials that all have failed', () => {
    for (const [struckMs, broken] of [[0, ['endpoint-trusted']], [1_500, []]] as const) {
      const { change, endpoints, rules } = setUp();
      change(0, 'ejected', 'failures', 1_000);
      endpoints.get(a)!.ail({ cuts: true }, struckMs);
      change(1_000, 'half-open', 'back-off-over');
      change(2_000, 'warming', 'trials-passed');
      // Trials of before the fault may have passed.
      expect(rules()).toEqual(broken);
    }
  });
});

describe('share left out', () => {
  it('may be the configured one of those that could serve', () => {
    const { at, choose, rules } = setUp();
    at(a).state = 'ejected';
    at(b).state = 'slow';
    for (const nowMs of [0, 1_000]) choose(nowMs, c);
    expect(rules()).toEqual([]);
  });

  it('must not be more for longer than it takes to see', () => {
    const { at, choose, messages } = setUp();
    at(a).state = 'ejected';
    at(b).state = 'slow';
    choose(0, c);
    at(c).health.probe = 'failing';
    choose(100, '10.0.0.4:80');
    choose(250, '10.0.0.4:80');
    expect(messages()).toEqual([]);
    choose(350, '10.0.0.4:80');
    expect(messages()).toEqual(['router r leaves out 2 of 3: 10.0.0.1:80 ejected, 10.0.0.2:80 slow']);
  });
});

describe('who is well', () => {
  const longMs = breakerDefaults.backOffMsMax + 11_000;

  it.each(['ejected', 'slow', 'not-ready', 'joining'] as const)('must not be held for %s after any back-off', (state) => {
    const { at, choose, rules } = setUp();
    at(a).state = state;
    choose(longMs - 2_000);
    expect(rules()).toEqual([]);
    choose(longMs);
    expect(rules()).toEqual(['endpoint-forgotten']);
  });

  it('must not wait for trials that nobody makes', () => {
    const { at, choose, rules } = setUp();
    at(a).state = 'half-open';
    choose(longMs);
    // No trial is free, and none is under way.
    expect(at(a).trialsFree).toBe(0);
    expect(rules()).toEqual(['endpoint-forgotten']);
    at(a).own.requests = 1;
    choose(longMs + 1);
    expect(rules()).toHaveLength(1);
  });

  it('may be left out anew, each time for a while', () => {
    const { change, choose, rules } = setUp();
    change(longMs - 1_000, 'slow', 'slower-than-peers', 1_000);
    choose(longMs + 20_000);
    expect(rules()).toEqual([]);
  });

  it('has to be well: not slow by nature, and for long', () => {
    const { at, choose, endpoints, rules } = setUp();
    at(a).state = 'ejected';
    endpoints.get(a)!.ail({ failShare: 1 }, 0);
    choose(longMs);
    endpoints.get(a)!.recover(longMs);
    choose(longMs + 1_000);
    expect(rules()).toEqual([]);
    choose(2 * longMs + 1);
    expect(rules()).toEqual(['endpoint-forgotten']);
  });
});
