import { type DecisionAccount, explain, formatExplanation } from '../src/core/explain.ts';
import type { EndpointSnapshot } from '../src/core/fleet-snapshot.ts';
import type { RequestFacts } from '../src/core/request-facts.ts';
import type { Refusal } from '../src/router/refusal.ts';
import type { Routed } from '../src/router/routed.ts';
import type { SimulatedRouter } from './simulated-router.ts';

/** Why one request went where it went: how things stood, and what was made of it. */
export interface SimulatedExplanation {
  readonly router: string;
  readonly atMs: number;
  /** The endpoints of all pools as the router saw them before the decision. */
  readonly endpoints: readonly EndpointSnapshot[];
  readonly account: DecisionAccount | undefined;
  /** Code of the refusal; undefined: it was routed. */
  readonly refused: string | undefined;
}

/** Routes a request and keeps what the decision was based on. */
export function routeExplained({ id, router, fleet }: SimulatedRouter, facts: RequestFacts, atMs: number): { answer: Routed | Refusal; explanation: SimulatedExplanation } {
  // Copies: the fleet's own endpoints change with the decision.
  const endpoints = [...fleet.pools.values()].flatMap((pool) => pool.endpoints.map(toSnapshot));
  const answer = router.route(facts);
  return { answer, explanation: { router: id, atMs, endpoints, account: answer.account, refused: answer.kind === 'route' ? undefined : answer.code } };
}

/** An explanation as text for a terminal: the load that was known, then the decision. */
export function formatSimulatedExplanation({ router, atMs, endpoints, account, refused }: SimulatedExplanation): string {
  const rows = endpoints.map(({ address, state, requests, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs }) => [
    address,
    state,
    String(requests),
    String(requestsWaiting),
    String(uncachedTokensWaiting),
    headTokens === 0 ? '' : `${headTokens} for ${(atMs - headSinceMs).toFixed(0)} ms`,
  ]);
  const head = ['endpoint', 'state', 'requests', 'waiting', 'uncached tokens', 'at work on'];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const print = (cells: readonly string[]): string => `  ${cells.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ')}`.trimEnd();
  const decision = account === undefined ? 'Nothing was decided.\n' : formatExplanation(explain(account));
  const end = refused === undefined ? '' : `refused: ${refused}\n`;
  return `At ${(atMs / 1_000).toFixed(3)} s router ${router} knew of:\n${[print(head), ...rows.map(print)].join('\n')}\n\n${decision}${end}`;
}

function toSnapshot(endpoint: EndpointSnapshot): EndpointSnapshot {
  const { address, hash, weight, labels, state, trialsFree, readySinceMs, requestsMax, contextTokensMax, full } = endpoint;
  const { requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs, latency, metrics } = endpoint;
  return {
    address, hash, weight, labels, state, trialsFree, readySinceMs, requestsMax, contextTokensMax, full,
    requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens, headSinceMs, latency, metrics,
  };
}
