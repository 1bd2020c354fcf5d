import type { EndpointStanding } from './fleet-snapshot.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';

/**
 * What hangs on the standing of a pool's endpoints alone, worked out once for each version of the pool instead of once for each decision.
 * Undefined: the pool has no versions, and nothing may be kept of it.
 */
export function perVersion<T>(compute: (endpoints: readonly EndpointStanding[]) => T): (pool: PoolSnapshot) => T | undefined {
  // Policies are shared by whoever decides by them: by several routers in a simulation, each with a fleet of its own.
  const known = new WeakMap<PoolSnapshot, { readonly version: number; readonly value: T }>();
  return (pool) => {
    const { version } = pool;
    if (version === undefined) return undefined;
    const last = known.get(pool);
    if (last?.version === version) return last.value;
    const value = compute(pool.endpoints);
    known.set(pool, { version, value });
    return value;
  };
}
