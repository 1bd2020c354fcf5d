import type { CompiledConfig } from '../../src/config/load-outcome.ts';
import type { EndpointState } from '../../src/core/fleet-snapshot.ts';
import type { BreakerSettings } from '../../src/fleet/breaker.ts';
import type { FleetEndpoint } from '../../src/fleet/endpoint.ts';
import type { ChangeCause, EndpointChange } from '../../src/fleet/endpoint-change.ts';
import { breakerDefaults, isServing } from '../../src/fleet/endpoint-health.ts';
import type { FleetPool } from '../../src/fleet/fleet-view.ts';
import type { Routed } from '../../src/router/routed.ts';
import type { SimulatedEndpoint } from '../simulated-endpoint.ts';
import type { SimulatedRouter } from '../simulated-router.ts';
import type { Violations } from './violation.ts';

/** What the configuration says of leaving endpoints out. */
export interface HealthLimits {
  readonly breaker: BreakerSettings;
  readonly ejectedShareMax: number;
}

/**
 * After the longest back-off, an endpoint that has been well all the time may be left out for so long yet, in ms: probes have to see it,
 * routers to hear of it.
 */
const patienceMs = 10_000;
/** When others drop out for their own reasons, a router may need so long to see that it leaves out too many of the rest, in ms: two looks. */
const secondThoughtMs = 200;
/** Two clocks' readings of one time may differ by rounding, in ms. */
const roundingMs = 1;

/** Changes by which a router leaves an endpoint out of its own accord. */
const openings: ReadonlySet<ChangeCause> = new Set(['failures', 'slower-than-peers', 'stalled', 'trial-failed']);
const leftOutStates: ReadonlySet<EndpointState> = new Set(['ejected', 'slow', 'half-open']);

/** One router's dealings with one endpoint. */
interface Dealings {
  /** Its last own opening: when, and until when; undefined: there was none, or somebody closed it since by a word of his own. */
  opened: { readonly atMs: number; readonly untilMs: number } | undefined;
  /** Since when it is in the state that it is in. */
  stateSinceMs: number;
  /** When it was last taken in again. */
  closedMs: number;
  /** When trials last began. */
  halfOpenMs: number;
  /** Trial requests under way. */
  readonly trials: Set<string>;
  /** The last word on its breaker, whoever spoke it. */
  word: string;
}

/** Holds every router's judgement of its endpoints to account: back-offs, trials, how many are left out, and that who is well comes back. */
export class HealthChecker {
  readonly #violations: Violations;
  readonly #endpoints: ReadonlyMap<string, SimulatedEndpoint>;
  readonly #limits: HealthLimits;
  readonly #dealings = new Map<string, Dealings>();
  /** Since when a router leaves out too many of a pool. */
  readonly #tooManySinceMs = new Map<string, number>();

  constructor(violations: Violations, endpoints: ReadonlyMap<string, SimulatedEndpoint>, limits: HealthLimits) {
    this.#violations = violations;
    this.#endpoints = endpoints;
    this.#limits = limits;
  }

  /** A router changed an endpoint's state. */
  changed({ id: router, fleet }: Pick<SimulatedRouter, 'id' | 'fleet'>, { pool, address, from, to, cause, by, atMs, untilMs }: EndpointChange): void {
    const dealings = this.#of(router, address);
    dealings.stateSinceMs = atMs;
    // Another router's later word on the same breaker takes the place of this one's, back-off and all.
    if (fleet.pool(pool)?.endpoint(address)?.health.stamps.breaker.by !== router) dealings.opened = undefined;
    if (to !== 'half-open') dealings.trials.clear();
    else dealings.halfOpenMs = atMs;
    if (cause === 'trials-passed' && by === undefined) this.#checkTrust(router, address, dealings, atMs);
    if (from === to) this.#violations.add('endpoint-flapping', atMs, `router ${router} tells of a change of ${address} from ${from ?? '?'} to the same`);
    if (to === 'ejected' || (to === 'slow' && openings.has(cause))) {
      if (by === undefined && openings.has(cause)) this.#opened(router, address, dealings, atMs, untilMs);
      else dealings.opened = undefined;
      return;
    }
    if (from === 'ejected' || from === 'slow' || from === 'half-open') {
      const { opened } = dealings;
      if (cause === 'back-off-over' && opened !== undefined && atMs < opened.untilMs - roundingMs) {
        const early = (opened.untilMs - atMs).toFixed(0);
        this.#violations.add('endpoint-flapping', atMs, `router ${router} tries ${address} ${early} ms before its back-off is over`);
      }
      // Whoever else lets it in ends the back-off with good reason.
      if (cause !== 'back-off-over' && cause !== 'trials-passed') dealings.opened = undefined;
      if (to === 'ready' || to === 'warming') dealings.closedMs = atMs;
    }
  }

