import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { bestMax } from '../../core/policy.ts';
import { LazyPreference } from '../lazy-preference.ts';
import { definePicker } from '../strategy.ts';

/** Takes the candidates in turn, by this router's count of requests to the pool. */
export const roundRobin = definePicker({
  type: 'round-robin',
  prefers: 'Takes the endpoints in turn, whatever they carry: each router by its own count of requests to the pool.',
  wrongWhen:
    'Prompts differ in length, GPUs in speed, or caches matter: a 30 K-token prompt counts as one turn, and every turn of a session lands on another cache. Good as a baseline.',
  formula: 'candidate number (requests sent before) mod (candidates), candidates in order of address',
  source: 'The scheduling discipline of that name (Nagle, RFC 970).',
  parameters: z.strictObject({}),
  needs: [],
  create: () => (candidates, _scores, { sequence }) => {
    const start = sequence % candidates.length;
    const turns = (count: number): EndpointSnapshot[] => [...candidates.slice(start, start + count), ...candidates.slice(0, Math.max(0, start + count - candidates.length))];
    const best = turns(Math.min(bestMax, candidates.length));
    return new LazyPreference(best, () => turns(candidates.length), { reason: 'in-turn', home: undefined });
  },
});
