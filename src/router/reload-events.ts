import type { DiscoverySource } from './fleet-members.ts';
import type { DiscoveryProblem } from './ports.ts';

/** What came of reading the configuration again. */
export type ReloadOutcome = 'applied' | 'unchanged' | 'refused';

/** Who asked for it: a signal, a changed file, the admin API. */
export type ReloadCause = 'signal' | 'file' | 'api';

/** The configuration was read again. */
export interface ConfigReload {
  readonly outcome: ReloadOutcome;
  readonly cause: ReloadCause;
  readonly file: string;
  /** Tells versions apart: a hash of all settings but secrets; undefined: it could not be read. */
  readonly version: string | undefined;
  /** Why it was refused, each with its path. */
  readonly problems: readonly { readonly path: string; readonly message: string }[];
}

/** What changes while the router runs and is not its own doing, for metrics and logs. Returns at once, never throws. */
export interface ReloadEvents {
  configReloaded(reload: ConfigReload): void;
  /** A source told a pool's endpoints; so many are named. */
  discovered(pool: string, source: DiscoverySource, endpoints: number): void;
  /** It could not: what it told last holds. */
  discoveryFailed(pool: string, source: DiscoverySource, problem: DiscoveryProblem): void;
}
