import type { ConfigReport } from '../admin/config-report.ts';
import type { ConfigStatus } from './config-reloader.ts';
import type { DiscoveryStatus } from './pool-discoveries.ts';

/** Writes down which configuration is in force and where endpoints come from. */
export function toConfigReport({ file, version, loadedAtMs, warnings, lastReload }: ConfigStatus, discoveries: readonly DiscoveryStatus[]): ConfigReport {
  return {
    file,
    version,
    loadedAt: toText(loadedAtMs),
    warnings,
    lastReload:
      lastReload === undefined
        ? null
        : { at: toText(lastReload.atMs), cause: lastReload.cause, outcome: lastReload.outcome, version: lastReload.version ?? null, problems: lastReload.problems },
    discoveries: discoveries.map(({ pool, source, from, endpoints, followedAtMs, problem }) => ({
      pool,
      source,
      from,
      endpoints: endpoints ?? null,
      followedAt: followedAtMs === undefined ? null : toText(followedAtMs),
      problems: problem?.causes ?? [],
    })),
  };
}

function toText(ms: number): string {
  return new Date(ms).toISOString();
}
