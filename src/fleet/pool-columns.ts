import { EndpointColumns } from '../core/endpoint-columns.ts';
import type { EndpointWatcher, FleetEndpoint } from './endpoint.ts';

/** The columns of one pool, and the version of its endpoints' standing. Only what has changed is read anew, when somebody reads. */
export class PoolColumns implements EndpointWatcher {
  #version = 0;
  #columns = new EndpointColumns([]);
  #places: ReadonlyMap<FleetEndpoint, number> = new Map();
  /** Whose load has changed since it was read; each once. */
  readonly #unread: FleetEndpoint[] = [];

  /** See `PoolSnapshot`. */
  get version(): number {
    return this.#version;
  }

  /** The load as it is now. */
  get columns(): EndpointColumns {
    if (this.#unread.length > 0) this.#readUnread();
    return this.#columns;
  }

  /** From now on these are the endpoints. */
  replace(endpoints: readonly FleetEndpoint[]): void {
    this.#version += 1;
    this.#columns = new EndpointColumns(endpoints);
    this.#places = new Map(endpoints.map((endpoint, i) => [endpoint, i]));
    // All were just read, and those that are gone are held no longer.
    this.#readUnread();
  }

  #readUnread(): void {
    for (const endpoint of this.#unread) {
      endpoint.loadRead();
      const place = this.#places.get(endpoint);
      if (place !== undefined) this.#columns.refresh(place);
    }
    this.#unread.length = 0;
  }

  standingChanged(): void {
    this.#version += 1;
  }

  loadChanged(endpoint: FleetEndpoint): void {
    this.#unread.push(endpoint);
  }
}
