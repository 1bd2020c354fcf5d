import type { EndpointChange } from '../fleet/endpoint-change.ts';

/** A change of an endpoint's state: one element of what `/api/v1/changes` answers. */
export interface ChangeReport {
  /** Wall-clock time, ISO 8601. */
  readonly time: string;
  readonly ageMs: number;
  /** The router's own clock: the same each time that the change is told of. */
  readonly atMs: number;
  readonly pool: string;
  readonly address: string;
  /** Null: it was not known before. */
  readonly from: string | null;
  /** Null: it is gone. */
  readonly to: string | null;
  readonly cause: string;
  readonly detail: string | null;
  /** Router that found it out; null: the one that answers. */
  readonly by: string | null;
}

/** Changes told at most. */
export const changesMax = 50;

/** The last changes, newest first. `nowMs`: the clock that they were stamped with; `wallMs`: since the Unix epoch. */
export function toChangeReports(changes: readonly EndpointChange[], nowMs: number, wallMs: number): ChangeReport[] {
  return changes
    .slice(-changesMax)
    .reverse()
    .map(({ pool, address, from, to, cause, detail, by, atMs }) => ({
      time: new Date(wallMs - (nowMs - atMs)).toISOString(),
      ageMs: Math.max(0, Math.round(nowMs - atMs)),
      atMs,
      pool,
      address,
      from: from ?? null,
      to: to ?? null,
      cause,
      detail: detail ?? null,
      by: by ?? null,
    }));
}
