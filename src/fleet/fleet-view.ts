import type { EndpointSnapshot, EndpointState, PoolSnapshot } from '../core/fleet-snapshot.ts';
import { type Hash64, hashName } from '../core/hash.ts';

/** An endpoint as configuration or discovery names it. */
export interface EndpointDefinition {
  /** `ip:port`. */
  readonly address: string;
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly requestsMax: number | undefined;
}

/** A pool as configuration or discovery names it. */
export interface PoolDefinition {
  readonly name: string;
  readonly endpoints: readonly EndpointDefinition[];
}

/** What one party knows to be in flight on one endpoint. */
export interface Load {
  readonly requests: number;
  readonly promptTokens: number;
  readonly promptTokensWaiting: number;
}

const noLoad: Load = { requests: 0, promptTokens: 0, promptTokensWaiting: 0 };

/**
 * One endpoint: its definition, its state, and its load. `own` is counted here, exactly; `foreign` is what other routers
 * told, replaced whole. A decision reads the sums.
 */
export class FleetEndpoint implements EndpointSnapshot {
  readonly address: string;
  readonly hash: Hash64;
  readonly weight: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly requestsMax: number | undefined;
  state: EndpointState = 'ready';
  readonly own = { requests: 0, promptTokens: 0, promptTokensWaiting: 0 };
  foreign: Load = noLoad;

  constructor(definition: EndpointDefinition) {
    this.address = definition.address;
    this.hash = hashName(definition.address);
    this.weight = definition.weight;
    this.labels = definition.labels;
    this.requestsMax = definition.requestsMax;
  }

  get requests(): number {
    return this.own.requests + this.foreign.requests;
  }

  get promptTokens(): number {
    return this.own.promptTokens + this.foreign.promptTokens;
  }

  get promptTokensWaiting(): number {
    return this.own.promptTokensWaiting + this.foreign.promptTokensWaiting;
  }
}

/** One pool: its endpoints, how many requests this router sent it, and their mean prompt. */
export class FleetPool implements PoolSnapshot {
  readonly name: string;
  readonly endpoints: readonly FleetEndpoint[];
  readonly #byAddress: ReadonlyMap<string, FleetEndpoint>;
  /** Requests sent here by this router so far. */
  sequence = 0;
  #promptTokensMean = 0;

  constructor(definition: PoolDefinition) {
    this.name = definition.name;
    const endpoints = definition.endpoints.map((endpoint) => new FleetEndpoint(endpoint));
    endpoints.sort((a, b) => (a.address < b.address ? -1 : 1));
    this.endpoints = endpoints;
    this.#byAddress = new Map(endpoints.map((endpoint) => [endpoint.address, endpoint]));
  }

  endpoint(address: string): FleetEndpoint | undefined {
    return this.#byAddress.get(address);
  }

  /** Running mean of the prompts seen here, in tokens: what a prompt of unknown length is reckoned at. At least 1. */
  get promptTokensMean(): number {
    return Math.max(1, Math.round(this.#promptTokensMean));
  }

  /** Takes one prompt's length into the mean (exponential, over about the last 64). */
  learnPromptTokens(tokens: number): void {
    this.#promptTokensMean += (tokens - this.#promptTokensMean) / (this.#promptTokensMean === 0 ? 1 : 64);
  }
}

/** The fleet in this router's memory. */
export class FleetView {
  readonly pools: ReadonlyMap<string, FleetPool>;

  constructor(definitions: readonly PoolDefinition[]) {
    this.pools = new Map(definitions.map((definition) => [definition.name, new FleetPool(definition)]));
  }

  pool(name: string): FleetPool | undefined {
    return this.pools.get(name);
  }
}
