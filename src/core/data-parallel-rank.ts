// An endpoint may serve with several data-parallel ranks: engines with a KV cache and a queue each, behind one port. The caller names the rank
// in a header. Here each rank is an endpoint of its own, with the id `ip:port#rank`: it has its own load, cache and place in the hash.
// Envoy knows only `ip:port`.

/** Request header by which vLLM and SGLang (since sglang#19832) are told the rank to run on. vLLM refuses a rank that it does not have. */
export const rankHeader = 'x-data-parallel-rank';

/** Id of one rank of an endpoint; `rank` counts from 0. */
export function toRankAddress(hostPort: string, rank: number): string {
  return `${hostPort}#${rank}`;
}

/** `ip:port` of an endpoint, whether its id names a rank or not. */
export function toHostPort(address: string): string {
  const at = address.indexOf('#');
  return at === -1 ? address : address.slice(0, at);
}

/** The rank that an endpoint's id names; undefined: the endpoint has no ranks, or chooses among them itself. */
export function toRank(address: string): number | undefined {
  const at = address.indexOf('#');
  return at === -1 ? undefined : Number(address.slice(at + 1));
}

/**
 * What Envoy may be told, of ids in order of preference: the first, and as fall-backs those that the first one's rank header fits too,
 * since a retry carries the same headers. Where the first has a rank, that is the same rank elsewhere (an endpoint without ranks is one
 * rank, 0); where it has none, any other endpoint, once. No `ip:port` comes twice, where no id does.
 */
export function toTellable(addresses: readonly string[], max: number): readonly string[] {
  const [first] = addresses;
  if (first === undefined) return [];
  // Endpoints without ranks are told apart by their ids.
  if (!addresses.some(namesRank)) return addresses.slice(0, max);
  const rank = toRank(first);
  const tellable: string[] = [];
  for (const address of addresses) {
    if (tellable.length >= max) break;
    if (rank !== undefined && (toRank(address) ?? 0) !== rank) continue;
    // Those told are few: looking through them costs less than a set of them.
    if (!isTold(tellable, toHostPort(address))) tellable.push(address);
  }
  return tellable;
}

function namesRank(address: string): boolean {
  return address.includes('#');
}

function isTold(told: readonly string[], hostPort: string): boolean {
  for (const address of told) if (toHostPort(address) === hostPort) return true;
  return false;
}