  #checkTrust(router: string, address: string, { halfOpenMs }: Dealings, atMs: number): void {
    const { uselessSinceMs } = this.#endpoints.get(address) ?? {};
    if (uselessSinceMs === undefined || uselessSinceMs >= halfOpenMs) return;
    const seconds = ((atMs - uselessSinceMs) / 1_000).toFixed(1);
    this.#violations.add('endpoint-trusted', atMs, `router ${router} trusts ${address} after trials, which has completed no request for ${seconds} s`);
  }

  #opened(router: string, address: string, dealings: Dealings, atMs: number, untilMs: number | undefined): void {
    const { backOffMs, backOffMsMax } = this.#limits.breaker;
    const { opened: last, closedMs } = dealings;
    const backOff = (untilMs ?? atMs) - atMs;
    if (backOff < backOffMs - roundingMs || backOff > backOffMsMax + roundingMs) {
      this.#violations.add('endpoint-flapping', atMs, `router ${router} leaves ${address} out for ${backOff.toFixed(0)} ms`);
    }
    if (last !== undefined) {
      const lastBackOff = last.untilMs - last.atMs;
      if (atMs < last.untilMs - roundingMs) {
        this.#violations.add('endpoint-flapping', atMs, `router ${router} leaves ${address} out ${(atMs - last.atMs).toFixed(0)} ms after it did so for ${lastBackOff.toFixed(0)} ms`);
      }
      // Only calm for the longest back-off forgives; then it may wait as short as the time before.
      const calm = closedMs > last.atMs && atMs - closedMs >= backOffMsMax - roundingMs;
      const least = calm ? backOffMs : Math.min(backOffMsMax, 2 * lastBackOff);
      if (backOff < least - roundingMs) {
        this.#violations.add('endpoint-flapping', atMs, `router ${router} leaves ${address} out for ${backOff.toFixed(0)} ms, and the time before for ${lastBackOff.toFixed(0)} ms`);
      }
    }
    dealings.opened = { atMs, untilMs: untilMs ?? atMs };
  }

  /** A router chose. */
  chose({ id, fleet }: SimulatedRouter, { pool: { name }, addresses, lease, needsPlace }: Routed, nowMs: number): void {
    const pool = fleet.pool(name);
    if (pool === undefined) return;
    for (const endpoint of pool.endpoints) this.#noteWord(id, endpoint, nowMs);
    const chosen = pool.endpoint(addresses[0] ?? '');
    // What has to take a place first is no trial before it has one.
    if (chosen?.state === 'half-open' && !needsPlace) {
      const { trials } = this.#of(id, chosen.address);
      trials.add(lease);
      // More than trials it takes where nobody else can take anything.
      const othersCan = pool.endpoints.some(({ state, full }) => isServing(state) && !full);
      if (trials.size > this.#limits.breaker.trials && othersCan) {
        this.#violations.add('too-many-trials', nowMs, `router ${id} has ${trials.size} trial requests on ${chosen.address}`);
      }
    }
    this.#checkLeftOut(id, pool, nowMs);
    for (const endpoint of pool.endpoints) this.#checkForgotten(id, endpoint, nowMs);
  }

  /** A request that a router chose for has given its first token or is over, and the router knows: that is all a trial is for. */
  tried({ id }: SimulatedRouter, { addresses, lease }: Routed): void {
    this.#of(id, addresses[0] ?? '').trials.delete(lease);
  }

  /** Another router's later word begins back-off and trials anew, with or without a change of the state. */
  #noteWord(router: string, { address, health }: FleetEndpoint, nowMs: number): void {
    const dealings = this.#of(router, address);
    const { version, by } = health.stamps.breaker;
    const word = `${version} ${by}`;
    if (word === dealings.word) return;
    dealings.word = word;
    dealings.stateSinceMs = nowMs;
    dealings.trials.clear();
  }

  #checkLeftOut(router: string, pool: FleetPool, nowMs: number): void {
    const present = pool.endpoints.filter(({ health }) => health.countsAsPresent);
    const leftOut = present.filter(({ state }) => leftOutStates.has(state));
    const leftOutMax = Math.max(present.length > 1 ? 1 : 0, Math.floor(this.#limits.ejectedShareMax * present.length));
    const key = `${router} ${pool.name}`;
    if (leftOut.length <= leftOutMax) {
      this.#tooManySinceMs.delete(key);
      return;
    }
    const sinceMs = this.#tooManySinceMs.get(key);
    if (sinceMs === undefined) this.#tooManySinceMs.set(key, nowMs);
    else if (nowMs - sinceMs > secondThoughtMs) {
      this.#violations.add('too-many-ejected', nowMs, `router ${router} leaves out ${leftOut.length} of ${present.length}: ${leftOut.map(({ address, state }) => `${address} ${state}`).join(', ')}`);
    }
  }

  /** Who is well gets requests again, or could have them if there were enough for a trial. */
  #checkForgotten(router: string, { address, state, trialsFree, own }: FleetEndpoint, nowMs: number): void {
    const simulated = this.#endpoints.get(address);
    if (simulated?.healthySinceMs === undefined || simulated.model.slowFactor > 1) return;
    const isWaiting = state === 'ejected' || state === 'not-ready' || state === 'joining' || state === 'slow';
    // A trial that is counted and on its way nowhere would keep it out for good.
    const isStuck = state === 'half-open' && trialsFree === 0 && own.requests === 0;
    const longMs = this.#limits.breaker.backOffMsMax + patienceMs;
    // Load alone may have it left out anew, each time for a while: only one that is never looked at again is forgotten.
    const heldMs = nowMs - Math.max(simulated.healthySinceMs, this.#of(router, address).stateSinceMs);
    if ((isWaiting || isStuck) && heldMs > longMs) {
      this.#violations.add('endpoint-forgotten', nowMs, `router ${router} has held ${address} for ${state} for ${(heldMs / 1_000).toFixed(0)} s, and it has been well all the time`);
    }
  }

  #of(router: string, address: string): Dealings {
    const key = `${router} ${address}`;
    let dealings = this.#dealings.get(key);
    if (dealings === undefined) {
      dealings = { opened: undefined, stateSinceMs: -Infinity, closedMs: -Infinity, halfOpenMs: -Infinity, trials: new Set(), word: '0 ' };
      this.#dealings.set(key, dealings);
    }
    return dealings;
  }
}

/** The limits that a configuration sets; those of its first pool, since simulated pools are judged alike. */
export function healthLimitsOf({ health }: CompiledConfig): HealthLimits {
  const [settings] = health.values();
  return { breaker: settings?.passive ?? breakerDefaults, ejectedShareMax: settings?.ejectedShareMax ?? 0 };
}
