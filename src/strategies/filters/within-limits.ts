import * as z from 'zod';
import { atLimit, contextTooLong, kvFull } from '../../core/decide.ts';
import { passingAll } from '../../core/filter-promises.ts';
import { perVersion } from '../../core/per-version.ts';
import type { Filter } from '../../core/policy.ts';
import type { RequestFacts } from '../../core/request-facts.ts';
import { defineFilter } from '../strategy.ts';

const parameters = z.strictObject({
  contextTolerance: z
    .number()
    .min(0)
    .max(10)
    .default(0.25)
    .describe(
      'prompt lengths are estimates: an endpoint is left out when the prompt exceeds its context length by more than this share, and only comes after those that it fits by estimate when by less',
    ),
  kvHeadroom: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe('share of the KV cache to keep free: what of the prompt is not cached has to fit beside it, by scraped metrics; 0: KV caches are not looked at'),
});

/**
 * Leaves out endpoints that would refuse the request or choke on it: as many requests in flight as `limits.requests` allows, prompt and
 * answer longer than `limits.contextTokens`, or no room in the KV cache. What is not known (limit, prompt length, metrics) limits nothing.
 */
export const withinLimits = defineFilter({
  type: 'within-limits',
  prefers:
    'Leaves out endpoints whose requests in flight reach limits.requests, whose limits.contextTokens the prompt and the wanted answer exceed, or, where kvHeadroom is set, whose KV cache has no room for the prompt.',
  wrongWhen:
    'Limits are guesses: a request that all endpoints are too full for is refused (429), not queued. Set kvHeadroom only where metrics are scraped often, since the engine itself queues or preempts when its cache is full.',
  formula:
    'requests < limits.requests; prompt / (1 + contextTolerance) + maxTokens ≤ limits.contextTokens; uncached prompt ≤ (1 − kvUsage − kvHeadroom) × KV tokens',
  source: 'OpenAI-style servers refuse a prompt that with max_tokens exceeds the model’s context length; vLLM preempts sequences when its KV blocks run out.',
  parameters,
  example: { kvHeadroom: 0.1 },
  // The context length matters only to pools that configure one; the compiler then asks for the facts.
  needs: [],
  create: ({ contextTolerance, kvHeadroom }) => {
    const isTooLong = ({ promptTokens, maxTokens }: RequestFacts, contextTokensMax: number): boolean =>
      promptTokens !== undefined && promptTokens / (1 + contextTolerance) + (maxTokens ?? 0) > contextTokensMax;
    const filter: Filter = (endpoint, { facts, promptTokens, cachedTokens }) => {
      const { contextTokensMax, metrics } = endpoint;
      if (contextTokensMax !== undefined && isTooLong(facts, contextTokensMax)) return contextTooLong;
      if (endpoint.full) return atLimit;
      if (kvHeadroom === 0 || metrics?.kvUsage === undefined || metrics.kvTokensMax === undefined) return undefined;
      const uncached = promptTokens - (cachedTokens.get(endpoint.address) ?? 0);
      // An empty cache takes any prompt: the engine knows better than an estimate, and the request would wait for ever.
      return metrics.kvUsage > 0 && uncached > (1 - metrics.kvUsage - kvHeadroom) * metrics.kvTokensMax ? kvFull : undefined;
    };
    if (kvHeadroom > 0) return filter;
    return passingAll(filter, ({ facts, pool }) => pool.columns?.fullCount === 0 && !isTooLong(facts, shortestContext(pool) ?? -Infinity));
  },
  createPreference: () => {
    const isTight = ({ promptTokens = 0, maxTokens = 0 }: RequestFacts, contextTokensMax: number): boolean => promptTokens + maxTokens > contextTokensMax;
    return passingAll(
      ({ contextTokensMax }, { facts }) => (contextTokensMax !== undefined && isTight(facts, contextTokensMax) ? 'context-tight' : undefined),
      ({ facts, pool }) => !isTight(facts, shortestContext(pool) ?? -Infinity),
    );
  },
});

/** The shortest context length that is configured in a pool; undefined: the pool has no versions, and it would have to be looked up each time. */
const shortestContext = perVersion((endpoints) => {
  let shortest = Infinity;
  for (const { contextTokensMax } of endpoints) if (contextTokensMax !== undefined) shortest = Math.min(shortest, contextTokensMax);
  return shortest;
});
