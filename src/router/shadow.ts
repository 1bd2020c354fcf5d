import { placeOfAddress } from '../core/address-order.ts';
import { decide } from '../core/decide.ts';
import type { Decision } from '../core/decision.ts';
import { expectedTtftMs, tokensPerMsDefault } from '../core/expected-wait.ts';
import type { ShadowComparison } from '../core/explain.ts';
import { hashName, pairFraction } from '../core/hash.ts';
import type { DecisionInput, Policy } from '../core/policy.ts';

/** A policy that is scored on a pool's live requests and decides nothing. */
export interface Shadow {
  readonly policy: Policy;
  /** Share of decisions that it is scored on, from 0 to 1. */
  readonly sample: number;
}

const salt = hashName('shadow');

/**
 * Whether a decision is in the sample. Hangs on a hash of the decision's draw, so it costs no draw of its own; not on the draw itself, or a
 * sample of low draws would see the same one of equals chosen always.
 */
export function isSampled(sample: number, draw: number): boolean {
  return sample >= 1 || (sample > 0 && pairFraction(hashName(String(draw)), salt) < sample);
}

/**
 * What a pool's shadow policy would have decided on the same input; undefined: it has none, or this decision is not in the sample. Never
 * throws and changes nothing.
 *
 * The two choices are measured by the same yardstick, whatever either policy looks at: the expected time to first token (`expectedTtftMs`)
 * at each, on the fleet as this decision saw it. Live minus shadow is the estimated regret of this one decision. It leaves out what the
 * choice does to later requests (which cache is warm then), and follows the fleet as the live policy has loaded it.
 */
export function compareWithShadow(shadow: Shadow | undefined, input: DecisionInput, live: Decision): ShadowComparison | undefined {
  if (shadow === undefined || !isSampled(shadow.sample, input.draw)) return undefined;
  const policy = shadow.policy.name;
  let other: Decision;
  try {
    other = decide(shadow.policy, input);
  } catch (error) {
    return { policy, outcome: 'failed', address: undefined, reason: undefined, expectedTtftMs: undefined, error };
  }
  const chosen = live.kind === 'route' ? (live.best ?? live.addresses)[0] : undefined;
  if (other.kind === 'none') {
    return { policy, outcome: chosen === undefined ? 'neither' : 'only-live', address: undefined, reason: other.cause, expectedTtftMs: undefined };
  }
  const { reason } = other;
  const address = (other.best ?? other.addresses)[0];
  if (chosen === undefined) return { policy, outcome: 'only-shadow', address, reason, expectedTtftMs: undefined };
  const atLive = ttftAt(chosen, input);
  const atShadow = ttftAt(address, input);
  const known = atLive === undefined || atShadow === undefined ? undefined : { live: atLive, shadow: atShadow };
  return { policy, outcome: address === chosen ? 'agree' : 'differ', address, reason, expectedTtftMs: known };
}

function ttftAt(address: string | undefined, { pool, promptTokens, cachedTokens, nowMs }: DecisionInput): number | undefined {
  const endpoint = address === undefined ? undefined : pool.endpoints[placeOfAddress(pool.endpoints, address)];
  if (endpoint === undefined) return undefined;
  return expectedTtftMs(endpoint, promptTokens - (cachedTokens.get(endpoint.address) ?? 0), tokensPerMsDefault, nowMs);
}
