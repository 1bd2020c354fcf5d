import { describe, expect, it } from 'vitest';
import { FleetView } from '../../src/fleet/fleet-view.ts';
import type { Router } from '../../src/router/router.ts';
import type { Routed } from '../../src/router/routed.ts';
import { engineProfiles } from '../engine/engine-profiles.ts';
import { SimulatedEndpoint } from '../simulated-endpoint.ts';
import type { SimulatedRouter } from '../simulated-router.ts';
import { chatPath, type WorkloadRequest } from '../workloads/workload.ts';
import { ChoiceChecker } from './choice-checker.ts';
import { ReservationChecker } from './reservation-checker.ts';
import { Violations } from './violation.ts';

const [a, b] = ['10.0.0.1:80', '10.0.0.2:80'];

function routerWith(requestsInFlight = 0, requestsMax?: number): SimulatedRouter {
  const fleet = new FleetView([{ name: 'p', endpoints: [a, b].map((address) => ({ address, weight: 1, labels: {}, requestsMax })) }]);
  return { id: 'r', router: { requestsInFlight } as unknown as Router, fleet, probed: () => undefined, discover: () => undefined };
}

function endpointOf(router: SimulatedRouter, address: string) {
  return router.fleet.pool('p')!.endpoint(address)!;
}

const routedTo = (...addresses: string[]): Routed => ({ pool: { name: 'p' }, addresses, decision: { addresses } }) as unknown as Routed;
const request: WorkloadRequest = { arrivalMs: 0, promptTokens: 600, outputTokens: 5, blockHashes: [1], outputBlockHashes: [], session: undefined, model: undefined, tenant: undefined, path: chatPath };

describe('ReservationChecker', () => {
  it('has nothing against books that balance', () => {
    const violations = new Violations();
    const router = routerWith();
    const checker = new ReservationChecker(violations);
    endpointOf(router, a).own.requests = 2;
    checker.check(router, endpointOf(router, a), 1);
    endpointOf(router, a).own.requests = 0;
    checker.checkEnd(router, 2);
    expect(violations.count).toBe(0);
  });

  it.each(['requests', 'promptTokens', 'uncachedTokensWaiting'] as const)('finds %s below nothing, own or told', (count) => {
    const violations = new Violations();
    const router = routerWith();
    const checker = new ReservationChecker(violations);
    endpointOf(router, a).own[count] = -1;
    endpointOf(router, b).foreign[count] = -1;
    checker.check(router, endpointOf(router, a), 1);
    checker.check(router, endpointOf(router, b), 1);
    const found = violations.kept.filter(({ rule }) => rule === 'reservation-negative').map(({ message }) => message);
    expect(found.some((message) => message.includes(`own ${count} on ${a}`))).toBe(true);
    expect(found.some((message) => message.includes(`foreign ${count} on ${b}`))).toBe(true);
  });

  it('finds more requests waiting than there are', () => {
    const violations = new Violations();
    const router = routerWith();
    endpointOf(router, a).own.requestsWaiting = 1;
    new ReservationChecker(violations).check(router, endpointOf(router, a), 1);
    expect(violations.kept[0]?.rule).toBe('reservation-negative');
  });

  it('finds what is left at the end: a lease, a count, a place in line', () => {
    for (const leave of [
      () => routerWith(1),
      () => {
        const router = routerWith();
        endpointOf(router, b).foreign.promptTokens = 7;
        return router;
      },
      () => {
        const router = routerWith();
        endpointOf(router, a).line.join('other', 5, 0);
        return router;
      },
    ]) {
      const violations = new Violations();
      new ReservationChecker(violations).checkEnd(leave(), 9);
      expect(violations.kept[0]).toMatchObject({ rule: 'reservation-leaked', atMs: 9 });
    }
  });
});

describe('ChoiceChecker', () => {
  function checkerWith(limitsHold = true) {
    const endpoints = new Map([a, b].map((address) => [address, new SimulatedEndpoint({ address, profile: engineProfiles.demo, slowFactor: 1 })]));
    const violations = new Violations();
    const checker = new ChoiceChecker(violations, endpoints, () => limitsHold);
    for (const address of [a, b]) checker.started(address, 0);
    return { checker, endpoints, rules: () => violations.kept.map(({ rule }) => rule) };
  }

  it('has nothing against a ready endpoint with fallbacks', () => {
    const { checker, rules } = checkerWith();
    checker.chose(routerWith(), routedTo(a, b), 1);
    expect(rules()).toEqual([]);
  });

  it('finds a choice that is unknown, ejected or twice in the list, the fallbacks included', () => {
    const { checker, rules } = checkerWith();
    checker.chose(routerWith(), routedTo(a, '10.9.9.9:80'), 1);
    expect(rules()).toEqual(['endpoint-unknown']);
    const router = routerWith();
    endpointOf(router, b).state = 'ejected';
    checker.chose(router, routedTo(a, b), 2);
    expect(rules()).toEqual(['endpoint-unknown', 'endpoint-not-ready']);
    checker.chose(routerWith(), routedTo(a, a), 3);
    checker.chose(routerWith(), routedTo(), 4);
    expect(rules().slice(2)).toEqual(['endpoint-unknown', 'endpoint-unknown']);
  });

  it('finds a limit exceeded, unless nobody can keep it', () => {
    for (const limitsHold of [true, false]) {
      const { checker, endpoints, rules } = checkerWith(limitsHold);
      const endpoint = endpointOf(routerWith(0, 2), a);
      for (const id of [1, 2]) endpoints.get(a)!.send(id, request, 0);
      checker.reached(endpoint, 0);
      expect(rules()).toEqual([]);
      endpoints.get(a)!.send(3, request, 0);
      checker.reached(endpoint, 0);
      expect(rules()).toEqual(limitsHold ? ['bound-exceeded'] : []);
    }
  });

  it('finds none that idles while others have fewer waiting than they run at once', () => {
    const { checker, endpoints, rules } = checkerWith();
    // 8 run, 7 wait.
    for (let id = 0; id < 15; id += 1) endpoints.get(a)!.send(id, request, 0);
    endpoints.get(a)!.advanceBefore(1);
    expect(endpoints.get(a)!.waiting).toBe(7);
    for (let i = 0; i < 30; i += 1) checker.chose(routerWith(), routedTo(a, b), 60_000);
    expect(rules()).toEqual([]);
  });

  it('finds an endpoint that idles while another has a queue, once for each time', () => {
    const { checker, endpoints, rules } = checkerWith();
    const router = routerWith();
    // 8 run, 16 wait.
    for (let id = 0; id < 25; id += 1) endpoints.get(a)!.send(id, request, 0);
    endpoints.get(a)!.advanceBefore(1);
    for (let i = 0; i < 30; i += 1) checker.chose(router, routedTo(a, b), 4_999);
    expect(rules()).toEqual([]);
    checker.chose(router, routedTo(a, b), 5_000);
    for (let i = 0; i < 30; i += 1) checker.chose(router, routedTo(a, b), 9_000);
    expect(rules()).toEqual(['endpoint-starved']);
    // Few requests may all have gone elsewhere by chance.
    for (let i = 0; i < 23; i += 1) checker.chose(router, routedTo(b, a), 20_000);
    for (let i = 0; i < 23; i += 1) checker.chose(router, routedTo(a, b), 60_000);
    expect(rules()).toEqual(['endpoint-starved']);
    endpointOf(router, b).state = 'draining';
    checker.chose(router, routedTo(a), 90_000);
    expect(rules()).toEqual(['endpoint-starved']);
  });
});
