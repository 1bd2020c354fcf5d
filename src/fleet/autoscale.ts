import type { PoolLoad } from './pool-load.ts';

/** How many servers a pool should have. */
export interface AutoscaleSettings {
  readonly replicasMin: number;
  /** Undefined: no bound. */
  readonly replicasMax?: number | undefined;
  /** Part of what a server can prefill, or may have in flight, that is planned for. */
  readonly utilization: number;
  /** Requests in flight that a server is planned to have; undefined: as its limit says, where there is one. */
  readonly requestsPerReplica?: number | undefined;
  /** Wait of a prompt above which more servers are wanted, whatever else the figures say, in ms. */
  readonly waitMs: number;
  /** Time in which what waits should be worked off, in ms. */
  readonly drainMs: number;
  /** How long the highest advice stands before a lower one does, in ms. */
  readonly stabilizationMs: number;
}

/** What an advice rests on. */
export type AdviceReason =
  /** Prompt tokens to be computed. */
  | 'prefill'
  /** Requests in flight. */
  | 'requests'
  /** Prompts wait longer than they should. */
  | 'wait'
  /** Fewer would do, but prompts wait. */
  | 'queue'
  /** Fewer would do, but not for long enough yet. */
  | 'stabilization'
  /** No server serves, so nothing can be measured: the last advice stands. */
  | 'nobody-serves'
  | 'minimum'
  | 'maximum';

/** Servers that a pool should have. */
export interface ScalingAdvice {
  readonly desiredReplicas: number;
  readonly reason: AdviceReason;
}

/** A pool is at most doubled by how long its prompts wait: a wait says that there are too few, not how many. */
const growthMax = 2;
/** Part of `waitMs` from which prompts count as waiting: an engine always has one at work. */
const waitsFrom = 0.1;

/**
 * Says how many servers a pool should have:
 *
 *     prefill  = (P + B / drain) / (C · w · utilization)      P uncached prompt tokens/s, B tokens waiting, C capacity for weight 1,
 *     requests = N / requestsPerReplica                       w weight of a server, N requests in flight
 *     wait     = servers · min(2, W / waitMs)  if W > waitMs  W wait of a prompt
 *
 * The largest, rounded up; not below what serves while prompts wait; and the highest of the last `stabilizationMs`. Each term is the rule
 * of Kubernetes' HorizontalPodAutoscaler, desired = ⌈current · metric / target⌉, with its stabilization window for scaling down. Time is
 * an argument.
 */
export class Autoscaler {
  readonly #settings: AutoscaleSettings;
  /** Advices of the window that no later one has reached: falling. */
  #window: { readonly atMs: number; readonly advice: ScalingAdvice }[] = [];
  #last: number | undefined;

  constructor(settings: AutoscaleSettings) {
    this.#settings = settings;
  }

  /** `known`: servers that the pool has, those in reserve and draining left out. `limitPerServer`: requests that one may have in flight. */
  advise(load: PoolLoad, { known, limitPerServer }: { readonly known: number; readonly limitPerServer: number | undefined }, nowMs: number): ScalingAdvice {
    const now = load.servers === 0 ? { desiredReplicas: this.#last ?? known, reason: 'nobody-serves' as const } : this.#measure(load, limitPerServer);
    const stable = this.#stabilize(this.#bound(now), nowMs);
    this.#last = stable.desiredReplicas;
    return stable;
  }

  #measure(load: PoolLoad, limitPerServer: number | undefined): ScalingAdvice {
    const { utilization, requestsPerReplica, waitMs, drainMs } = this.#settings;
    const { servers, weight, requests } = load;
    const prefillPerServer = ((load.capacityTokensPerS * weight) / servers) * utilization;
    const perServer = requestsPerReplica ?? (limitPerServer === undefined ? undefined : limitPerServer * utilization);
    const terms: readonly (readonly [AdviceReason, number])[] = [
      ['prefill', (load.prefillTokensPerS + (load.waitingTokens * 1_000) / drainMs) / prefillPerServer],
      ['requests', perServer === undefined ? 0 : requests / perServer],
      ['wait', load.waitMs > waitMs ? servers * Math.min(growthMax, load.waitMs / waitMs) : 0],
      ['queue', load.waitMs > waitsFrom * waitMs ? servers : 0],
    ];
    const [reason, wanted] = terms.reduce((highest, term) => (term[1] > highest[1] ? term : highest));
    // Rounding of sums must not ask for a server.
    return { desiredReplicas: Math.ceil(wanted - 1e-9), reason };
  }

  #bound(advice: ScalingAdvice): ScalingAdvice {
    const { replicasMin, replicasMax = Infinity } = this.#settings;
    if (advice.desiredReplicas < replicasMin) return { desiredReplicas: replicasMin, reason: 'minimum' };
    if (advice.desiredReplicas > replicasMax) return { desiredReplicas: replicasMax, reason: 'maximum' };
    return advice;
  }

  #stabilize(advice: ScalingAdvice, nowMs: number): ScalingAdvice {
    const sinceMs = nowMs - this.#settings.stabilizationMs;
    this.#window = this.#window.filter(({ atMs, advice: { desiredReplicas } }) => atMs > sinceMs && desiredReplicas > advice.desiredReplicas);
    this.#window.push({ atMs: nowMs, advice });
    const highest = this.#window[0]?.advice ?? advice;
    return highest.desiredReplicas > advice.desiredReplicas ? { desiredReplicas: highest.desiredReplicas, reason: 'stabilization' } : advice;
  }
}
