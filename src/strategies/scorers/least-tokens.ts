/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per endpoint would cost time */
import * as z from 'zod';
import { cachedAtRows } from '../../core/cached-tokens.ts';
import { columnsOf } from '../../core/endpoint-columns.ts';
import { tokensPerMsDefault, waitingOf } from '../../core/expected-wait.ts';
import { defineScorer } from '../strategy.ts';

const parameters = z.strictObject({
  tokensPerMs: z
    .number()
    .positive()
    .default(tokensPerMsDefault)
    .describe('prefill speed of an endpoint of weight 1, in prompt tokens per ms: how fast waiting work is taken to shrink between signs of progress'),
  decodingTokens: z
    .number()
    .min(0)
    .default(tokensPerMsDefault)
    .describe('what a request that is decoding already counts, in prompt tokens; the default takes it to hold up each step by about 1 ms'),
});

/**
 * Prefers the least prefill before the first token of this request: work that waits, drained by the clock, plus this prompt's uncached
 * part, plus what decoding requests hold up, over the endpoint's weight.
 */
export const leastTokens = defineScorer({
  type: 'least-tokens',
  prefers: 'The endpoint with the least prefill to do before this request’s first token, in tokens for its weight; a 30 K-token prompt is not one request.',
  wrongWhen:
    'Sessions come back and their prompts grow: what is cached counts only where another step of the policy asks for prefixes (sticky does). With first tokens unnoticed, a prompt counts as waiting until its request ends.',
  formula: '(least + 1) / (own + 1), where own = (W + u + decodingTokens × decoding) / weight; W: uncached prompt tokens waiting, u: this prompt’s uncached tokens',
  source: '“Least pending tokens” of the routing study on the Mooncake traces; decoding requests after the engine model of the same study.',
  parameters,
  needs: ['promptTokens'],
  wantsFirstToken: true,
  create: ({ tokensPerMs, decodingTokens }) => (candidates, input) => {
    const { promptTokens, nowMs } = input;
    const known = columnsOf(candidates, input.pool);
    const { at, columns } = known;
    const cached = cachedAtRows(known, input.cachedTokens);
    const { weights, requests, requestsWaiting } = columns;
    const ratings = waitingOf(known, tokensPerMs, nowMs);
    let least = Infinity;
    for (let i = 0; i < at.length; i += 1) {
      const place = at[i]!;
      const uncached = Math.max(0, promptTokens - cached[place]!);
      const decoding = Math.max(0, requests[place]! - requestsWaiting[place]!);
      const cost = (ratings[i]! + uncached + decodingTokens * decoding) / weights[place]!;
      least = Math.min(least, cost);
      ratings[i] = cost;
    }
    for (let i = 0; i < at.length; i += 1) ratings[i] = (least + 1) / (ratings[i]! + 1);
    return ratings;
  },
});
