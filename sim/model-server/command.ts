import { Command, InvalidArgumentError, Option } from 'commander';
import { type EngineProfileName, engineProfiles } from '../engine/engine-profiles.ts';
import { type EngineMetricsKind, engineMetricsKinds } from './engine-metrics.ts';
import { type ModelServer, type ModelServerGroup, startModelServer } from './model-server.ts';

const portsMax = 100;

interface SimServerOptions {
  readonly ports: readonly number[];
  readonly host: string;
  readonly profile: EngineProfileName;
  readonly model?: string;
  readonly metrics: EngineMetricsKind;
  readonly timeScale: number;
  readonly startupMs: number;
  readonly slowFactor: number;
}

/** Reads `18001-18005,18010`: ports and ranges, each port once. */
export function parsePorts(text: string): number[] {
  const ports = new Set<number>();
  for (const part of text.split(',')) {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part.trim());
    const first = Number(match?.[1]);
    const last = Number(match?.[2] ?? match?.[1]);
    // Also false where nothing matched and both are NaN.
    if (!(first >= 1 && last <= 65_535 && first <= last)) {
      throw new InvalidArgumentError(`"${part}" is neither a port (1 to 65535) nor a range such as 18001-18005.`);
    }
    if (ports.size + last - first >= portsMax) throw new InvalidArgumentError(`At most ${portsMax} ports.`);
    for (let port = first; port <= last; port += 1) ports.add(port);
  }
  return [...ports];
}

function parseFactor(text: string): number {
  const factor = Number(text);
  if (text.trim() === '' || !(factor > 0 && factor <= 10_000)) throw new InvalidArgumentError('A number above 0, up to 10000.');
  return factor;
}

function parseMilliseconds(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('A whole number of milliseconds.');
  return Number(text);
}

function cannotListen(error: unknown, host: string, port: number): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  switch (code) {
    case 'EADDRINUSE':
      return `port ${port} on ${host} is taken: stop what listens there, or choose other --ports`;
    case 'EACCES':
      return `port ${port} on ${host} needs more rights: choose --ports above 1023`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `${host} is no address of this machine: choose another --host`;
    default:
      return `cannot listen on ${host} port ${port}: ${String(error)}`;
  }
}

/** `fairlead sim-server`: simulated model servers, one per port, until SIGTERM or SIGINT. */
export function modelServerCommand(): Command {
  return new Command('sim-server')
    .description('Run simulated model servers (no model, no GPU) for demos and tests.')
    .addOption(new Option('--ports <ports>', 'where to listen, for example 18001-18005 or 18001,18010').argParser(parsePorts).makeOptionMandatory())
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .addOption(new Option('--profile <name>', 'speed and memory').choices(Object.keys(engineProfiles)).default('demo'))
    .addOption(new Option('--metrics <kind>', 'whose metrics to serve').choices(engineMetricsKinds).default('vllm'))
    .option('--model <name>', 'the only model served (default: every model name is taken)')
    .addOption(new Option('--time-scale <x>', 'run x times faster').argParser(parseFactor).default(1))
    .addOption(new Option('--startup-ms <n>', 'milliseconds before the servers are ready').argParser(parseMilliseconds).default(0))
    .addOption(new Option('--slow-factor <f>', 'be f times slower than the profile').argParser(parseFactor).default(1))
    .addHelpText(
      'after',
      [
        '',
        'Each server speaks the OpenAI and Anthropic APIs at /v1, /metrics under the names of vLLM or --metrics, /health, and /echo; / lists all.',
        'POST /_sim switches faults while it runs, for example {"mode":"fail"} or {"port":18002,"mode":"refuse"};',
        'whoever reaches a port can do that, so leave --host on loopback where strangers could.',
      ].join('\n'),
    )
    .action(async (options: SimServerOptions, command: Command) => {
      const stopped = Promise.withResolvers<string>();
      // Once: a second signal ends the process the hard way.
      process.once('SIGTERM', stopped.resolve);
      process.once('SIGINT', stopped.resolve);

      process.stdout.write(`SIMULATED model servers: no model, no GPU (profile ${options.profile})\n`);
      const group: ModelServerGroup = new Map();
      const servers: ModelServer[] = [];
      const { host, profile, timeScale, startupMs, slowFactor, model, metrics } = options;
      for (const port of options.ports) {
        try {
          const server = await startModelServer({
            host, port, profile, timeScale, startupMs, group, metrics,
            switches: { slowFactor },
            ...(model === undefined ? {} : { model }),
          });
          servers.push(server);
          process.stdout.write(`listening on ${server.url}\n`);
        } catch (error) {
          await Promise.all(servers.map((server) => server.close()));
          command.error(`error: ${cannotListen(error, host, port)}`, { exitCode: 1, code: 'fairlead.cannot-listen' });
        }
      }
      await stopped.promise;
      await Promise.all(servers.map((server) => server.close()));
    });
}
