import { hashName, pairFraction } from '../core/hash.ts';
import type { ExchangeStatus } from './ports.ts';

/**
 * Whether this router is the one that reads a model server's metrics for the fleet: of the routers that hear one another each takes its
 * share, by rendezvous hashing, so that one that comes or goes moves no more than its own. A router that hears nobody reads all.
 */
export function isOurShare(hostPort: string, self: string, { connected, routers }: Pick<ExchangeStatus, 'connected' | 'routers'>): boolean {
  if (!connected) return true;
  const server = hashName(hostPort);
  const own = pairFraction(server, hashName(self));
  return routers.every(({ id }) => {
    if (id === self) return true;
    const other = pairFraction(server, hashName(id));
    return other < own || (other === own && id > self);
  });
}
