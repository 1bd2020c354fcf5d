import type { Filter, Step } from '../core/policy.ts';
import type { PoolHealthSettings } from '../router/health-watch.ts';
import { slowStart } from '../strategies/filters/slow-start.ts';
import type { Report } from './compile-routes.ts';
import type { PoolConfig } from './schema.ts';

/** How the endpoints of a pool are judged. */
export function toHealthSettings({ health: { probe, passive, slow, ejectedShareMax }, slowStart: ramp }: PoolConfig, observesFirstToken: boolean): PoolHealthSettings {
  return {
    passive: passive === false ? undefined : passive,
    // Who is found slow comes back as who failed does: without a breaker there is no way.
    slow: slow === false || passive === false ? undefined : slow,
    ejectedShareMax,
    slowStartMs: ramp === false ? 0 : ramp.durationMs,
    isProbed: probe !== undefined,
    observesFirstToken,
  };
}

/** What a schema cannot see of it. */
export function checkHealth({ health: { passive } }: PoolConfig, at: readonly PropertyKey[], problem: Report): void {
  if (passive !== false && passive.backOffMsMax < passive.backOffMs) {
    problem([...at, 'health', 'passive', 'backOffMsMax'], `expected backOffMs (${passive.backOffMs}) or more`);
  }
}

/** The pool's slow start, as a preference that stands beside its policy; none where the policy has one of its own. */
export function createSlowStartGuard({ slowStart: ramp }: PoolConfig, filters: readonly Step<Filter>[]): (Step<Filter> & { readonly soft: true })[] {
  if (ramp === false || filters.some(({ name }) => name === slowStart.type)) return [];
  return [{ name: slowStart.type, run: slowStart.create(ramp), soft: true }];
}
