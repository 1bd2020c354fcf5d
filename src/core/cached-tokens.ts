import { type CandidateColumns, placesOf } from './endpoint-columns.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';
import type { PoolSnapshot } from './pool-snapshot.ts';

/** Tokens of one prompt that endpoints' caches are believed to hold. A `Map` from address to tokens is one, too. */
export interface CachedTokens {
  /** Undefined: nothing of it. */
  get(address: string): number | undefined;
  /** The same in a column, 0 for nothing, and the pool's endpoints in whose order it is. Absent: ask `get`. */
  readonly column?: { readonly endpoints: readonly EndpointSnapshot[]; readonly tokens: Float64Array };
}

/** The same as `cachedOf`, at the rows of the candidates' columns instead: it may be the column that was given, so nobody may write to it. */
export function cachedAtRows({ columns: { endpoints } }: CandidateColumns, cachedTokens: CachedTokens): Float64Array {
  const { column } = cachedTokens;
  return column?.endpoints === endpoints ? column.tokens : Float64Array.from(endpoints, ({ address }) => cachedTokens.get(address) ?? 0);
}

/** What each candidate is believed to hold, in their order, in an array of the caller's own. Candidates are in the order of the pool's endpoints. */
export function cachedOf(
  candidates: readonly EndpointSnapshot[],
  { pool, cachedTokens }: { readonly pool: PoolSnapshot; readonly cachedTokens: CachedTokens },
): Float64Array {
  const { column } = cachedTokens;
  const at = column?.endpoints === pool.endpoints ? (pool.columns?.of(candidates)?.at ?? placesOf(candidates, pool.endpoints)) : undefined;
  if (column === undefined || at === undefined) return Float64Array.from(candidates, ({ address }) => cachedTokens.get(address) ?? 0);
  const cached = new Float64Array(at.length);
  for (let i = 0; i < at.length; i += 1) cached[i] = column.tokens[at[i] ?? 0] ?? 0;
  return cached;
}
