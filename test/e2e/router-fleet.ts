import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { type RedisProcess, startRedis } from '../../lab/redis-process.ts';
import type { FleetReport } from '../../src/admin/fleet-report.ts';
import { HttpClient } from './http-client.ts';
import type { RunningParts } from './running-parts.ts';

/** A model server that keeps requests to `…/hold` until they are let go, and counts what it has in its hands. */
export interface HoldingServer {
  readonly address: string;
  readonly inFlight: number;
  /** Most in flight at a time since the last `resetPeak`. */
  readonly peak: number;
  resetPeak(): void;
  /** Answers all that are held. */
  letGo(): void;
  stop(): Promise<void>;
}

export async function startHoldingServer(): Promise<HoldingServer> {
  const held = new Set<ServerResponse>();
  let inFlight = 0;
  let peak = 0;
  const server = createServer((request, response) => {
    inFlight += 1;
    peak = Math.max(peak, inFlight);
    response.once('close', () => {
      inFlight -= 1;
      held.delete(response);
    });
    response.setHeader('x-served-by', address);
    request.resume();
    request.once('end', () => {
      if (request.url?.endsWith('/hold') === true) held.add(response);
      else response.end('done');
    });
  });
  // Envoy closes idle connections first.
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    address,
    get inFlight() {
      return inFlight;
    },
    get peak() {
      return peak;
    },
    resetPeak: () => {
      peak = inFlight;
    },
    letGo: () => {
      for (const response of held) response.end('let go');
      held.clear();
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Pools of a fleet under test; requests find them by the first part of their path. */
export type PoolName = 'chat' | 'held' | 'capped';

/** Several routers behind one Envoy that also sends its access log to all of them. */
export interface RouterFleet {
  readonly envoy: EnvoyProcess;
  readonly client: HttpClient;
  readonly routers: readonly FairleadProcess[];
  readonly servers: Readonly<Record<PoolName, readonly HoldingServer[]>>;
}

export interface RouterFleetOptions {
  readonly state: Readonly<Record<string, unknown>>;
  readonly routers?: number;
  readonly slackRequests?: number;
  readonly serverCounts?: Partial<Record<PoolName, number>>;
}

/** Requests in flight that each endpoint of pool `capped` may have. */
export const cappedRequestsMax = 5;

export async function startRouterFleet(parts: RunningParts, options: RouterFleetOptions): Promise<RouterFleet> {
  const { state, routers = 3, slackRequests = 6, serverCounts = {} } = options;
  const startServers = (count: number): Promise<HoldingServer[]> => Promise.all(Array.from({ length: count }, () => parts.add(startHoldingServer())));
  const servers = {
    chat: await startServers(serverCounts.chat ?? 4),
    held: await startServers(serverCounts.held ?? 2),
    capped: await startServers(serverCounts.capped ?? 2),
  };
  const endpoints = (pool: PoolName, limits = {}): object[] => servers[pool].map(({ address }) => ({ address, limits }));
  const config = {
    state,
    affinity: { secret: 'the same in all routers of this test' },
    pools: [
      { name: 'chat', policy: { preset: 'session-affinity', parameters: { slackRequests } }, endpoints: endpoints('chat') },
      // The default policy waits for the first token of each, as it would of a model at work.
      { name: 'held', endpoints: endpoints('held') },
      { name: 'capped', policy: { preset: 'least-requests' }, endpoints: endpoints('capped', { requests: cappedRequestsMax }) },
    ],
    routes: (['held', 'capped', 'chat'] as const).map((pool) => ({ match: { path: `/${pool}/*` }, targets: [{ pool }] })),
  };
  const running = await Promise.all(Array.from({ length: routers }, () => parts.add(startFairlead(config))));
  const clusters = Object.fromEntries((['chat', 'held', 'capped'] as const).map((pool) => [pool, servers[pool].map(({ address }) => address)]));
  const envoy = await parts.add(
    startEnvoy({
      // What a busy machine does to 200 ms is not the question here; how long decisions take is measured.
      config: renderEnvoyConfig({ clusters, fairlead: running.map(({ address }) => address), messageTimeoutMs: 10_000 }),
      concurrency: 2,
    }),
  );
  const client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 700, 60_000)));
  return { envoy, client, routers: running, servers };
}

/** The fleet as one router sees it. */
export async function readReport(router: FairleadProcess): Promise<FleetReport> {
  return JSON.parse((await router.get('/api/v1/fleet')).text) as FleetReport;
}

/** Throws unless each router hears its own words and knows exactly these routers. */
export async function expectAcquainted(routers: readonly FairleadProcess[]): Promise<void> {
  const reports = await Promise.all(routers.map(readReport));
  const ids = reports.map(({ router }) => router.id).sort();
  for (const { sharing, routers: known } of reports) {
    expect(sharing.connected).toBe(true);
    expect(known.map(({ id }) => id).sort()).toEqual(ids);
  }
}

/** Requests of all routers in flight in a pool, as each router sees it. */
export async function readFleetInFlight(routers: readonly FairleadProcess[], pool: PoolName): Promise<number[]> {
  return Promise.all(
    routers.map(async (router) => {
      const { pools } = await readReport(router);
      return pools.filter(({ name }) => name === pool).reduce((sum, { endpoints }) => sum + endpoints.reduce((inPool, endpoint) => inPool + endpoint.fleetRequestsInFlight, 0), 0);
    }),
  );
}

/** What a router says of its shared state in `/readyz`, with the status of the page. */
export async function readReadiness(router: FairleadProcess): Promise<{ status: number; state: string }> {
  const { status, text } = await router.get('/readyz');
  const { parts } = JSON.parse(text) as { parts: { name: string; reason?: string }[] };
  return { status, state: parts.find(({ name }) => name === 'state')?.reason ?? '' };
}

/** One metric summed over routers. */
export async function sumMetric(routers: readonly FairleadProcess[], name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  return (await Promise.all(routers.map((router) => router.metric(name, labels)))).reduce((sum, value) => sum + value, 0);
}

/** A Redis that can be replaced by a new one on the same port. */
export class ReplaceableRedis {
  #current: RedisProcess;

  private constructor(first: RedisProcess) {
    this.#current = first;
  }

  static async start(args: readonly string[] = [], port?: number): Promise<ReplaceableRedis> {
    return new ReplaceableRedis(await startRedis(args, port));
  }

  get url(): string {
    return this.#current.url;
  }

  get port(): number {
    return this.#current.port;
  }

  signal(signal: NodeJS.Signals): void {
    this.#current.signal(signal);
  }

  /** Ends the server; the port stays known. */
  async stop(): Promise<void> {
    await this.#current.stop();
  }

  /** Starts an empty one where the last one was. */
  async restart(args: readonly string[] = []): Promise<void> {
    this.#current = await startRedis(args, this.port);
  }
}
