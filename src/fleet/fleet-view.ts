import type { PoolSnapshot } from '../core/fleet-snapshot.ts';
import { CacheView } from './cache-view.ts';
import { type EndpointDefinition, FleetEndpoint } from './endpoint.ts';
import { ForeignLoad } from './foreign-load.ts';

/** A pool as configuration or discovery names it. */
export interface PoolDefinition {
  readonly name: string;
  readonly endpoints: readonly EndpointDefinition[];
}

/** One pool: its endpoints, how many requests this router sent it, and their mean prompt. */
export class FleetPool implements PoolSnapshot {
  readonly name: string;
  /** What other routers told. */
  readonly foreign: ForeignLoad;
  /** What the endpoints are believed to have cached. */
  readonly cache: CacheView;
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
    this.foreign = new ForeignLoad(this);
    this.cache = new CacheView(endpoints.length, (address) => this.endpoint(address)?.kvTokensMax);
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
  /** Routers that share this fleet, this one included, when last anything was heard. */
  routers = 1;

  constructor(definitions: readonly PoolDefinition[]) {
    this.pools = new Map(definitions.map((definition) => [definition.name, new FleetPool(definition)]));
  }

  pool(name: string): FleetPool | undefined {
    return this.pools.get(name);
  }
}

export { FleetEndpoint } from './endpoint.ts';
