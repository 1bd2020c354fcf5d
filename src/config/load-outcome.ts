import type { PoolDefinition } from '../fleet/fleet-view.ts';
import type { PoolHealthSettings } from '../router/health-watch.ts';
import type { ScalingSettings } from '../router/scaling-watch.ts';
import type { RoutingTable } from '../router/routing-table.ts';
import type { FileContents } from './files.ts';
import type { Problem } from './problem.ts';
import type { Config } from './schema.ts';

/** A configuration ready for use: the settings as written, and what was built from them. */
export interface CompiledConfig {
  readonly settings: Config;
  /** Key of the affinity hash; random in memory mode when the configuration names none. */
  readonly affinitySecret: string;
  readonly pools: readonly PoolDefinition[];
  readonly table: RoutingTable;
  /** How the endpoints of each pool are judged, by the pool's name. */
  readonly health: ReadonlyMap<string, PoolHealthSettings>;
  /** How each pool scales. */
  readonly scaling: readonly ScalingSettings[];
  /** What stood in the files that the configuration names. */
  readonly files: FileContents;
}

/** The outcome of reading a configuration: usable, or everything that is wrong with it. */
export type LoadOutcome =
  | { readonly ok: true; readonly config: CompiledConfig; readonly warnings: readonly Problem[] }
  | {
      readonly ok: false;
      readonly problems: readonly Problem[];
      /** Files that it names and whose contents were asked for, absolute: what is wrong may be put right there. Absent: nobody got so far. */
      readonly read?: readonly string[];
    };
