import { type CapShare, shareOfLimit } from '../../src/fleet/endpoint.ts';
import type { CapLeases, CappedEndpoint } from '../../src/router/ports.ts';
import type { VirtualTime } from '../clock/virtual-time.ts';
import type { ModelledRedis } from './modelled-redis.ts';

/** Places on endpoints with an exact limit, as Redis counts them: over all routers, atomically, one round trip away. */
export class ModelledCaps {
  readonly #time: VirtualTime;
  readonly #redis: ModelledRedis;
  readonly #places = new Map<string, Set<string>>();

  constructor(time: VirtualTime, redis: ModelledRedis) {
    this.#time = time;
    this.#redis = redis;
  }

  /** One router's way to them; `share`: its part while Redis is away. */
  leasesFor(share: () => CapShare): CapLeases {
    return {
      acquire: (pool, lease, endpoints) => {
        if (this.#redis.isAway) return Promise.resolve('unavailable');
        return new Promise((resolve) => {
          this.#time.after(this.#redis.delayMs(), () => {
            const taken = this.#take(pool, lease, endpoints);
            this.#time.after(this.#redis.delayMs(), () => resolve({ taken }));
          });
        });
      },
      release: (pool, address, lease) => this.#time.after(this.#redis.delayMs(), () => void this.#placesOn(pool, address).delete(lease)),
      shareOf: (requestsMax) => shareOfLimit(requestsMax, share()),
    };
  }

  #take(pool: string, lease: string, endpoints: readonly CappedEndpoint[]): string | undefined {
    for (const { address, requestsMax } of endpoints) {
      const places = this.#placesOn(pool, address);
      if (places.size >= requestsMax && !places.has(lease)) continue;
      places.add(lease);
      return address;
    }
    return undefined;
  }

  #placesOn(pool: string, address: string): Set<string> {
    const name = `${pool} ${address}`;
    let places = this.#places.get(name);
    if (places === undefined) {
      places = new Set();
      this.#places.set(name, places);
    }
    return places;
  }
}
