import type { EndpointState } from '../../src/core/fleet-snapshot.ts';
import type { FleetEndpoint } from '../../src/fleet/endpoint.ts';
import type { Routed } from '../../src/router/routed.ts';
import type { SimulatedEndpoint } from '../simulated-endpoint.ts';
import type { SimulatedRouter } from '../simulated-router.ts';
import type { Violations } from './violation.ts';

/** An endpoint that is idle for so long, in ms, while requests are sent where as many wait as run there, is starved. */
const idleMsMax = 5_000;
/** And so many times as many requests as there are endpoints went elsewhere meanwhile: chance passes nobody by that often. */
const passedByMax = 12;
/** Of an engine that runs very many at once, so many that wait are enough. */
const waitingMax = 16;

/** States in which an endpoint takes as much as any other, or soon will. */
const takesItsShare: ReadonlySet<EndpointState> = new Set(['ready', 'warming']);
/** States in which an endpoint may be chosen: a slow one where no other can be, a half-open one for a trial. */
const candidateStates: ReadonlySet<EndpointState> = new Set(['ready', 'warming', 'half-open', 'slow']);

/** Looks at every choice: known, ready, within limits, and nobody left out. */
export class ChoiceChecker {
  readonly #violations: Violations;
  readonly #endpoints: ReadonlyMap<string, SimulatedEndpoint>;
  /** When an endpoint was last chosen, or began to be ready. */
  readonly #busyMs = new Map<string, number>();
  /** Choices since then, all of others. */
  readonly #passedBy = new Map<string, number>();
  /**
   * Whether a router can know what is on an endpoint: not what others sent, without shared state or while it is away; nor what has run so
   * long that its lease expired.
   */
  readonly #limitsHold: (address: string) => boolean;

  constructor(violations: Violations, endpoints: ReadonlyMap<string, SimulatedEndpoint>, limitsHold: (address: string) => boolean) {
    this.#violations = violations;
    this.#endpoints = endpoints;
    this.#limitsHold = limitsHold;
  }

  /** An endpoint comes up: it has been idle from now on. */
  started(address: string, nowMs: number): void {
    this.#busy(address, nowMs);
  }

  /** Something is wrong with an endpoint: what it does not get is no matter, until it is `started` or has been well for a while. */
  disturbed(address: string, nowMs: number): void {
    this.#busy(address, nowMs);
  }

  /** A router chose, and nothing has changed since. */
  chose({ id, fleet }: SimulatedRouter, { pool, addresses, decision }: Routed, nowMs: number): void {
    const known = fleet.pool(pool.name);
    for (const address of addresses) {
      const endpoint = known?.endpoint(address);
      if (endpoint === undefined || !this.#endpoints.has(address)) {
        this.#violations.add('endpoint-unknown', nowMs, `router ${id} named ${address}, which is not in pool ${pool.name}`);
      } else if (!candidateStates.has(endpoint.state)) {
        this.#violations.add('endpoint-not-ready', nowMs, `router ${id} named ${address}, which it holds for ${endpoint.state}`);
      }
    }
    if (addresses.length === 0 || new Set(addresses).size !== addresses.length || !decision.addresses.includes(addresses[0] ?? '')) {
      this.#violations.add('endpoint-unknown', nowMs, `router ${id} gave the list ${addresses.join(', ') || '(empty)'}`);
    }
    const endpoints = known?.endpoints ?? [];
    for (const endpoint of endpoints) this.#checkStarved(id, endpoint, addresses[0] ?? '', passedByMax * endpoints.length, nowMs);
  }

  /** A request reached an endpoint, as the first of its list or after another did not take it. */
  reached(endpoint: FleetEndpoint, nowMs: number): void {
    this.#busy(endpoint.address, nowMs);
    const { requestsMax } = endpoint;
    const inFlight = this.#endpoints.get(endpoint.address)?.inFlight.size ?? 0;
    if (requestsMax !== undefined && inFlight > requestsMax && this.#limitsHold(endpoint.address)) {
      this.#violations.add('bound-exceeded', nowMs, `${inFlight} requests on ${endpoint.address}, which allows ${requestsMax}`);
    }
  }

  #checkStarved(router: string, { address, state, weight }: FleetEndpoint, chosen: string, choicesMax: number, nowMs: number): void {
    const simulated = this.#endpoints.get(address);
    if (simulated === undefined || !takesItsShare.has(state) || weight <= 0) return;
    if (address === chosen || simulated.healthySinceMs === undefined || simulated.inFlight.size > 0) {
      this.#busy(address, nowMs);
      return;
    }
    const passedBy = (this.#passedBy.get(address) ?? 0) + 1;
    this.#passedBy.set(address, passedBy);
    const idleMs = nowMs - (this.#busyMs.get(address) ?? nowMs);
    const busy = this.#endpoints.get(chosen);
    const waiting = busy?.waiting ?? 0;
    if (idleMs >= idleMsMax && passedBy >= choicesMax && waiting >= Math.min(waitingMax, busy?.model.profile.sequencesMax ?? waitingMax)) {
      const seconds = (idleMs / 1_000).toFixed(0);
      this.#violations.add('endpoint-starved', nowMs, `router ${router} sent to ${chosen}, where ${waiting} wait, while ${address} has been idle for ${seconds} s`);
      this.#busy(address, nowMs);
    }
  }

  #busy(address: string, nowMs: number): void {
    this.#busyMs.set(address, nowMs);
    this.#passedBy.delete(address);
  }
}
