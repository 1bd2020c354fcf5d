import type { ReloadCause, ReloadOutcome } from '../router/reload-events.ts';

/** Something wrong, and where; the path is empty for the whole. */
interface ProblemReport {
  readonly path: string;
  readonly message: string;
}

/** Which configuration is in force, and where endpoints come from: the body of `/api/v1/config`. Times in ISO 8601. */
export interface ConfigReport {
  readonly file: string;
  /** Tells versions apart: equal in routers that run the same. */
  readonly version: string;
  readonly loadedAt: string;
  /** What is doubtful about it. */
  readonly warnings: readonly ProblemReport[];
  /** Null: it was never read again. Refused: what is in force is the one before. */
  readonly lastReload: {
    readonly at: string;
    readonly cause: ReloadCause;
    readonly outcome: ReloadOutcome;
    /** Null: it could not be read. */
    readonly version: string | null;
    readonly problems: readonly ProblemReport[];
  } | null;
  readonly discoveries: readonly {
    readonly pool: string;
    readonly source: string;
    readonly from: string;
    /** Null: it was never followed. */
    readonly endpoints: number | null;
    readonly followedAt: string | null;
    /** Why it cannot be followed now: what it named last holds. */
    readonly problems: readonly ProblemReport[];
  }[];
}
