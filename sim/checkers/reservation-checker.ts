import type { FleetEndpoint } from '../../src/fleet/endpoint.ts';
import type { SimulatedRouter } from '../simulated-router.ts';
import type { Violations } from './violation.ts';

/** Holds a router's books to account: nothing below zero at any time, nothing left when nothing is in flight. */
export class ReservationChecker {
  readonly #violations: Violations;

  constructor(violations: Violations) {
    this.#violations = violations;
  }

  /** After whatever changed an endpoint's counts. */
  check({ id }: SimulatedRouter, endpoint: FleetEndpoint, nowMs: number): void {
    for (const [name, load] of loadsOf(endpoint)) {
      if (load < 0) this.#violations.add('reservation-negative', nowMs, `router ${id} counts ${load} of ${name} on ${endpoint.address}`);
    }
    if (endpoint.own.requestsWaiting > endpoint.own.requests) {
      const { requestsWaiting, requests } = endpoint.own;
      this.#violations.add('reservation-negative', nowMs, `router ${id} has ${requestsWaiting} of ${requests} requests waiting on ${endpoint.address}`);
    }
  }

  /** When every request is over and every report had the time to arrive. */
  checkEnd({ id, router, fleet }: SimulatedRouter, nowMs: number): void {
    if (router.requestsInFlight > 0) this.#violations.add('reservation-leaked', nowMs, `router ${id} holds ${router.requestsInFlight} leases of requests that are over`);
    for (const pool of fleet.pools.values()) {
      for (const endpoint of pool.endpoints) {
        for (const [name, load] of loadsOf(endpoint)) {
          if (load !== 0) this.#violations.add('reservation-leaked', nowMs, `router ${id} counts ${load} of ${name} on ${endpoint.address}, which is idle`);
        }
        if (endpoint.line.length > 0) {
          this.#violations.add('reservation-leaked', nowMs, `router ${id} has ${endpoint.line.length} in line for ${endpoint.address}, which is idle`);
        }
      }
    }
  }
}

function loadsOf(endpoint: FleetEndpoint): [name: string, load: number][] {
  const parts = (owner: string, load: FleetEndpoint['own'] | FleetEndpoint): [string, number][] => [
    [`${owner} requests`, load.requests],
    [`${owner} promptTokens`, load.promptTokens],
    [`${owner} requestsWaiting`, load.requestsWaiting],
    [`${owner} uncachedTokensWaiting`, load.uncachedTokensWaiting],
  ];
  return [...parts('own', endpoint.own), ...parts('foreign', endpoint.foreign), ...parts('all', endpoint)];
}
