import * as z from 'zod';
import { passingAll } from '../../core/filter-promises.ts';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { type Hash64, pairFraction } from '../../core/hash.ts';
import { perVersion } from '../../core/per-version.ts';
import type { Filter } from '../../core/policy.ts';
import { drawKey } from '../draw-key.ts';
import { perDecision } from '../per-decision.ts';
import { defineFilter } from '../strategy.ts';

const parameters = z.strictObject({
  durationMs: z.number().positive().default(60_000).describe('how long an endpoint takes to its full share after it became ready, in ms'),
  initialShare: z.number().min(0).max(1).default(0.1).describe('the part of its share that it has from the first moment on'),
});

/**
 * Lets an endpoint that became ready take a growing part of what would come to it: of sessions by a hash of session and endpoint, so that
 * a session that was let in stays in as the part grows, and affinity holds; of requests without a session by the draw.
 *
 * Parts are relative to the endpoint that is furthest: when a whole pool starts at once, none has to spare another.
 */
export const slowStart = defineFilter({
  type: 'slow-start',
  prefers: 'Leaves out an endpoint that has just become ready for most requests, for fewer as time goes on, until its ramp ends: caches fill and kernels warm up before it carries its share.',
  wrongWhen: 'Endpoints flap: each time one comes back, sessions whose cache is there go elsewhere for a while. Under session-affinity alone a new endpoint gets only its own sessions, never a flood.',
  formula: 'hash(session or draw, endpoint) < r / max r over ready endpoints, where r = max(initialShare, time since ready / durationMs), at most 1',
  source: 'Envoy’s slow start, whose 10 % minimum is the default here; the ramp by hash instead of by weight is what keeps sessions in place.',
  parameters,
  // Ramps by the session where it is known; not worth reading a body for.
  needs: [],
  soft: true,
  create: ({ durationMs, initialShare }) => {
    const rampOf = ({ readySinceMs }: Pick<EndpointSnapshot, 'readySinceMs'>, nowMs: number): number =>
      readySinceMs === undefined ? 1 : Math.min(1, Math.max(initialShare, (nowMs - readySinceMs) / durationMs));
    const decisionOf = perDecision(({ pool, affinityKey, draw, nowMs }) => {
      let furthest = 0;
      for (const endpoint of pool.endpoints) {
        if (endpoint.state === 'ready' || endpoint.state === 'warming') furthest = Math.max(furthest, rampOf(endpoint, nowMs));
        if (furthest === 1) break;
      }
      return { furthest, key: apart(affinityKey ?? drawKey(draw)) };
    });
    const filter: Filter = (endpoint, input) => {
      const ramp = rampOf(endpoint, input.nowMs);
      if (ramp === 1) return undefined;
      const { furthest, key } = decisionOf(input);
      return ramp >= furthest || pairFraction(key, endpoint.hash) < ramp / furthest ? undefined : 'warming-up';
    };
    // Ramps end in the order in which they began.
    return passingAll(filter, ({ pool, nowMs }) => {
      const youngest = youngestOf(pool);
      return youngest !== undefined && rampOf(youngest, nowMs) === 1;
    });
  },
});

/** When the last of a pool's endpoints became ready, in that field; undefined altogether: the pool has no versions, and it would have to be looked up each time. */
const youngestOf = perVersion((endpoints): Pick<EndpointSnapshot, 'readySinceMs'> => {
  let youngest: EndpointSnapshot['readySinceMs'];
  for (const { readySinceMs } of endpoints) if (readySinceMs !== undefined) youngest = Math.max(youngest ?? -Infinity, readySinceMs);
  return { readySinceMs: youngest };
});

/** The same key for another purpose: an endpoint's claims as a home must tell nothing of whom it lets in first. */
function apart({ high, low }: Hash64): Hash64 {
  return { high: (high ^ 0x5bd1e995) >>> 0, low: (low ^ 0x27d4eb2f) >>> 0 };
}
