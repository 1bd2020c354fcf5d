import { toHostPort, toRank, toRankAddress } from '../core/data-parallel-rank.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import { type RequestOutcome, toTpotMs } from '../fleet/latency-window.ts';
import type { Reservation } from '../fleet/reservations.ts';
import type { Completion } from './ports.ts';

/** Takes a first token into the times of the endpoint that was chosen. */
export function measureFirstToken({ lease, endpoint, startedMs }: Reservation, nowMs: number): void {
  endpoint.times.firstToken(lease, nowMs - startedMs, nowMs);
}

/**
 * Takes the end of a request into the times of the endpoints it touched. What was measured goes to the one that really answered, which
 * is another than the chosen one after a retry, or behind an Envoy that does not know the chosen one; an endpoint of no pool of ours
 * is nobody's. A retry means that the chosen one, which Envoy tries first, failed; its lost time is in all that was measured, so that
 * a retried request tells nothing of how fast the endpoint is that saved it.
 */
export function measureEnd(held: Reservation, completion: Completion, nowMs: number): void {
  const { lease, endpoint: chosen, startedMs } = held;
  const { attempts = 1, servedBy } = completion;
  const server = toServer(held, servedBy);
  if (attempts > 1) {
    chosen.times.ended(lease, { kind: 'failed' }, nowMs);
    const outcome = toOutcome(completion, undefined, nowMs - startedMs);
    if (outcome.kind === 'answered') server?.times.ended(lease, { ...outcome, firstByteMs: undefined }, nowMs);
    else if (outcome.kind === 'failed') server?.times.ended(lease, outcome, nowMs);
    return;
  }
  if (server === chosen) {
    chosen.times.ended(lease, toOutcome(completion, chosen.times.firstTokenOf(lease), nowMs - startedMs), nowMs);
    return;
  }
  const ttftMs = chosen.times.takeFirstToken(lease);
  if (server === undefined) return;
  if (ttftMs !== undefined) server.times.firstToken(lease, ttftMs, nowMs);
  server.times.ended(lease, toOutcome(completion, ttftMs, nowMs - startedMs), nowMs);
}

/** Envoy tells no data-parallel rank: it is the chosen one's, which the request carries wherever it goes. */
function toServer({ pool, endpoint: chosen }: Reservation, servedBy: string | undefined): FleetEndpoint | undefined {
  if (servedBy === undefined || servedBy === toHostPort(chosen.address)) return chosen;
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
      return { kind: 'unknown' };
  }
}
