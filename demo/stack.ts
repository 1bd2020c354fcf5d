import { runFairlead } from '../lab/child-process.ts';
import { freePorts, renderEnvoyConfig, startEnvoy } from '../lab/envoy-process.ts';
import { type FleetAnswer, startFairlead } from '../lab/fairlead-process.ts';
import type { EngineProfileName } from '../sim/engine/engine-profiles.ts';

/** Ten times what is shipped: clients, servers, Envoy and Fairlead share one machine here, and it may be busy with other things. */
const messageTimeoutMs = 2_000;

/** Simulated model servers of one kind. */
export interface ServerKind {
  /** Shown beside the address; default: nothing is. */
  readonly name?: string;
  readonly count: number;
  readonly profile: EngineProfileName;
  /** How many times slower than the profile; default 1. */
  readonly slowFactor?: number;
  /** Capacity that Fairlead's configuration names for each; default: none. */
  readonly weight?: number;
  /** Kept in reserve; default: false. */
  readonly standby?: boolean;
}

export interface StackOptions {
  /** Name of the preset that Fairlead chooses by. */
  readonly policy: string;
  readonly servers: readonly ServerKind[];
  /** How many times faster than the clock the servers run; default 1. */
  readonly timeScale?: number;
  /** Further settings of Fairlead's pool. */
  readonly pool?: Readonly<Record<string, unknown>>;
}

/** A model server of a stack. */
export interface StackEndpoint {
  readonly address: string;
  /** Name of its kind; undefined: it has none. */
  readonly kind: string | undefined;
  /** Kept in reserve. */
  readonly standby: boolean;
}

/** Model servers, Fairlead and Envoy that run together. */
export interface Stack {
  readonly policy: string;
  /** Where Envoy listens. */
  readonly url: string;
  /** The model servers, in the order of their kinds. */
  readonly endpoints: readonly StackEndpoint[];
  readonly fairleadAdminPort: number;
  /** What Fairlead says of its endpoints. */
  fleet(): Promise<FleetAnswer>;
  readonly envoyAdminPort: number;
  stop(): Promise<void>;
}

/** Starts everything on free ports of its own. What had started is stopped when the rest cannot. */
export async function startStack({ policy, servers, timeScale = 1, pool = {} }: StackOptions): Promise<Stack> {
  const started: { stop(): Promise<unknown> }[] = [];
  const stop = async (): Promise<void> => {
    for (const part of started.splice(0).reverse()) await part.stop();
  };
  try {
    const endpoints: (StackEndpoint & { readonly weight: number | undefined })[] = [];
    for (const { name: kind, count, profile, slowFactor = 1, weight, standby = false } of servers) {
      const ports = await freePorts(count);
      const args = ['--ports', ports.join(','), '--profile', profile, '--slow-factor', String(slowFactor), '--time-scale', String(timeScale)];
      const running = runFairlead(['sim-server', ...args]);
      started.push(running);
      await running.waitForLine((line) => (line.includes(`:${ports.at(-1) ?? 0}`) ? true : undefined));
      endpoints.push(...ports.map((port) => ({ address: `127.0.0.1:${port}`, kind, weight, standby })));
    }
    const configured = endpoints.map(({ address, weight, standby }) => ({ address, ...(weight === undefined ? {} : { weight }), ...(standby ? { standby } : {}) }));
    const fairlead = await startFairlead({ pools: [{ name: 'chat', policy: { preset: policy }, ...pool, endpoints: configured }] });
    started.push(fairlead);
    const clusters = { chat: endpoints.map(({ address }) => address) };
    const envoy = await startEnvoy({ config: renderEnvoyConfig({ clusters, fairlead: [fairlead.address], messageTimeoutMs }) });
    started.push(envoy);
    return { policy, url: envoy.url, endpoints, fairleadAdminPort: fairlead.adminPort, fleet: () => fairlead.fleet(), envoyAdminPort: envoy.adminPort, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
