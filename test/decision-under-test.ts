import { type EndpointSnapshot, idleEndpoint } from '../src/core/fleet-snapshot.ts';
import { createAffinityHasher } from '../src/core/hash.ts';
import type { DecisionInput } from '../src/core/policy.ts';
import { noFacts, type RequestFacts } from '../src/core/request-facts.ts';

/** Keyed hash of a session, as the router makes it. */
export const sessionKey = ((hash) => (session: string) => hash('', session))(createAffinityHasher('test-secret'));

/** Endpoints that are idle but for what is written, sorted by address as pools are. */
export function endpointsOf(...written: readonly Partial<EndpointSnapshot>[]): EndpointSnapshot[] {
  const two = (n: number): string => String(n).padStart(2, '0');
  return written.map((changes, i) => ({ ...idleEndpoint(`10.0.${10 + Math.floor(i / 90)}.1${two(i % 90)}:80`), ...changes }));
}

/** A request of 100 tokens to a pool of these endpoints, of which nothing else is known. */
export function inputFor(
  endpoints: readonly EndpointSnapshot[],
  { facts, ...changes }: Partial<Omit<DecisionInput, 'facts'>> & { readonly facts?: Partial<RequestFacts> } = {},
): DecisionInput {
  return {
    pool: { name: 'chat', endpoints },
    affinityKey: undefined,
    placedOn: undefined,
    promptTokens: 100,
    cachedTokens: new Map(),
    nowMs: 0,
    draw: 0,
    sequence: 0,
    ...changes,
    facts: { ...noFacts, ...facts },
  };
}

/** Even draws, the same in every run. */
export function drawsOf(count: number): number[] {
  return Array.from({ length: count }, (_, i) => (i + 0.5) / count);
}
