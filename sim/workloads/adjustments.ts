import type { SeededRng } from '../clock/seeded-rng.ts';
import type { Workload, WorkloadRequest } from './workload.ts';

/** The part of a workload between two shares of its time, from 0 to 1, and at most so many requests. */
export function sliceWorkload(workload: Workload, { from, to, requestsMax }: { from: number; to: number; requestsMax: number }): Workload {
  const endMs = workload.requests.at(-1)?.arrivalMs ?? 0;
  const inside = workload.requests.filter(({ arrivalMs }) => arrivalMs >= from * endMs && (to >= 1 || arrivalMs < to * endMs)).slice(0, requestsMax);
  const startMs = inside[0]?.arrivalMs ?? 0;
  return { ...workload, requests: inside.map((request) => ({ ...request, arrivalMs: request.arrivalMs - startMs })) };
}

/**
 * Spreads requests of one stamp over the time until the next: traces tell the time to some seconds only, and what came in them at many
 * moments would all come at one. The order stays.
 */
export function spreadArrivals(workload: Workload, rng: SeededRng): Workload {
  const spread: WorkloadRequest[] = [];
  const { requests } = workload;
  for (let at = 0; at < requests.length; ) {
    const stampMs = requests[at]?.arrivalMs ?? 0;
    let next = at;
    while (next < requests.length && requests[next]?.arrivalMs === stampMs) next += 1;
    const gapMs = (requests[next]?.arrivalMs ?? stampMs) - stampMs;
    const same = requests.slice(at, next);
    const offsets = same.map(() => (same.length === 1 ? 0 : rng.draw() * gapMs)).sort((a, b) => a - b);
    same.forEach((request, i) => spread.push({ ...request, arrivalMs: stampMs + (offsets[i] ?? 0) }));
    at = next;
  }
  return { ...workload, requests: spread };
}
