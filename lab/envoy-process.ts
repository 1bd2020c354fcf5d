// Starts real Envoys on the shipped configuration, for the end-to-end tests, the demo and the deployment checks.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const envoyFolder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../envoy');
const startupMsDefault = 20_000;
const stopMsMax = 5_000;
const logCharsMax = 256 * 1024;

/** The configurations that ship under `envoy/`. */
export type ShippedConfig = 'envoy.yaml' | 'envoy-inference-gateway.yaml';

/** How Envoy sends a body to the processor (`envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.BodySendMode`). */
export type BodyMode = 'NONE' | 'BUFFERED' | 'BUFFERED_PARTIAL' | 'STREAMED' | 'FULL_DUPLEX_STREAMED';

/** What a test changes in a shipped configuration. Whatever is left out stays as shipped, except that ports become free ones. */
export interface EnvoyOptions {
  /** Which file; default `envoy.yaml`. */
  readonly file?: ShippedConfig;
  /** Address the LLM listener binds; default 127.0.0.1. */
  readonly listenHost?: string;
  /** Port of the LLM listener; default 0: any free one, see {@link EnvoyProcess.listenerPort}. */
  readonly listenerPort?: number;
  /**
   * Pool clusters, name → `host:port` of each endpoint (IPv6 in brackets). Replaces the shipped `chat`; every cluster keeps its settings.
   * Default: `chat` as shipped.
   */
  readonly clusters?: Readonly<Record<string, readonly string[]>>;
  /** `host:port` of each Fairlead worker. */
  readonly fairlead?: readonly string[];
  /** Request body mode. `FULL_DUPLEX_STREAMED` also sends the trailers, as Envoy demands. */
  readonly bodyMode?: BodyMode;
  /** Response body mode, likewise. */
  readonly responseBodyMode?: BodyMode;
  /** Whether response headers go to the processor. Default: as shipped, but on with `FULL_DUPLEX_STREAMED` responses. */
  readonly responseHeaders?: boolean;
  /** The runtime guard `ext_proc_graceful_grpc_close`. */
  readonly gracefulClose?: boolean;
  readonly failureModeAllow?: boolean;
  readonly allowModeOverride?: boolean;
  readonly messageTimeoutMs?: number;
  /** Size of a body that Envoy holds for the processor, in bytes. Up to 1 MiB, with bodies asked for by mode_override, larger ones hang. */
  readonly bodyBytesMax?: number;
  /** Takes the strip of clients' routing headers out: only to show what it prevents. */
  readonly strip?: boolean;
  /** Takes the access-log service out: the gateway that does not report. */
  readonly accessLog?: boolean;
  /**
   * Adds a route with this prefix on which ext_proc is disabled. `cluster` is its fixed cluster; without one the route follows the
   * cluster header like the shipped route.
   */
  readonly noExtProc?: { readonly prefix?: string; readonly cluster?: string };
  /**
   * Stands for the gateway's own logic that narrows a pool: this request header, written by {@link encodeSubsetHint}, becomes the dynamic
   * metadata `envoy.lb.subset_hint` / `x-gateway-destination-endpoint-subset`, which `envoy-inference-gateway.yaml` forwards.
   */
  readonly subsetHeader?: string;
}

/** A bootstrap, as far as this file reads it; everything else passes through. */
export interface EnvoyConfig {
  [key: string]: unknown;
  admin: { address: Address };
  layered_runtime?: { layers: { name: string; static_layer: Record<string, unknown> }[] };
  static_resources: { listeners: Listener[]; clusters: Cluster[] };
}

interface Address {
  socket_address: { address: string; port_value: number };
}
interface Listener {
  name: string;
  address: Address;
  filter_chains: { filters: { name: string; typed_config: HttpConnectionManager }[] }[];
}
interface TypedExtension {
  name: string;
  typed_config: Record<string, unknown>;
}
interface HttpConnectionManager {
  [key: string]: unknown;
  early_header_mutation_extensions?: TypedExtension[];
  http_filters: TypedExtension[];
  access_log?: TypedExtension[];
  route_config: { virtual_hosts: { request_body_buffer_limit?: number; routes: Route[] }[] };
}
interface Route {
  name: string;
  match: { prefix: string };
  route: Record<string, unknown>;
  typed_per_filter_config?: Record<string, Record<string, unknown>>;
}
interface Cluster {
  [key: string]: unknown;
  name: string;
  load_assignment: { cluster_name: string; endpoints: { lb_endpoints: { endpoint: { address: Address } }[] }[] };
}

const extProcName = 'envoy.filters.http.ext_proc';
const fairleadCluster = 'fairlead';
const gracefulCloseGuard = 'envoy.reloadable_features.ext_proc_graceful_grpc_close';

