import { expectedTtftMs, waitingTokens } from '../core/expected-wait.ts';
import { passingAll } from '../core/filter-promises.ts';
import type { Filter, Step } from '../core/policy.ts';

/** Names of the filters that stand beside those of the policies: what a route or a request demands, whatever the policy is. */
export const guardNames = { residency: 'residency', saturation: 'saturation', deadline: 'deadline' } as const;

/** Which endpoints a request may be served by, wherever it goes. */
export interface Residency {
  /** Name of the label that tells where an endpoint is. */
  readonly label: string;
  /** Values of the label that are allowed for a tenant (undefined: the request names none); undefined: all. */
  readonly allowed: (tenant: string | undefined) => ReadonlySet<string> | undefined;
}

/** Leaves out endpoints outside the residency, those without the label included: nobody knows where they are. */
export function createResidencyGuard({ label, allowed }: Residency): Step<Filter> {
  return {
    name: guardNames.residency,
    run: passingAll(
      (endpoint, { facts }) => {
        const values = allowed(facts.tenant);
        if (values === undefined) return undefined;
        const value = Object.hasOwn(endpoint.labels, label) ? endpoint.labels[label] : undefined;
        return value !== undefined && values.has(value) ? undefined : 'outside-residency';
      },
      ({ facts }) => allowed(facts.tenant) === undefined,
    ),
  };
}

/** How much harder than normal (1) a request of this priority is to turn away: 2 to its power. */
export function priorityFactor(priority: number): number {
  return 2 ** priority;
}

/**
 * Keeps room for those of higher priority. Leaves out an endpoint when the prefill that waits there, per unit of weight, has reached
 * `waitingTokensMax` × 2^priority: `saturated`; and for priorities below normal also when the requests in flight have reached that part
 * of its limit: `reserved`. So as load grows the lowest are turned away first, and each step of priority is worth a doubling.
 */
export function createSaturationGuard({ waitingTokensMax, tokensPerMs }: { waitingTokensMax: number | undefined; tokensPerMs: number }): Step<Filter> {
  return {
    name: guardNames.saturation,
    run: passingAll(
      (endpoint, { facts: { priority }, nowMs }) => {
        const factor = priorityFactor(priority);
        const { requestsMax, requests, weight } = endpoint;
        if (priority < 0 && requestsMax !== undefined && requests >= requestsMax * factor) return 'reserved';
        if (waitingTokensMax === undefined) return undefined;
        return waitingTokens(endpoint, tokensPerMs, nowMs) >= waitingTokensMax * factor * weight ? 'saturated' : undefined;
      },
      ({ facts: { priority } }) => waitingTokensMax === undefined && priority >= 0,
    ),
  };
}

/**
 * Leaves out endpoints where the first token is not expected before the request's deadline. Only what is known counts against one: without
 * notice of first tokens (`seesWaiting`) nobody knows what waits, and where the policy does not keep track of caches (`seesCaches`) nobody
 * knows how much of a session's prompt is cached.
 */
export function createDeadlineGuard({ tokensPerMs, seesWaiting, seesCaches }: { tokensPerMs: number; seesWaiting: boolean; seesCaches: boolean }): Step<Filter> {
  return {
    name: guardNames.deadline,
    run: passingAll(
      (endpoint, { facts: { deadlineMs }, affinityKey, promptTokens, cachedTokens, nowMs }) => {
        if (deadlineMs === undefined) return undefined;
        const uncached = seesCaches || affinityKey === undefined ? promptTokens - (cachedTokens.get(endpoint.address) ?? 0) : 0;
        const ttftMs = seesWaiting ? expectedTtftMs(endpoint, uncached, tokensPerMs, nowMs) : uncached / (tokensPerMs * endpoint.weight);
        return ttftMs > deadlineMs ? 'too-late' : undefined;
      },
      ({ facts: { deadlineMs } }) => deadlineMs === undefined,
    ),
  };
}
