import type { EndpointColumns } from './endpoint-columns.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';

/** One pool as a decision sees it; not changed while the decision runs. */
export interface PoolSnapshot {
  readonly name: string;
  /** Sorted by address, so that equal fleets give equal decisions whatever order they were configured in. */
  readonly endpoints: readonly EndpointSnapshot[];
  /**
   * Another number whenever endpoints came or went, or the standing of one changed: so what was worked out from standings alone holds as long
   * as this stays. Absent: nothing is kept from one decision to the next.
   */
  readonly version?: number;
  /** The load of all endpoints as it is now, in columns; absent: they are to be asked one by one. */
  readonly columns?: EndpointColumns;
}
