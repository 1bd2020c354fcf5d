import { Command } from 'commander';
import { stringify } from 'yaml';
import { loadConfigFile } from '../config/load.ts';
import { describeProblems } from '../config/problem.ts';
import { type Config, parseHostPort } from '../config/schema.ts';
import { toWorkerAddresses } from '../config/worker-addresses.ts';
import { type ClusterTls, createEnvoyCluster } from './envoy-cluster.ts';
import { parseWorkers, toWorkerCount, type WorkerCount } from './worker-count.ts';

interface Options {
  readonly config: string;
  readonly workers?: WorkerCount;
  readonly host?: readonly string[];
  readonly name: string;
  readonly tlsCa?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly json: boolean;
}

/** `fairlead envoy-snippet`: prints Envoy's cluster of Fairlead, with an endpoint for each worker. */
export function envoySnippetCommand(): Command {
  return new Command('envoy-snippet')
    .description("print Envoy's cluster of Fairlead for a configuration: an endpoint for each worker of each host, to paste under static_resources.clusters")
    .requiredOption('-c, --config <file>', 'configuration file (YAML)')
    .option('--workers <count>', 'workers of each host, or auto: as many as this machine would have (default: as configured)', parseWorkers)
    .option('--host <host...>', 'where Envoy reaches Fairlead, one or several (default: the host of listen.grpc)')
    .option('--name <name>', 'name of the cluster', 'fairlead')
    .option('--tls-ca <file>', "with listen.tls: the CA that Envoy is to trust, as Envoy's machine has it")
    .option('--tls-cert <file>', 'with listen.tls.clientCaFile: the certificate that Envoy shows')
    .option('--tls-key <file>', 'and its key')
    .option('--json', 'print JSON', false)
    .action((options: Options) => {
      const outcome = loadConfigFile(options.config);
      const snippet = outcome.ok ? createSnippet(outcome.config.settings, options) : `${options.config} cannot be used:\n${describeProblems(outcome.problems)}`;
      if (typeof snippet === 'string') {
        process.stderr.write(`fairlead: ${snippet}\n`);
        process.exitCode = 1;
        return;
      }
      process.stdout.write(options.json ? `${JSON.stringify(snippet, null, 2)}\n` : toYaml(snippet, options.name));
    });
}

/** The cluster, or why there is none. */
export function createSnippet({ listen, workers: configured }: Pick<Config, 'listen' | 'workers'>, options: Omit<Options, 'config' | 'json'>): Readonly<Record<string, unknown>> | string {
  const { workers = configured, host: hosts, name } = options;
  const addresses = toWorkerAddresses(listen, toWorkerCount(workers));
  if (typeof addresses === 'string') return `listen.grpc: ${addresses}`;
  const tls = toTls(listen, options);
  if (typeof tls === 'string') return tls;
  if (listen.grpc.startsWith('unix:')) {
    return hosts === undefined ? createEnvoyCluster({ name, endpoints: addresses, tls }) : '--host does not go with the Unix socket of listen.grpc';
  }
  const own = parseHostPort(listen.grpc);
  if (own?.port === 0) return 'listen.grpc has port 0, any free one: Envoy has to be told one';
  if (hosts === undefined && (own?.host === '0.0.0.0' || own?.host === '::')) return `listen.grpc is every address of its machine: name the one where Envoy reaches it, --host ADDRESS`;
  const ports = addresses.map((address) => parseHostPort(address)?.port ?? 0);
  const written = (hosts ?? [own?.host ?? '']).map((host) => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host));
  const endpoints = written.flatMap((host) => ports.map((port) => `${host}:${port}`));
  const wrong = endpoints.find((endpoint) => parseHostPort(endpoint) === undefined);
  return wrong === undefined ? createEnvoyCluster({ name, endpoints, tls }) : `--host: expected an address or a name without a port: ${wrong}`;
}

function toTls({ tls }: Config['listen'], { tlsCa: ca, tlsCert: cert, tlsKey: key }: Omit<Options, 'config' | 'json'>): ClusterTls | string | undefined {
  if (tls === undefined) return ca === undefined && cert === undefined && key === undefined ? undefined : '--tls-ca, --tls-cert and --tls-key go with listen.tls, which is not set';
  if (ca === undefined) return 'listen.tls is set: name the CA that Envoy is to trust, --tls-ca FILE';
  if (tls.clientCaFile === undefined) return { ca };
  if (cert === undefined || key === undefined) return 'listen.tls.clientCaFile is set: name the certificate that Envoy shows, --tls-cert FILE --tls-key FILE';
  return { ca, client: { cert, key } };
}

function toYaml(snippet: Readonly<Record<string, unknown>>, name: string): string {
  const head = [
    '# Fairlead: decisions and access logs, one endpoint for each worker. Made by `fairlead envoy-snippet`; goes under static_resources.clusters.',
    `# The ext_proc filter and the access log name it (grpc_service: { envoy_grpc: { cluster_name: ${name}, authority: ${name} } }), and retry on it, as in`,
    '# envoy/envoy.yaml: a stream that is lost before the first answer goes to another worker.',
  ];
  return `${head.join('\n')}\n${stringify([snippet], { lineWidth: 0 })}`;
}
