import { compile } from '../src/config/compile.ts';
import type { CompiledConfig, LoadOutcome } from '../src/config/load-outcome.ts';
import { loadConfig } from '../src/config/load.ts';
import { presets } from '../src/strategies/presets.ts';
import { contextTokensMax } from './engine/engine-profiles.ts';
import type { EndpointModel } from './simulated-endpoint.ts';

/** Name of the pool where no configuration gives one. */
const poolName = 'simulated';

/** Addresses for a fleet of so many; private ones, and nothing is ever sent to them. */
export function simulatedAddresses(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `10.${Math.floor(i / 62_500)}.${Math.floor(i / 250) % 250}.${(i % 250) + 1}:8000`);
}

export interface SimulatedPoolOptions {
  readonly preset: string;
  /** Parameters of the preset. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  readonly endpoints: readonly EndpointModel[];
  /** Whether routers are told the size of each endpoint's KV cache, as the servers' metrics do. */
  readonly tellKvSize: boolean;
  readonly seed: number;
  /** Most requests in flight on each endpoint; undefined: no limit. */
  readonly requestsMax?: number | undefined;
  /** How long a lease is counted without a sign, in ms. */
  readonly expireAfterMsMax?: number | undefined;
  /** Whether routers probe the endpoints' health; default true. */
  readonly probed?: boolean | undefined;
}

/** The configuration of one pool of simulated endpoints, through the loader that real ones go through. */
export function simulatedPool({ preset, parameters, endpoints, tellKvSize, seed, requestsMax, expireAfterMsMax, probed = true }: SimulatedPoolOptions): LoadOutcome {
  const written = {
    // Chance comes from the seed alone: a secret of its own for each run would move every session's hash.
    affinity: { secret: `simulated ${seed}` },
    ...(expireAfterMsMax !== undefined && { leases: { expireAfterMsMax } }),
    pools: [
      {
        name: poolName,
        policy: { preset, ...(parameters && { parameters }) },
        // First tokens are noticed for every policy, so that they are compared on equal terms.
        observe: { firstToken: true },
        ...(probed && { health: { probe: {} } }),
        endpoints: endpoints.map(({ address, profile }) => ({
          address,
          limits: { ...(tellKvSize && { kvTokens: contextTokensMax(profile) }), ...(requestsMax !== undefined && { requests: requestsMax }) },
        })),
      },
    ],
  };
  return loadConfig(JSON.stringify(written));
}

/** The same configuration with another policy in all its pools. */
export function withPreset(config: CompiledConfig, preset: string): LoadOutcome {
  const pools = config.settings.pools.map((pool) => ({ ...pool, policy: { preset } }));
  return compile({ ...config.settings, pools }, config.files);
}

/** Every policy that a simulation can run by name. */
export function presetNames(): string[] {
  return Object.keys(presets);
}
