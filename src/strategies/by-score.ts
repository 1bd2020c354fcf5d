/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per candidate would cost time */
import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import { bestMax } from '../core/policy.ts';

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

/** `byScore` of so few that what it allocates would cost more than what it does: each is put in its place among those before it. */
function byScoreOfFew(candidates: readonly EndpointSnapshot[], scores: readonly number[], draw: number): EndpointSnapshot[] {
  const best = candidates.slice();
  for (let i = 0; i < best.length; i += 1) {
    const score = scores[i] ?? 0;
    const endpoint = candidates[i];
    let higher = 0;
    let tied = 0;
    let tiedBefore = 0;
    for (let j = 0; j < best.length; j += 1) {
      const other = scores[j] ?? 0;
      if (other > score) higher += 1;
      else if (other === score) {
        tied += 1;
        if (j < i) tiedBefore += 1;
      }
    }
    const turn = tiedBefore - Math.floor(draw * tied);
    if (endpoint !== undefined) best[higher + (turn < 0 ? turn + tied : turn)] = endpoint;
  }
  return best;
}

/** Candidates of one score among the best. */
interface Tie {
  readonly score: number;
  /** The first of them among the candidates. */
  readonly first: number;
  /** How many have this score. */
  size: number;
  /** Where the first of them comes in the order. */
  at: number;
  /** Those of them met so far. */
  met: number;
}

/**
 * The first of `byScore`, `bestMax` of them or all, without ordering all: one look over the scores finds the highest ones and how many
 * have each; a second one, where several have the same, those whose turn the draw makes it.
 */
export function bestByScore(candidates: readonly EndpointSnapshot[], scores: readonly number[], draw: number): EndpointSnapshot[] {
  const { length } = candidates;
  if (length <= bestMax) return byScoreOfFew(candidates, scores, draw);
  // Missing scores are filled in first: looking at each whether it is there makes an object of it.
  const all = scores.length < length ? candidates.map((_, i) => scores[i] ?? 0) : scores;
  const ties = highestOf(all, length);
  let taken = 0;
  let wanted = 0;
  for (const tie of ties) {
    if (taken >= bestMax) break;
    tie.at = taken;
    taken += tie.size;
    wanted += 1;
  }
  const best = candidates.slice(0, bestMax);
  if (taken === wanted) {
    for (let i = 0; i < wanted; i += 1) best[i] = candidates[ties[i]!.first]!;
    return best;
  }
  const lowest = ties[wanted - 1]!.score;
  for (let i = 0; i < length; i += 1) {
    const score = all[i]!;
    if (score < lowest) continue;
    let rank = 0;
    while (ties[rank]!.score > score) rank += 1;
    const tie = ties[rank]!;
    const turn = tie.met - Math.floor(draw * tie.size);
    const place = tie.at + (turn < 0 ? turn + tie.size : turn);
    tie.met += 1;
    if (place < bestMax) best[place] = candidates[i]!;
  }
  return best;
}

/** The highest of the first `length` scores, `bestMax` of them or all, falling, and how many candidates have each. */
function highestOf(scores: readonly number[], length: number): Tie[] {
  const ties: Tie[] = [];
  let lowest = -Infinity;
  for (let i = 0; i < length; i += 1) {
    const score = scores[i]!;
    if (score < lowest) continue;
    let rank = ties.length;
    while (rank > 0 && ties[rank - 1]!.score < score) rank -= 1;
    const above = ties[rank - 1];
    if (above?.score === score) {
      above.size += 1;
      continue;
    }
    const tie = { score, first: i, size: 1, at: 0, met: 0 };
    // By hand: `splice` makes an array each time.
    if (ties.length < bestMax) ties.push(tie);
    for (let at = ties.length - 1; at > rank; at -= 1) ties[at] = ties[at - 1]!;
    ties[rank] = tie;
    if (ties.length === bestMax) lowest = ties[bestMax - 1]!.score;
  }
  return ties;
}
