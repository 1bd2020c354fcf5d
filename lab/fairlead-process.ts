import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { stringify } from 'yaml';
import { type RunningChild, runFairlead } from './child-process.ts';

/** The answer of `/api/v1/fleet`, as far as the lab reads it. */
export interface FleetAnswer {
  readonly router: { readonly id: string };
  readonly pools: readonly {
    readonly name: string;
    readonly endpoints: readonly {
      readonly address: string;
      readonly state: string;
      readonly requestsInFlight: number;
      readonly promptTokensInFlight: number;
      readonly uncachedTokensWaiting: number;
      readonly fleetRequestsInFlight: number;
    }[];
  }[];
}

/** A running `fairlead serve`. */
export interface FairleadProcess {
  readonly pid: number;
  readonly grpcPort: number;
  /** Of all workers; where there is one, the same as `grpcPort`. */
  readonly grpcPorts: readonly number[];
  readonly adminPort: number;
  /** `127.0.0.1:PORT` of the gRPC port. */
  readonly address: string;
  fleet(): Promise<FleetAnswer>;
  /** Sum over all endpoints of this router's own requests in flight. */
  requestsInFlight(): Promise<number>;
  /** One metric summed over all series whose labels include `labels`; 0 where there is none. */
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
  get(pathname: string): Promise<{ status: number; text: string }>;
  /** Changes something by the admin API; rejects unless it answers 200. */
  put(pathname: string, change: unknown): Promise<void>;
  /** Sends any other change; resolves with whatever the admin API answers. */
  send(method: 'POST' | 'DELETE', pathname: string, change?: unknown): Promise<{ status: number; json: unknown }>;
  /** Folder of its configuration; files that this names may be put there. */
  readonly folder: string;
  /** Replaces its configuration, in one step, by another one or by any text. It takes it up when it notices, or is told to. */
  rewrite(config: Readonly<Record<string, unknown>> | string): Promise<void>;
  log(): string;
  signal(signal: NodeJS.Signals): void;
  readonly ended: Promise<number | NodeJS.Signals>;
  stop(): Promise<void>;
}

/**
 * Starts `bin/fairlead serve` on a configuration. Where it names no ports, free ones are taken; the drain is short unless
 * configured. `nodeOptions`: for its Node, beside those that this process was told to hand on.
 */
export async function startFairlead(config: Readonly<Record<string, unknown>>, nodeOptions: readonly string[] = []): Promise<FairleadProcess> {
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-config-'));
  const file = path.join(folder, 'fairlead.yaml');
  const write = async (written: Readonly<Record<string, unknown>> | string): Promise<void> => {
    const whole = { listen: { grpc: '127.0.0.1:0', admin: '127.0.0.1:0' }, drain: { readinessDelayMs: 0, deadlineMs: 5_000 } };
    await writeFile(`${file}.new`, typeof written === 'string' ? written : stringify({ ...whole, ...written }));
    await rename(`${file}.new`, file);
  };
  await write(config);
  const child: RunningChild = runFairlead(['serve', '--config', file], { NODE_OPTIONS: [process.env['NODE_OPTIONS'] ?? [], nodeOptions].flat().join(' ') });
  const cleanUp = (): Promise<void> => rm(folder, { recursive: true, force: true });
  let ports: Ports;
  try {
    ports = await child.waitForLine(readServing);
  } catch (error) {
    await child.stop();
    throw error;
  } finally {
    // It is watched as long as it runs.
    void child.ended.then(cleanUp);
  }
  const get = async (pathname: string): Promise<{ status: number; text: string }> => {
    const response = await fetch(`http://127.0.0.1:${ports.adminPort}${pathname}`, { signal: AbortSignal.timeout(10_000) });
    return { status: response.status, text: await response.text() };
  };
  const put = async (pathname: string, change: unknown): Promise<void> => {
    const response = await fetch(`http://127.0.0.1:${ports.adminPort}${pathname}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(change),
      signal: AbortSignal.timeout(10_000),
    });
    const text = await response.text();
    if (response.status !== 200) throw new Error(`PUT ${pathname}: ${response.status} ${text}`);
  };
  const fleet = async (): Promise<FleetAnswer> => JSON.parse((await get('/api/v1/fleet')).text) as FleetAnswer;
  return {
    pid: child.pid,
    ...ports,
    address: `127.0.0.1:${ports.grpcPort}`,
    get,
    put,
    send: async (method, pathname, change) => {
      const response = await fetch(`http://127.0.0.1:${ports.adminPort}${pathname}`, {
        method,
        headers: { 'content-type': 'application/json' },
        ...(change !== undefined && { body: JSON.stringify(change) }),
        signal: AbortSignal.timeout(10_000),
      });
      return { status: response.status, json: await response.json() };
    },
    folder,
    rewrite: write,
    fleet,
    requestsInFlight: async () =>
      (await fleet()).pools.reduce((sum, pool) => sum + pool.endpoints.reduce((inPool, { requestsInFlight }) => inPool + requestsInFlight, 0), 0),
    metric: async (name, labels = {}) => sumMetric((await get('/metrics')).text, name, labels),
    log: () => child.log(),
    signal: (signal) => child.signal(signal),
    ended: child.ended,
    stop: async () => {
      await child.stop();
    },
  };
}

type Ports = Pick<FairleadProcess, 'grpcPort' | 'grpcPorts' | 'adminPort'>;

function readServing(line: string): Ports | undefined {
  if (!line.includes('"msg":"serving"')) return undefined;
  const { grpcPort, grpcPorts = [grpcPort], adminPort } = JSON.parse(line) as Omit<Ports, 'grpcPorts'> & Partial<Ports>;
  return { grpcPort, grpcPorts, adminPort };
}

function sumMetric(text: string, name: string, labels: Readonly<Record<string, string>>): number {
  let sum = 0;
  for (const line of text.split('\n')) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)$/.exec(line);
    if (match?.[1] !== name) continue;
    const written = match[2] ?? '';
    if (Object.entries(labels).every(([key, value]) => written.includes(`${key}="${value}"`))) sum += Number(match[3]);
  }
  return sum;
}
