import { toTokens } from './workload.ts';

/** Bytes of a token in a plain JSON answer, and in a streamed one (an event a token, as model servers send them). */
const plainBytesPerToken = 4;
const streamedBytesPerToken = 220;
/** What an answer of which nothing is known is taken for. */
const outputTokensDefault = 200;

/** Length of an answer, reckoned from its bytes. */
export function toOutputTokens(bytes: number | undefined, streamed: boolean): number {
  if (bytes === undefined || bytes <= 0) return outputTokensDefault;
  return toTokens(bytes / (streamed ? streamedBytesPerToken : plainBytesPerToken)) ?? 1;
}
