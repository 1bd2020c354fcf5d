import { isDeepStrictEqual } from 'node:util';
import { toHostPort } from '../core/data-parallel-rank.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import type { FleetPool } from '../fleet/fleet-view.ts';
import type { Clock, Rng } from '../router/ports.ts';

/** A pool whose model servers are asked, and how. */
export interface AskedPool<S> {
  readonly pool: FleetPool;
  readonly settings: S;
}

/** One model server of a pool: an endpoint, or all the data-parallel ranks behind one address. */
export interface ModelServer<S> {
  readonly pool: FleetPool;
  readonly settings: S;
  /** `ip:port` of its endpoints. */
  readonly hostPort: string;
  /** Where it is asked: IP address, IPv6 without brackets. */
  readonly host: string;
  readonly port: number;
  /** Those behind the address now. */
  readonly endpoints: readonly FleetEndpoint[];
  /** Aborted when it is no longer asked: what comes of a question that is under way then is of no interest. */
  readonly signal: AbortSignal;
}

export interface RoundsOptions<S, M> {
  readonly pools: readonly AskedPool<S>[];
  readonly clock: Clock;
  readonly rng: Rng;
  /** First questions to so many servers of a pool, which came together, are spread over so long, in ms. */
  readonly spreadMs: (settings: S, servers: number) => number;
  /** What the asker keeps of a server from one question to the next. */
  readonly remember: (server: ModelServer<S>) => M;
  /** Asks once. Returns the time from this question's start to the next one's, in ms, before jitter. Must not reject. */
  readonly ask: (server: ModelServer<S>, memory: M) => Promise<number>;
  /** Lets go of what the asker kept of a server that is no longer asked. */
  readonly forget?: (server: ModelServer<S>, memory: M) => void;
}

/** Intervals vary by this share up and down, so that routers and servers do not fall into step. */
const jitterShare = 0.1;
/** Time after which it is noticed at the latest that endpoints came or went, in ms. */
const membershipMs = 100;

interface Entry<S, M> {
  readonly server: ModelServer<S> & { endpoints: readonly FleetEndpoint[] };
  readonly memory: M;
  readonly gone: AbortController;
  timer: NodeJS.Timeout | undefined;
}

interface Following<S, M> {
  readonly asked: AskedPool<S>;
  /** The pool's endpoints when last looked at: replaced when any comes or goes. */
  endpoints: readonly FleetEndpoint[];
  readonly byHostPort: Map<string, Entry<S, M>>;
}

/**
 * Asks the model servers of pools again and again, each at its own pace and never again before it has answered, and follows the pools as
 * endpoints come and go.
 */
export class ServerRounds<S extends { readonly port?: number | undefined }, M> {
  readonly #options: RoundsOptions<S, M>;
  readonly #pools = new Map<string, Following<S, M>>();
  #membership: NodeJS.Timeout | undefined;
  #isRunning = false;
  /** Servers of the first round that have not answered. */
  readonly #unasked = new Set<Entry<S, M>>();
  readonly #firstRound = Promise.withResolvers<undefined>();

  constructor(options: RoundsOptions<S, M>) {
    this.#options = options;
  }

  /** Begins to ask. */
  start(): void {
    this.#isRunning = true;
    this.follow(this.#options.pools);
    for (const { byHostPort } of this.#pools.values()) for (const entry of byHostPort.values()) this.#unasked.add(entry);
    this.#settleFirstRound();
    this.#membership = setInterval(() => this.#look(), membershipMs);
  }

  /** Asks the servers of these pools from now on. Those that were asked before, in the same way, go on as if nothing had happened. */
  follow(pools: readonly AskedPool<S>[]): void {
    if (!this.#isRunning) return;
    const named = new Map(pools.map((asked) => [asked.pool.name, asked]));
    for (const [name, { asked, byHostPort }] of this.#pools) {
      const now = named.get(name);
      if (now?.pool === asked.pool && isDeepStrictEqual(now.settings, asked.settings)) continue;
      for (const entry of byHostPort.values()) this.#end(entry);
      this.#pools.delete(name);
    }
    for (const [name, asked] of named) {
      if (!this.#pools.has(name)) this.#pools.set(name, { asked, endpoints: [], byHostPort: new Map() });
    }
    this.#look();
  }

  /** Resolves when each server that was there at the start was asked once; also when asking has stopped before that. */
  firstRound(): Promise<void> {
    return this.#firstRound.promise;
  }

  /** Ends at once; questions under way are broken off. */
  stop(): void {
    this.#isRunning = false;
    clearInterval(this.#membership);
    for (const { byHostPort } of this.#pools.values()) for (const entry of byHostPort.values()) this.#end(entry);
    this.#pools.clear();
    this.#firstRound.resolve(undefined);
  }

  /** Finds out which servers came and went. */
  #look(): void {
    for (const following of this.#pools.values()) {
      const { asked, endpoints, byHostPort } = following;
      if (asked.pool.endpoints === endpoints) continue;
      following.endpoints = asked.pool.endpoints;
      const servers = Map.groupBy(following.endpoints, ({ address }) => toHostPort(address));
      for (const [hostPort, entry] of byHostPort) {
        const behind = servers.get(hostPort);
        if (behind === undefined) {
          this.#end(entry);
          byHostPort.delete(hostPort);
        } else {
          entry.server.endpoints = behind;
          servers.delete(hostPort);
        }
      }
      // The rest have come.
      for (const [hostPort, behind] of servers) byHostPort.set(hostPort, this.#begin(asked, hostPort, behind, servers.size));
    }
  }

  #begin({ pool, settings }: AskedPool<S>, hostPort: string, endpoints: readonly FleetEndpoint[], servers: number): Entry<S, M> {
    const { rng, spreadMs, remember } = this.#options;
    const gone = new AbortController();
    const colon = hostPort.lastIndexOf(':');
    const host = hostPort.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
    const port = settings.port ?? Number(hostPort.slice(colon + 1));
    const server = { pool, settings, hostPort, host, port, endpoints, signal: gone.signal };
    const entry: Entry<S, M> = { server, memory: remember(server), gone, timer: undefined };
    this.#askAfter(entry, rng.draw() * spreadMs(settings, servers));
    return entry;
  }

  #end(entry: Entry<S, M>): void {
    clearTimeout(entry.timer);
    entry.gone.abort();
    this.#options.forget?.(entry.server, entry.memory);
    this.#unasked.delete(entry);
    this.#settleFirstRound();
  }

  #askAfter(entry: Entry<S, M>, delayMs: number): void {
    entry.timer = setTimeout(() => void this.#ask(entry), delayMs);
  }

  async #ask(entry: Entry<S, M>): Promise<void> {
    const { clock, rng, ask } = this.#options;
    const startedMs = clock.nowMs();
    const periodMs = await ask(entry.server, entry.memory);
    this.#unasked.delete(entry);
    this.#settleFirstRound();
    if (entry.gone.signal.aborted) return;
    const nextMs = startedMs + periodMs * (1 - jitterShare + 2 * jitterShare * rng.draw());
    this.#askAfter(entry, Math.max(0, nextMs - clock.nowMs()));
  }

  #settleFirstRound(): void {
    if (this.#unasked.size === 0) this.#firstRound.resolve(undefined);
  }
}
