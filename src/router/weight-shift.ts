/** When the requests of one pool of a route move over to another: evenly from `startMs` on. */
export interface ShiftSchedule {
  /** Milliseconds since the Unix epoch. */
  readonly startMs: number;
  /** Until everything has moved; 0: all at once. */
  readonly durationMs: number;
}

/**
 * The part that has moved by the wall clock, from 0 to 1; it never falls while that clock goes forward. A function of the time alone, so
 * routers whose clocks agree move the same sessions.
 */
export function shiftedShare({ startMs, durationMs }: ShiftSchedule, wallMs: number): number {
  if (wallMs < startMs) return 0;
  return durationMs <= 0 ? 1 : Math.min(1, (wallMs - startMs) / durationMs);
}
