import * as z from 'zod';
import type { EndpointSnapshot } from '../../core/fleet-snapshot.ts';
import { ratingOf, timesTypical, typicalMs } from '../measured-latency.ts';
import { defineScorer } from '../strategy.ts';

const parameters = z.strictObject({
  quantile: z.enum(['p95', 'p99']).default('p95').describe('how far out in the tail'),
  of: z.enum(['ttft', 'tpot', 'both']).default('both').describe('time to first token, time per output token, or the two weighed alike'),
  samplesMin: z.int().min(1).max(256).default(10).describe('measured requests below which an endpoint’s tail counts as unknown'),
});

/** Prefers the endpoint whose slowest answers are the least slow. */
export const tailLatency = defineScorer({
  type: 'tail-latency',
  prefers: 'The endpoint with the lowest p95 or p99 over its last requests, time to first token and per output token apart; the share of requests that failed is taken off.',
  wrongWhen:
    'Few requests come: a tail needs hundreds to settle. It knows nothing of load now: alone it sends everything to the best tail until that is the worst, so weigh it beside least-requests.',
  formula:
    '(1 - failure share) / (1 + q / typical), q = the quantile, typical = its geometric mean over the candidates; for both the geometric mean of the two ratios; unknown counts as typical',
  source: 'Nearest rank over a window of 256 requests; no peer routes by a replica’s tail.',
  parameters,
  needs: [],
  wantsFirstToken: true,
  create: ({ quantile, of, samplesMin }) => {
    const tailOf = (kind: 'ttftMs' | 'tpotMs', { latency }: EndpointSnapshot): number | undefined =>
      latency === undefined || latency.samples < samplesMin ? undefined : latency[kind]?.[quantile];
    return (candidates) => {
      const ratios = (kind: 'ttftMs' | 'tpotMs'): number[] => {
        const tails = candidates.map((endpoint) => tailOf(kind, endpoint));
        const typical = typicalMs(tails);
        return tails.map((tail) => timesTypical(tail, typical));
      };
      const ttft = of === 'tpot' ? undefined : ratios('ttftMs');
      const tpot = of === 'ttft' ? undefined : ratios('tpotMs');
      return candidates.map(({ latency }, i) => {
        const cost = ttft === undefined ? (tpot?.[i] ?? 1) : tpot === undefined ? (ttft[i] ?? 1) : Math.sqrt((ttft[i] ?? 1) * (tpot[i] ?? 1));
        return ratingOf(cost, latency?.failureShare ?? 0);
      });
    };
  },
});
