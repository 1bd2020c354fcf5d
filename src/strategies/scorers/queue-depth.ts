import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { defineScorer } from '../strategy.ts';

/**
 * Prefers the shortest queue inside the model server, by capacity. What the server said of its queue is as old as its last scrape:
 * requests that the routers know in flight beyond those it counted as running were sent since, and are taken for queued.
 */
export const queueDepth = defineScorer({
  type: 'queue-depth',
  prefers: 'The endpoint with the fewest requests in its own queue, by weight, as its metrics tell; what was sent since they were read counts as queued.',
  wrongWhen:
    'Metrics are the only load looked at: between two readings all requests go to the same endpoint, which ends worse than round-robin. Weigh it beside least-requests, or use sticky, which needs no metrics.',
  formula: '(least + 1) / (queue + 1), with queue = max(queued, requests in flight - running) / weight; 0.5 where the server does not tell',
  source: 'Model-server metrics as llm-d and the Gateway API inference extension score them; the floor by own dispatches is Fairlead’s.',
  parameters: z.strictObject({}),
  needs: [],
  wantsMetrics: true,
  create: () => (candidates) => {
    const queues = candidates.map(queueOf);
    let least = Infinity;
    for (const queue of queues) if (queue !== undefined) least = Math.min(least, queue);
    return queues.map((queue) => (queue === undefined ? 0.5 : (least + 1) / (queue + 1)));
  },
});

function queueOf({ metrics, requests, weight }: EndpointSnapshot): number | undefined {
  if (metrics?.requestsQueued === undefined) return undefined;
  const { requestsQueued, requestsRunning } = metrics;
  const sentSince = requestsRunning === undefined ? 0 : requests - requestsRunning;
  return Math.max(requestsQueued, sentSince) / weight;
}
