import type { EndpointState } from '../core/fleet-snapshot.ts';
import { Breaker, type BreakerSettings } from './breaker.ts';
import type { ChangeCause } from './endpoint-change.ts';
import { LateSteps } from './late-steps.ts';
import { PaceWindow } from './pace-window.ts';

/** What can be said of an endpoint by different parties. Each has a word of its own, which the others' do not touch. */
export type HealthAspect = 'operator' | 'probe' | 'breaker' | 'reserve';
export type OperatorVerdict = 'none' | 'draining' | 'not-ready';
/** `none`: it is not probed; `unknown`: no probe has ended yet. */
export type ProbeState = 'none' | 'unknown' | 'passing' | 'loading' | 'failing';
/** `none`: it is not one of the reserve. */
export type ReserveVerdict = 'none' | 'reserve' | 'active';

/** When a word was spoken, for telling which of two routers' is the later one: by number, then by name (Lamport's order). */
export interface Stamp {
  /** 0: nobody said anything yet. */
  version: number;
  /** Router that said it. */
  by: string;
  cause: ChangeCause;
  detail: string | undefined;
  /** When it was said, or last said again, on this router's clock in ms. */
  atMs: number;
}

function unsaid(): Stamp {
  return { version: 0, by: '', cause: 'discovered', detail: undefined, atMs: -Infinity };
}

/** Breaker of an endpoint whose pool has none configured: never used, but for what other routers tell. */
export const breakerDefaults: BreakerSettings = {
  consecutiveFailures: 5,
  failureShare: 0.5,
  requestsMin: 10,
  windowMs: 10_000,
  backOffMs: 1_000,
  backOffMsMax: 30_000,
  trials: 3,
};

/**
 * What is said of one endpoint: by its discovery, an operator, probes, its breaker, and by whoever calls in the reserve. Its state follows
 * from all of it, the most binding word first.
 */
export class EndpointHealth {
  /** No longer named by configuration or discovery. */
  leaving = false;
  operator: OperatorVerdict = 'none';
  probe: ProbeState = 'none';
  reserve: ReserveVerdict = 'none';
  readonly breaker: Breaker;
  readonly pace = new PaceWindow();
  readonly lateSteps = new LateSteps();
  /** When it last gave a first token or ended a request, as far as any router told; in ms of this router's clock. */
  progressMs = -Infinity;
  readonly stamps: Readonly<Record<HealthAspect, Stamp>> = { operator: unsaid(), probe: unsaid(), breaker: unsaid(), reserve: unsaid() };
  /** Why it is in the state in which it is, and since when; undefined: it was from the start. */
  last: { readonly cause: ChangeCause; readonly detail: string | undefined; readonly atMs: number } | undefined;

  /** `trialsChanged`: told when the number of requests that its breaker would take on trial may have changed. */
  constructor(trialsChanged?: () => void) {
    this.breaker = new Breaker(breakerDefaults, trialsChanged);
  }

  /** The state that follows. `isWarming`: its slow start is under way. */
  derive(isWarming: boolean): EndpointState {
    if (this.leaving || this.operator === 'draining') return 'draining';
    if (this.operator === 'not-ready') return 'not-ready';
    if (this.reserve === 'reserve') return 'standby';
    if (this.probe === 'failing') return 'not-ready';
    if (this.probe === 'unknown' || this.probe === 'loading') return 'joining';
    switch (this.breaker.state) {
      case 'open':
        return 'ejected';
      case 'slow':
        return 'slow';
      case 'half-open':
        return 'half-open';
      case 'closed':
        return isWarming ? 'warming' : 'ready';
    }
  }

  /** Whether it is one of those that could serve if their breakers let them. */
  get countsAsPresent(): boolean {
    return !this.leaving && this.operator === 'none' && this.reserve !== 'reserve' && (this.probe === 'none' || this.probe === 'passing');
  }
}

/** Whether an endpoint in this state takes requests as a matter of course. */
export function isServing(state: EndpointState): boolean {
  return state === 'ready' || state === 'warming';
}
