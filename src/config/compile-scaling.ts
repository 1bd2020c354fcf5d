import { tokensPerMsDefault } from '../core/expected-wait.ts';
import type { ScalingSettings } from '../router/scaling-watch.ts';
import type { Report } from './compile-routes.ts';
import { type Problem, toPath } from './problem.ts';
import { autoscaleDefaults, type PoolConfig, standbyDefaults } from './schema.ts';

/** How a pool scales: as written, and as usual where nothing is. */
export function toScalingSettings({ name, prefillTokensPerMs = tokensPerMsDefault, standby = standbyDefaults, autoscale = autoscaleDefaults }: PoolConfig): ScalingSettings {
  return { pool: name, tokensPerMs: prefillTokensPerMs, standby, autoscale };
}

/** What a schema cannot see of a pool's reserve and its autoscaling. */
export function checkScaling(pool: PoolConfig, observesFirstToken: boolean, at: readonly PropertyKey[], problem: Report, warnings: Problem[]): void {
  const { endpoints, discovery, standby, autoscale } = pool;
  const warn = (field: string, message: string): void => void warnings.push({ path: toPath([...at, field]), message });
  const hasReserve = endpoints.some((endpoint) => endpoint.standby === true);
  if (standby !== undefined) {
    const { pressure, calm } = standby;
    for (const field of ['waitMs', 'inFlightShare'] as const) {
      if (calm[field] >= pressure[field]) problem([...at, 'standby', 'calm', field], `expected less than pressure.${field} (${pressure[field]}): the reserve would come and go`);
    }
    if (!hasReserve && discovery?.file === undefined) warn('standby', 'no endpoint of this pool has standby: true, so nobody is in reserve');
  }
  if (hasReserve && discovery === undefined && endpoints.every((endpoint) => endpoint.standby === true)) {
    problem([...at, 'endpoints'], 'expected an endpoint without standby: true; as it stands all are in reserve and nobody serves');
  }
  if (hasReserve && !observesFirstToken) {
    warn('standby', 'prompts count as waiting until their requests end, since first tokens are not noticed: set observe.firstToken, or the reserve is called too early');
  }
  if (autoscale?.replicasMax !== undefined && autoscale.replicasMax < autoscale.replicasMin) {
    problem([...at, 'autoscale', 'replicasMax'], `expected replicasMin (${autoscale.replicasMin}) or more`);
  }
}
