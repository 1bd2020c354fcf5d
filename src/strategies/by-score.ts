import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';

/** Candidates by falling score. Equals follow one another in a circle that starts where the draw (in [0, 1)) says. */
export function byScore(candidates: readonly EndpointSnapshot[], scores: readonly number[], draw: number): EndpointSnapshot[] {
  const n = candidates.length;
  const start = Math.floor(draw * n);
  const turned = Array.from({ length: n }, (_, i) => (start + i) % n);
  turned.sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0));
  return turned.flatMap((i) => candidates[i] ?? []);
}