/** Reads a shipped configuration and applies the options to it. Throws when the file lacks a part that an option changes. */
export function renderEnvoyConfig(options: EnvoyOptions = {}): EnvoyConfig {
  const file = path.join(envoyFolder, options.file ?? 'envoy.yaml');
  const config = parse(readFileSync(file, 'utf8')) as EnvoyConfig;
  config.admin.address.socket_address.port_value = 0;

  const listener = first(config.static_resources.listeners, 'listener');
  listener.address.socket_address.port_value = options.listenerPort ?? 0;
  if (options.listenHost !== undefined) listener.address.socket_address.address = options.listenHost;
  const manager = first(first(listener.filter_chains, 'filter chain').filters, 'network filter').typed_config;

  applyClusters(config, options);
  applyExtProc(manager, options);
  applyRoutes(manager, options);

  if (options.gracefulClose !== undefined) {
    config.layered_runtime = { layers: [{ name: fairleadCluster, static_layer: { [gracefulCloseGuard]: options.gracefulClose } }] };
  }
  if (options.strip === false) delete manager.early_header_mutation_extensions;
  if (options.accessLog === false) delete manager.access_log;
  if (options.subsetHeader !== undefined) manager.http_filters.unshift(subsetHintFilter(options.subsetHeader));
  return config;
}

function applyClusters(config: EnvoyConfig, options: EnvoyOptions): void {
  const { clusters } = config.static_resources;
  const fairlead = clusters.find((cluster) => cluster.name === fairleadCluster) ?? missing(`cluster ${fairleadCluster}`);
  if (options.fairlead !== undefined) setEndpoints(fairlead, options.fairlead);
  if (options.clusters === undefined) return;
  const model = clusters.find((cluster) => cluster.name !== fairleadCluster) ?? missing('pool cluster');
  const pools = Object.entries(options.clusters).map(([name, endpoints]) => {
    const pool = structuredClone(model);
    pool.name = name;
    setEndpoints(pool, endpoints);
    return pool;
  });
  config.static_resources.clusters = [...pools, fairlead];
}

function setEndpoints(cluster: Cluster, endpoints: readonly string[]): void {
  cluster.load_assignment = {
    cluster_name: cluster.name,
    endpoints: [{ lb_endpoints: endpoints.map((endpoint) => ({ endpoint: { address: toAddress(endpoint) } })) }],
  };
}

function toAddress(endpoint: string): Address {
  const colon = endpoint.lastIndexOf(':');
  const host = endpoint.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  const port = Number(endpoint.slice(colon + 1));
  if (colon < 1 || !Number.isInteger(port) || port < 1 || port > 65_535) throw new Error(`not host:port: ${endpoint}`);
  return { socket_address: { address: host, port_value: port } };
}

function applyExtProc(manager: HttpConnectionManager, options: EnvoyOptions): void {
  const filter = manager.http_filters.find((candidate) => candidate.name === extProcName)?.typed_config ?? missing(extProcName);
  const mode = filter['processing_mode'] as Record<string, unknown>;
  if (options.bodyMode !== undefined) {
    mode['request_body_mode'] = options.bodyMode;
    mode['request_trailer_mode'] = options.bodyMode === 'FULL_DUPLEX_STREAMED' ? 'SEND' : 'SKIP';
  }
  if (options.responseBodyMode !== undefined) {
    const duplex = options.responseBodyMode === 'FULL_DUPLEX_STREAMED';
    mode['response_body_mode'] = options.responseBodyMode;
    mode['response_trailer_mode'] = duplex ? 'SEND' : 'SKIP';
    if (duplex) mode['response_header_mode'] = 'SEND';
  }
  if (options.responseHeaders !== undefined) mode['response_header_mode'] = options.responseHeaders ? 'SEND' : 'SKIP';
  if (options.failureModeAllow !== undefined) filter['failure_mode_allow'] = options.failureModeAllow;
  if (options.allowModeOverride !== undefined) filter['allow_mode_override'] = options.allowModeOverride;
  if (options.messageTimeoutMs !== undefined) filter['message_timeout'] = `${options.messageTimeoutMs / 1000}s`;
}

function applyRoutes(manager: HttpConnectionManager, options: EnvoyOptions): void {
  const host = first(manager.route_config.virtual_hosts, 'virtual host');
  if (options.bodyBytesMax !== undefined) host.request_body_buffer_limit = options.bodyBytesMax;
  if (options.noExtProc === undefined) return;
  const route = structuredClone(first(host.routes, 'route'));
  route.name = 'no-extproc';
  route.match = { prefix: options.noExtProc.prefix ?? '/no-extproc' };
  if (options.noExtProc.cluster !== undefined) {
    delete route.route['cluster_header'];
    route.route['cluster'] = options.noExtProc.cluster;
  }
  route.typed_per_filter_config = {
    ...route.typed_per_filter_config,
    [extProcName]: { '@type': 'type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute', disabled: true },
  };
  host.routes.unshift(route);
}

