import type { SeededRng } from '../clock/seeded-rng.ts';

/** A time during which something is away. */
export interface Outage {
  readonly fromMs: number;
  readonly toMs: number;
}

/** How what routers tell one another travels. */
export interface NetworkModel {
  /** Time that a router gathers events before it sends them, in ms. */
  readonly gatherMs: number;
  /** Way of one message, in ms. */
  readonly delayMs: (rng: SeededRng) => number;
  /** Share of messages that do not arrive. */
  readonly lossShare: number;
  /** Whether messages of one router may overtake one another; Redis keeps their order. */
  readonly reorders: boolean;
  /** When Redis is away. */
  readonly outages: readonly Outage[];
}

/**
 * Redis as it was measured: 8 routers, 200 requests/s on a busy machine (docs/shared-state.md, "What it costs"): half of the pushes took
 * effect on the others within 2.4 ms, 1 ms of gathering included, and one in a hundred took tens of milliseconds.
 */
export const measuredRedis: NetworkModel = {
  gatherMs: 1,
  delayMs: (rng) => 0.5 + rng.exponential(1.3) + (rng.chance(0.01) ? rng.between(10, 80) : 0),
  lossShare: 0,
  reorders: false,
  outages: [],
};

/** Whether it is away now. */
export function isAway(outages: readonly Outage[], nowMs: number): boolean {
  return outages.some(({ fromMs, toMs }) => nowMs >= fromMs && nowMs < toMs);
}
