/**
 * All names that Fairlead uses in Redis. Keys of a pool share the hash tag `{pool}`, so that in a cluster they are in one slot and
 * one script may touch them together.
 */
export interface Keys {
  /** Sorted set of the routers of a pool by the Redis time (ms) at which each last wrote. */
  routers(pool: string): string;
  /** A router's latest snapshot of a pool. */
  snapshot(pool: string, router: string): string;
  /** Stream of the pool's exceptions: sessions (keyed hashes) that live elsewhere than at home. */
  placements(pool: string): string;
  /** Sorted set of the leases held on a capped endpoint, by the Redis time (ms) at which each ends. */
  cap(pool: string, address: string): string;
  /** What a router tries its permissions on when it starts. */
  check(pool: string, router: string): string;
  /** Channel of a pool's messages. */
  events(pool: string): string;
  /** Channel of completion reports for one router. */
  reports(router: string): string;
}

/** The names under a prefix. */
export function createKeys(prefix: string): Keys {
  return {
    routers: (pool) => `${prefix}:{${pool}}:routers`,
    snapshot: (pool, router) => `${prefix}:{${pool}}:snapshot:${router}`,
    placements: (pool) => `${prefix}:{${pool}}:placements`,
    cap: (pool, address) => `${prefix}:{${pool}}:cap:${address}`,
    check: (pool, router) => `${prefix}:{${pool}}:check:${router}`,
    events: (pool) => `${prefix}:{${pool}}:events`,
    reports: (router) => `${prefix}:reports:${router}`,
  };
}
