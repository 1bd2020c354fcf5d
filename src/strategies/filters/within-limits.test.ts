import type { z } from 'zod';
import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import { atLimit, contextTooLong, kvFull } from '../../core/decide.ts';
import type { EndpointSnapshot, EngineMetrics } from '../../core/fleet-snapshot.ts';
import type { RequestFacts } from '../../core/request-facts.ts';
import { FleetEndpoint } from '../../fleet/endpoint.ts';
import { withinLimits } from './within-limits.ts';

type Parameters = z.input<typeof withinLimits.parameters>;

const run = withinLimits.create(withinLimits.parameters.parse({}));

/** What the hard and the soft part say. */
function judge(
  changes: Partial<EndpointSnapshot>,
  facts: Partial<RequestFacts>,
  parameters: Parameters = {},
  cached = 0,
): (string | undefined)[] {
  const [endpoint] = endpointsOf(changes);
  const input = inputFor([endpoint!], { facts, promptTokens: facts.promptTokens ?? 5_000, cachedTokens: new Map([[endpoint!.address, cached]]) });
  const parsed = withinLimits.parameters.parse(parameters);
  return [withinLimits.create(parsed)(endpoint!, input), withinLimits.createPreference?.(parsed)?.(endpoint!, input)];
}

describe('within-limits', () => {
  describe('requests in flight', () => {
    const limited = (requestsMax: number | undefined): FleetEndpoint => new FleetEndpoint({ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax });

    it.each<[number, number | undefined, string | undefined]>([
      [0, undefined, undefined],
      [1_000_000, undefined, undefined],
      [0, 1, undefined],
      [1, 1, atLimit],
      [2, 1, atLimit],
      [7, 8, undefined],
      [8, 8, atLimit],
    ])('%d of %s: %s', (requests, requestsMax, reason) => {
      const endpoint = limited(requestsMax);
      endpoint.own.requests = requests;
      expect(run(endpoint, inputFor([endpoint]))).toBe(reason);
    });

    it('are counted over the whole fleet, not this router alone', () => {
      const endpoint = limited(3);
      endpoint.own.requests = 1;
      expect(run(endpoint, inputFor([endpoint]))).toBeUndefined();
      endpoint.foreign.requests = 2;
      expect(run(endpoint, inputFor([endpoint]))).toBe(atLimit);
    });
  });

  describe('context length', () => {
    it.each<[string, number | undefined, Partial<RequestFacts>, string | undefined, string | undefined]>([
      ['none configured', undefined, { promptTokens: 1e9, maxTokens: 1e9 }, undefined, undefined],
      ['a prompt of unknown length', 8_000, {}, undefined, undefined],
      ['a prompt that fits', 8_000, { promptTokens: 8_000 }, undefined, undefined],
      ['an estimate a little above', 8_000, { promptTokens: 8_001 }, undefined, 'context-tight'],
      ['as far above as estimates may be', 8_000, { promptTokens: 10_000 }, undefined, 'context-tight'],
      ['farther', 8_000, { promptTokens: 10_001 }, contextTooLong, 'context-tight'],
      ['prompt and answer that fit', 8_000, { promptTokens: 6_000, maxTokens: 2_000 }, undefined, undefined],
      ['an answer too long beside the prompt', 8_000, { promptTokens: 5_000, maxTokens: 4_001 }, contextTooLong, 'context-tight'],
      ['an answer that fits if the prompt is a little shorter', 8_000, { promptTokens: 5_000, maxTokens: 4_000 }, undefined, 'context-tight'],
    ])('%s', (_case, contextTokensMax, facts, hard, soft) => {
      expect(judge({ contextTokensMax }, facts)).toEqual([hard, soft]);
    });

    it('is exact where no tolerance is wanted', () => {
      expect(judge({ contextTokensMax: 100 }, { promptTokens: 101 }, { contextTolerance: 0 })).toEqual([contextTooLong, 'context-tight']);
    });

    it('comes before the limit of requests: waiting would not help', () => {
      expect(judge({ contextTokensMax: 100, full: true }, { promptTokens: 1_000 })[0]).toBe(contextTooLong);
    });
  });

  describe('KV cache', () => {
    const measured: EngineMetrics = {
      scrapedMs: 0,
      requestsRunning: undefined,
      requestsQueued: undefined,
      kvUsage: 0.5,
      kvTokensMax: 10_000,
      adapters: undefined,
      adaptersMax: undefined,
    };
    // With a headroom of a tenth, 4 000 tokens are free.
    const careful = { kvHeadroom: 0.1 };

    it('is not looked at unless asked for', () => {
      expect(judge({ metrics: { ...measured, kvUsage: 1 } }, { promptTokens: 1e6 })[0]).toBeUndefined();
    });

    it.each<[string, Partial<EngineMetrics> | undefined, number, number, string | undefined]>([
      ['fits', {}, 4_000, 0, undefined],
      ['does not fit', {}, 4_001, 0, kvFull],
      ['fits beside what is cached', {}, 9_000, 5_000, undefined],
      ['does not fit though much is cached', {}, 9_001, 5_000, kvFull],
      ['less than the headroom is free', { kvUsage: 0.95 }, 1, 0, kvFull],
      ['never measured', undefined, 1e6, 0, undefined],
      ['usage unknown', { kvUsage: undefined }, 1e6, 0, undefined],
      ['size unknown', { kvTokensMax: undefined }, 1e6, 0, undefined],
      ['empty: larger than all of it, by estimate', { kvUsage: 0 }, 20_000, 0, undefined],
    ])('%s', (_case, metrics, promptTokens, cached, reason) => {
      expect(judge({ metrics: metrics && { ...measured, ...metrics } }, { promptTokens }, careful, cached)[0]).toBe(reason);
    });
  });
});
