import { toHostPort, toRank, toRankAddress } from '../core/data-parallel-rank.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import { type RequestOutcome, toTpotMs } from '../fleet/latency-window.ts';
import type { Reservation } from '../fleet/reservations.ts';
import type { Completion } from './ports.ts';

/** Takes a first token into the times of the endpoint that was chosen. */
export function measureFirstToken({ lease, endpoint, startedMs }: Reservation, nowMs: number): void {
  endpoint.times.firstToken(lease, nowMs - startedMs, nowMs);
}

/** What the end of a request says of one endpoint that it touched. */
export interface Judgement {
  readonly endpoint: FleetEndpoint;
  readonly outcome: RequestOutcome;
}

/**
 * What the end of a request says of the endpoints it touched. It goes to the one that really answered, which is another than the chosen one
 * after a retry, or behind an Envoy that does not know the chosen one; an endpoint of no pool of ours is nobody's. A retry means that the
 * chosen one, which Envoy tries first, failed; its lost time is in all that was measured, so that a retried request tells nothing of how
 * fast the endpoint is that saved it. To be asked before `measureEnd`, which takes the first token away.
 */
export function judgeEnd(held: Reservation, completion: Completion, nowMs: number): readonly Judgement[] {
  const { lease, endpoint: chosen, startedMs } = held;
  const server = toServer(held, completion.servedBy);
  if ((completion.attempts ?? 1) > 1) {
    const failed: Judgement = { endpoint: chosen, outcome: { kind: 'failed' } };
    const outcome = toOutcome(completion, undefined, nowMs - startedMs);
    // Where it was retried on the same endpoint, that failed once, whatever came of it then.
    if (server === undefined || (outcome.kind !== 'answered' && outcome.kind !== 'failed')) return [failed];
    return [failed, { endpoint: server, outcome: outcome.kind === 'answered' ? { ...outcome, firstByteMs: undefined } : outcome }];
  }
  if (server === undefined) return [];
  return [{ endpoint: server, outcome: toOutcome(completion, chosen.times.firstTokenOf(lease), nowMs - startedMs) }];
}

/** Takes the end of a request into the times of the endpoints it touched, as `judgeEnd` judged it. */
export function measureEnd(held: Reservation, completion: Completion, judgements: readonly Judgement[], nowMs: number): void {
  const { lease, endpoint: chosen } = held;
  const server = toServer(held, completion.servedBy);
  if ((completion.attempts ?? 1) <= 1 && server !== chosen) {
    const ttftMs = chosen.times.takeFirstToken(lease);
    if (ttftMs !== undefined) server?.times.firstToken(lease, ttftMs, nowMs);
  }
  for (const { endpoint, outcome } of judgements) endpoint.times.ended(lease, outcome, nowMs);
}

/** Envoy tells no data-parallel rank: it is the chosen one's, which the request carries wherever it goes. */
function toServer({ pool, endpoint: chosen }: Reservation, servedBy: string | undefined): FleetEndpoint | undefined {
  if (servedBy === undefined || servedBy === chosen.address || servedBy === toHostPort(chosen.address)) return chosen;
  return pool.endpoint(toRankAddress(servedBy, toRank(chosen.address) ?? 0)) ?? pool.endpoint(servedBy);
}

function toOutcome({ ending, status, firstByteMs, responseBytes, answerMs }: Completion, ttftMs: number | undefined, durationMs: number): RequestOutcome {
  switch (ending) {
    case 'finished':
      if (status !== undefined && status >= 500) return { kind: 'failed' };
      if (status !== undefined && (status < 200 || status >= 300)) return { kind: 'refused' };
      return { kind: 'answered', firstByteMs, tpotMs: toTpotMs(responseBytes, answerMs, ttftMs) };
    case 'upstream-failure':
      return { kind: 'failed' };
    case 'client-abort':
      return { kind: 'given-up', afterMs: durationMs, firstByteMs };
    case 'not-proxied':
    case 'stream-error':
    case 'expired':
    case 'open':
      return { kind: 'unknown' };
  }
}