function subsetHintFilter(header: string): TypedExtension {
  return {
    name: 'envoy.filters.http.header_to_metadata',
    typed_config: {
      '@type': 'type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config',
      request_rules: [
        {
          header,
          on_header_present: {
            metadata_namespace: 'envoy.lb.subset_hint',
            key: 'x-gateway-destination-endpoint-subset',
            type: 'PROTOBUF_VALUE',
            encode: 'BASE64',
          },
          remove: true,
        },
      ],
    },
  };
}

/** The value of {@link EnvoyOptions.subsetHeader} for a list of `ip:port`: a base64 `google.protobuf.Value` that holds that list. */
export function encodeSubsetHint(endpoints: readonly string[]): string {
  // Value.string_value is field 3, Value.list_value field 6, ListValue.values field 1; all length-delimited.
  const values = endpoints.map((endpoint) => lengthDelimited(1, lengthDelimited(3, Buffer.from(endpoint))));
  return lengthDelimited(6, Buffer.concat(values)).toString('base64');
}

function lengthDelimited(field: number, bytes: Buffer): Buffer {
  const head = [(field << 3) | 2];
  for (let rest = bytes.length; ; rest >>>= 7) {
    if (rest < 0x80) {
      head.push(rest);
      return Buffer.concat([Buffer.from(head), bytes]);
    }
    head.push((rest & 0x7f) | 0x80);
  }
}

function first<T>(items: readonly T[], what: string): T {
  return items[0] ?? missing(what);
}

function missing(what: string): never {
  throw new Error(`the shipped Envoy configuration has no ${what}`);
}

/** What {@link startEnvoy} starts. */
export interface EnvoyStart {
  /** A rendered configuration, or the path of a YAML or JSON file, which is used as it stands but for `ports`. */
  readonly config: string | EnvoyConfig;
  /** Ports to exchange wherever the configuration names a socket address: port written there → port to use. */
  readonly ports?: Readonly<Record<number, number>>;
  /** Worker threads; default 1. */
  readonly concurrency?: number;
  /** Default `warning`. */
  readonly logLevel?: 'trace' | 'debug' | 'info' | 'warning' | 'error';
  /** Time for Envoy to become ready, in ms. */
  readonly startupMsMax?: number;
}

/** A running Envoy. */
export interface EnvoyProcess {
  readonly pid: number;
  readonly adminPort: number;
  /** The port a listener is bound to; without a name, the first listener's. */
  listenerPort(name?: string): number;
  /** `http://127.0.0.1:PORT` of the first listener. */
  readonly url: string;
  /** Counters and gauges whose name matches `filter` (a regular expression); without one, all. */
  stats(filter?: string): Promise<Record<string, number>>;
  /** One page of the admin interface, as text; rejects on a status other than 200. */
  admin(pathAndQuery: string, method?: 'GET' | 'POST'): Promise<string>;
  /** What Envoy logged so far (its end, when long). */
  log(): string;
  /** Resolves when the process has ended and its files are gone. May be called again. */
  stop(): Promise<void>;
}

/** The Envoy that `$ENVOY_BIN` names (`npm run …` sets it). Throws when it is not set or not there. */
export function envoyBinary(): string {
  const file = process.env['ENVOY_BIN'];
  if (file === undefined || file === '') throw new Error('ENVOY_BIN is not set: run through `npm test`, or name an Envoy binary');
  if (!existsSync(file)) throw new Error(`ENVOY_BIN is ${file}, which does not exist`);
  return file;
}

/**
 * Starts an Envoy and waits until it is ready: clusters checked once, listeners bound. Its admin interface listens on any free port.
 * Rejects with the log when Envoy ends or is not ready in time.
 */
