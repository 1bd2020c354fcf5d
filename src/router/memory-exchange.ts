import type { StateExchange } from './ports.ts';

/** The exchange of a router that is alone: nobody to tell, nobody to hand on to. */
export function createMemoryExchange(): StateExchange {
  return {
    kind: 'memory',
    publish: () => {},
    forward: () => false,
    start: async () => {},
    stop: async () => {},
    poolsChanged: () => {},
    snapshotAgeMs: () => undefined,
    status: () => ({ connected: true, pushing: false, routersLastSeen: 1, routers: [] }),
    trouble: () => undefined,
    caps: undefined,
  };
}
