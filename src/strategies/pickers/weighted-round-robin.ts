import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { bestByScore } from '../by-score.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/**
 * Takes the candidates in turn, each as often as its weight says, evenly interleaved.
 *
 * The schedule is a set of turns on an axis of virtual time: an endpoint of weight w has its turns at (φ + j) / w, j = 0, 1, 2 …, so w of
 * them in every unit of time; request number k takes the turn that comes k-th. Nothing is remembered: how many turns come before a time
 * can be counted directly, so the k-th is found near the time k / Σw. The phases φ are spread by the golden ratio, so that endpoints of
 * equal weight come apart instead of one after another.
 */
export const weightedRoundRobin = definePicker({
  type: 'weighted-round-robin',
  prefers:
    'Takes the endpoints in turn, each as often as its weight says, evenly interleaved: with weights 5, 1, 1 no run of one, then the others. With whole weights, any run of Σ weight requests has exactly the shares.',
  wrongWhen: 'As for round-robin: prompts of unequal length and caches are ignored. Choose it where shares have to be exact and predictable.',
  formula: 'request k takes the k-th of all turns (φ + j) / weight in order of time, φ = frac(½ + i × 0.618…) for candidate i',
  source: 'Stride scheduling (Waldspurger & Weihl, MIT 1995) in closed form; phases after the Kronecker sequence of the golden ratio.',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, _scores, { sequence }) => {
    const next = turnsFrom(candidates, sequence);
    const soonness = Array.from(next, (time) => -time);
    const toOrder = (): EndpointSnapshot[] => {
      const order = candidates.map((_, i) => i).sort((a, b) => (next[a] ?? 0) - (next[b] ?? 0) || a - b);
      return order.flatMap((i) => candidates[i] ?? []);
    };
    return new LazyPreference(bestByScore(candidates, soonness, 0), toOrder, { reason: 'in-turn', home: undefined });
  },
});

const goldenFraction = (Math.sqrt(5) - 1) / 2;

/** When each candidate has its next turn, from turn number `k` (from 0) on. */
function turnsFrom(candidates: readonly EndpointSnapshot[], k: number): Float64Array {
  const count = candidates.length;
  const phases = new Float64Array(count);
  const weights = new Float64Array(count);
  let phaseSum = 0;
  let weightSum = 0;
  candidates.forEach(({ weight }, i) => {
    const phase = (0.5 + i * goldenFraction) % 1;
    phases[i] = phase;
    weights[i] = weight;
    phaseSum += phase;
    weightSum += weight;
  });
  const turnsBefore = (i: number, time: number): number => Math.floor((weights[i] ?? 1) * time + 1 - (phases[i] ?? 0));
  const timeOf = (i: number, turn: number): number => ((phases[i] ?? 0) + turn) / (weights[i] ?? 1);

  // At time t, between Σw·t − Σφ and Σw·t − Σφ + n turns are over, which says where the one that is looked for stands at most. The 1 is for
  // rounding. Halving the span a few times leaves few turns to sort.
  let from = Math.max(0, (k + phaseSum - count - 1) / weightSum);
  let to = (k + phaseSum + 2) / weightSum;
  for (let halving = 0; halving < 6; halving += 1) {
    const middle = (from + to) / 2;
    let before = 0;
    for (let i = 0; i < count; i += 1) before += turnsBefore(i, middle);
    if (before <= k) from = middle;
    else to = middle;
  }

  const taken = candidates.map((_, i) => turnsBefore(i, from));
  let left = k;
  const near: { readonly index: number; readonly time: number }[] = [];
  taken.forEach((first, index) => {
    left -= first;
    const end = turnsBefore(index, to);
    for (let turn = first; turn < end; turn += 1) near.push({ index, time: timeOf(index, turn) });
  });
  near.sort((a, b) => a.time - b.time || a.index - b.index);
  for (const { index } of near.slice(0, left)) taken[index] = (taken[index] ?? 0) + 1;

  return Float64Array.from(taken, (turn, i) => timeOf(i, turn));
}
