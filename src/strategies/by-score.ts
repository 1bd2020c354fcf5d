import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';

/** Candidates by falling score. Equals follow one another in a circle that starts where the draw (in [0, 1)) says. */
export function byScore(candidates: readonly EndpointSnapshot[], scores: readonly number[], draw: number): EndpointSnapshot[] {
  const scoreOf = (index: number): number => scores[index] ?? 0;
  const sorted = candidates.map((_, index) => index).sort((a, b) => scoreOf(b) - scoreOf(a));
  const ordered: EndpointSnapshot[] = [];
  for (let from = 0; from < sorted.length; ) {
    let to = from + 1;
    while (to < sorted.length && scoreOf(sorted[to] ?? 0) === scoreOf(sorted[from] ?? 0)) to += 1;
    const start = Math.floor(draw * (to - from));
    for (let i = 0; i < to - from; i += 1) {
      const endpoint = candidates[sorted[from + ((start + i) % (to - from))] ?? 0];
      if (endpoint !== undefined) ordered.push(endpoint);
    }
    from = to;
  }
  return ordered;
}