export async function startEnvoy(start: EnvoyStart): Promise<EnvoyProcess> {
  const binary = envoyBinary();
  const config = await toConfig(start);
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-envoy-'));
  const configFile = path.join(folder, 'envoy.json');
  const addressFile = path.join(folder, 'admin-address');
  let child: ChildProcess;
  try {
    await writeFile(configFile, JSON.stringify(config, null, 1));
    const args = ['--config-path', configFile, '--admin-address-path', addressFile, '--concurrency', String(start.concurrency ?? 1)];
    // Without hot restart an Envoy needs no base id: any number of them run side by side.
    args.push(
      '--disable-hot-restart',
      '--log-level',
      start.logLevel ?? 'warning',
      '--service-cluster',
      'fairlead-test',
      '--service-node',
      'envoy',
    );
    child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }

  let log = '';
  const keep = (chunk: Buffer): void => {
    log = (log + chunk.toString('utf8')).slice(-logCharsMax);
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const end: { reason?: string } = {};
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      end.reason = `could not be started: ${error.message}`;
      resolve();
    });
    child.once('close', (code, signal) => {
      end.reason ??= `ended with ${signal ?? `exit code ${code ?? 0}`}`;
      resolve();
    });
  });
  // A test process that ends without stop() must leave nothing behind.
  const killAtExit = (): void => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  process.once('exit', killAtExit);

  const stop = async (): Promise<void> => {
    process.off('exit', killAtExit);
    if (end.reason === undefined) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), stopMsMax);
      await ended;
      clearTimeout(timer);
    }
    await rm(folder, { recursive: true, force: true });
  };

  try {
    const { adminPort, listeners } = await waitReady(addressFile, start.startupMsMax ?? startupMsDefault, end);
    const listenerPort = (name?: string): number => {
      const port = name === undefined ? listeners.values().next().value : listeners.get(name);
      if (port === undefined) throw new Error(`Envoy has no listener ${name ?? 'at all'}`);
      return port;
    };
    const admin = (pathAndQuery: string, method: 'GET' | 'POST' = 'GET'): Promise<string> => adminText(adminPort, pathAndQuery, method);
    return {
      pid: child.pid ?? missing('process'),
      adminPort,
      listenerPort,
      get url() {
        return `http://127.0.0.1:${listenerPort()}`;
      },
      admin,
      stats: async (filter) => parseStats(await admin(`/stats${filter === undefined ? '' : `?filter=${encodeURIComponent(filter)}`}`)),
      log: () => log,
      stop,
    };
  } catch (error) {
    await stop();
    throw new Error(`Envoy ${error instanceof Error ? error.message : String(error)}\n${log.slice(-8_000)}`, { cause: error });
  }
}

async function toConfig(start: EnvoyStart): Promise<EnvoyConfig> {
  const config =
    typeof start.config === 'string' ? (parse(await readFile(start.config, 'utf8')) as EnvoyConfig) : structuredClone(start.config);
  const exchange = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const [key, child] of Object.entries(value)) {
      if (key === 'port_value' && typeof child === 'number') (value as Record<string, unknown>)[key] = start.ports?.[child] ?? child;
      else exchange(child);
    }
  };
  exchange(config);
  // Read back from --admin-address-path, so two Envoys never want the same one.
  config.admin = { ...config.admin, address: { socket_address: { address: '127.0.0.1', port_value: 0 } } };
  return config;
}

async function waitReady(
  addressFile: string,
  startupMsMax: number,
  end: { readonly reason?: string },
): Promise<{ adminPort: number; listeners: Map<string, number> }> {
  const deadline = performance.now() + startupMsMax;
  let last = 'no admin address yet';
  while (performance.now() < deadline) {
    if (end.reason !== undefined) throw new Error(end.reason);
    const address = await readFile(addressFile, 'utf8').catch(() => '');
    const adminPort = Number(/:(\d+)\s*$/.exec(address)?.[1] ?? 0);
    if (adminPort > 0) {
      try {
        await adminText(adminPort, '/ready', 'GET');
        return { adminPort, listeners: parseListeners(await adminText(adminPort, '/listeners?format=json', 'GET')) };
      } catch (error) {
        last = error instanceof Error ? error.message : String(error);
      }
    }
    await sleep(20);
  }
  throw new Error(`was not ready after ${startupMsMax} ms (${last})`);
}

async function adminText(port: number, pathAndQuery: string, method: string): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}${pathAndQuery}`, { method, signal: AbortSignal.timeout(5_000) });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${method} ${pathAndQuery}: ${response.status} ${text.trim()}`);
  return text;
}

function parseListeners(json: string): Map<string, number> {
  const { listener_statuses = [] } = JSON.parse(json) as { listener_statuses?: { name: string; local_address: Address }[] };
  return new Map(listener_statuses.map((status) => [status.name, status.local_address.socket_address.port_value]));
}

/** Text stats are `name: value`; histograms and text readouts are not numbers and are left out. */
function parseStats(text: string): Record<string, number> {
  const stats: Record<string, number> = {};
  for (const line of text.split('\n')) {
    const match = /^(.+): (-?\d+)$/.exec(line);
    if (match?.[1] !== undefined) stats[match[1]] = Number(match[2]);
  }
  return stats;
}

const given = new Set<number>();

/**
 * `count` ports that are free on 127.0.0.1, each given out once in this process. They lie below the range from which the system takes
 * the ports of outgoing connections, so no connection can take one before its server binds it.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  for (let attempts = 0; ports.length < count; attempts += 1) {
    if (attempts > count + 500) throw new Error(`found only ${ports.length} of ${count} free ports`);
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    if (given.has(port) || !(await canBind(port))) continue;
    given.add(port);
    ports.push(port);
  }
  return ports;
}

function canBind(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}
