import { writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { CompiledConfig, LoadOutcome } from '../src/config/load-outcome.ts';
import { loadConfigFile } from '../src/config/load.ts';
import { describeProblems } from '../src/config/problem.ts';
import { SeededRng } from './clock/seeded-rng.ts';
import { type EngineProfile, engineProfiles } from './engine/engine-profiles.ts';
import { formatSimulatedExplanation } from './explanation.ts';
import { measuredRedis } from './network/network-model.ts';
import { Progress } from './progress.ts';
import { type ReportedRun, toHtml } from './report/html.ts';
import { toJsonLine } from './report/json.ts';
import { summarise } from './report/summary.ts';
import { formatMs, formatTable } from './report/table.ts';
import { applyScenarios, type ScenarioName, scenarios } from './scenarios.ts';
import type { EndpointModel } from './simulated-endpoint.ts';
import { presetNames, simulatedAddresses, simulatedPool, withPreset } from './simulated-fleet.ts';
import type { Sharing } from './simulated-router.ts';
import { type HidableFact, simulate, type SimulationOptions, undisturbed } from './simulation.ts';
import { sliceWorkload, spreadArrivals } from './workloads/adjustments.ts';
import { generators } from './workloads/generated.ts';
import { readWorkload, traceFormats, type TraceFormat, tracesFolder } from './workloads/trace-source.ts';
import type { Workload } from './workloads/workload.ts';

const endpointsMax = 10_000;
const routersMax = 256;
/** The policy name that stands for what a configuration itself says. */
const configured = 'configured';

type Hidden = HidableFact | 'kv-size';

interface SimulateOptions {
  readonly trace: string;
  readonly format?: TraceFormat;
  readonly config?: string;
  readonly policy?: readonly string[];
  readonly endpoints?: number;
  readonly speed: number;
  readonly routers: number;
  readonly seed: number;
  readonly profile: readonly ProfileChoice[];
  readonly scenario: readonly ScenarioName[];
  readonly sharing: Sharing;
  readonly arrivals: 'recorded' | 'spread';
  readonly slice: { readonly from: number; readonly to: number };
  readonly requests?: number;
  readonly hide: readonly Hidden[];
  readonly objectiveMs: number;
  readonly explain?: number;
  readonly json?: boolean;
  readonly html?: string;
}

/** Which endpoints run on a profile: those with a label, or all. */
interface ProfileChoice {
  readonly label: { readonly name: string; readonly value: string } | undefined;
  readonly profile: EngineProfile;
}

/** `fairlead simulate`: what each policy would do with a workload, in virtual time. */
export function simulateCommand(projectRoot: string): Command {
  return new Command('simulate')
    .description('Show what policies would do with a workload: real routing code, modelled model servers, virtual time.')
    .requiredOption('--trace <file>', `a trace or log (may be gzipped), the name of one in $FAIRLEAD_TRACES, or generated:NAME`)
    .addOption(new Option('--format <name>', 'format of the trace (default: found out)').choices(Object.keys(traceFormats)))
    .option('-c, --config <file>', 'run the pools, policies and routes of a configuration file')
    .option('--policy <names>', `policies to compare, by preset name, comma-separated or repeated (default: round-robin,sticky; with --config its own, "${configured}")`, collectNames)
    .option('--endpoints <n>', 'model servers (default: 10; with --config those it lists)', countUpTo(endpointsMax))
    .option('--speed <x>', 'requests arrive so many times faster', parseFactor, 1)
    .option('--routers <n>', 'routers that share the requests', countUpTo(routersMax), 1)
    .option('--seed <n>', 'seed of all chance', parseSeed, 1)
    .addOption(
      new Option('--profile <profile>', `speed and memory of the servers: ${Object.keys(engineProfiles).join(', ')}; LABEL=VALUE:PROFILE for those with a label`)
        .argParser(collectProfiles)
        .default([], 'dynamo-mocker'),
    )
    .addOption(
      new Option('--scenario <names>', `what goes wrong: ${Object.keys(scenarios).join(', ')}; comma-separated or repeated`).argParser(collectScenarios).default([], 'nothing'),
    )
    .addOption(new Option('--sharing <how>', 'what several routers tell one another').choices(['pushed', 'snapshots', 'none']).default('pushed'))
    .addOption(new Option('--arrivals <how>', 'recorded: as the trace stamps them; spread: those of one stamp over the time until the next').choices(['recorded', 'spread']).default('recorded'))
    .addOption(new Option('--slice <from-to>', 'part of the workload by its time, such as 0-25%').argParser(parseSlice).default({ from: 0, to: 1 }, 'all'))
    .option('--requests <n>', 'at most so many requests (generated: so many)', countUpTo(10_000_000))
    .addOption(new Option('--hide <facts>', 'what routers are not to know: session, prefix, promptTokens, kv-size').argParser(collectHidden).default([], 'nothing'))
    .option('--objective-ms <n>', 'time to first token that counts as good', parseFactor, 2_000)
    .option('--explain <request>', "explain the decision on one request, by its place in the workload (from 0), instead of the run's figures", parseIndex)
    .option('--json', 'one line of JSON for each policy')
    .option('--html <file>', 'also write a page with plots')
    .addHelpText('after', help())
    .action(async (options: SimulateOptions, command: Command) => {
      const fail = (message: string): never => command.error(`error: ${message}`, { exitCode: 1, code: 'fairlead.cannot-simulate' });
      await run(options, projectRoot, fail);
    });
}

async function run(options: SimulateOptions, projectRoot: string, fail: (message: string) => never): Promise<void> {
  const { speed, routers, seed } = options;
  const workload = prepareWorkload(options, projectRoot, fail);
  if (options.explain !== undefined && options.explain >= workload.requests.length) {
    fail(`there is no request ${options.explain}: the workload has ${workload.requests.length}, counted from 0`);
  }
  const file = options.config === undefined ? undefined : load(loadConfigFile(options.config), options.config, fail);
  const durationMs = (workload.requests.at(-1)?.arrivalMs ?? 0) / speed;
  const fleet = applyScenarios(options.scenario, { endpoints: toEndpoints(options, file, fail), network: measuredRedis, durationMs });
  const policies = options.policy ?? (file === undefined ? ['round-robin', 'sticky'] : [configured]);

  const reported: ReportedRun[] = [];
  let violated = false;
  for (const policy of policies) {
    const config = toConfig(policy, file, fleet.endpoints, options, fail);
    const progress = new Progress(process.stderr, `${policy}, ${workload.requests.length} requests`);
    const simulation: SimulationOptions = {
      ...undisturbed,
      config,
      endpoints: fleet.endpoints,
      workload,
      speed,
      routers,
      seed,
      sharing: options.sharing,
      network: fleet.network,
      faults: fleet.faults,
      estimateError: fleet.estimateError,
      hidden: new Set(options.hide.filter((fact) => fact !== 'kv-size')),
      explained: options.explain,
      onProgress: (share) => progress.show(share),
    };
    const result = await simulate(simulation);
    progress.end();
    const summary = summarise(result, { policy, speed, routers, objectiveMs: options.objectiveMs });
    reported.push({ summary, requests: result.requests, samples: result.samples, addresses: result.endpoints.map(({ address }) => address) });
    if (options.json === true) process.stdout.write(`${toJsonLine(summary)}\n`);
    if (result.explanation !== undefined) process.stdout.write(`policy ${policy}, request ${options.explain ?? 0}\n${formatSimulatedExplanation(result.explanation)}\n`);
    if (result.violationCount > 0) {
      violated = true;
      const lines = result.violations.map(({ rule, atMs, message }) => `  ${(atMs / 1_000).toFixed(3)} s ${rule}: ${message}`);
      process.stderr.write(`${policy}: ${result.violationCount} violations of what must never happen (a bug: please report it with this command)\n${lines.join('\n')}\n`);
    }
  }

  const settings = describeSettings(options, workload, fleet.endpoints);
  if (options.json !== true && options.explain === undefined) {
    process.stdout.write(`${settings.map(([name, value]) => `${name}: ${value}`).join('\n')}\n`);
    for (const assumption of workload.assumptions) process.stdout.write(`assumed: ${assumption}\n`);
    process.stdout.write(`\n${formatTable(reported.map(({ summary }) => summary), options.objectiveMs)}`);
  }
  if (options.html !== undefined) {
    const title = `Fairlead simulation: ${workload.name}`;
    try {
      writeFileSync(options.html, toHtml({ title, settings, assumptions: workload.assumptions, objectiveMs: options.objectiveMs, runs: reported }));
    } catch (error) {
      fail(`the page cannot be written: ${(error as Error).message}`);
    }
  }
  if (violated) process.exitCode = 1;
}

function prepareWorkload(options: SimulateOptions, projectRoot: string, fail: (message: string) => never): Workload {
  const { trace, format, seed, slice, requests = Infinity, arrivals } = options;
  const source = readWorkload({ trace, format, folder: tracesFolder(projectRoot), seed, requestsMax: options.requests });
  if (!source.ok) return fail(source.message);
  const sliced = sliceWorkload(source.workload, { ...slice, requestsMax: requests });
  if (sliced.requests.length === 0) return fail(`--slice leaves no request of ${source.workload.requests.length}`);
  return arrivals === 'spread' ? spreadArrivals(sliced, new SeededRng(seed, 'spread')) : sliced;
}

function toEndpoints({ endpoints, profile }: SimulateOptions, file: CompiledConfig | undefined, fail: (message: string) => never): EndpointModel[] {
  const everywhere = profile.findLast(({ label }) => label === undefined)?.profile ?? engineProfiles['dynamo-mocker'];
  const labelled = profile.filter(({ label }) => label !== undefined);
  if (file === undefined) {
    if (labelled.length > 0) fail('--profile LABEL=VALUE:PROFILE needs a --config whose endpoints have labels');
    return simulatedAddresses(endpoints ?? 10).map((address) => ({ address, profile: everywhere, slowFactor: 1 }));
  }
  if (endpoints !== undefined) fail('--endpoints goes with generated fleets; with --config the endpoints are those it lists');
  const models = new Map<string, EndpointModel>();
  for (const { endpoints: configuredEndpoints } of file.pools) {
    for (const { address, labels } of configuredEndpoints) {
      const own = labelled.findLast(({ label }) => label !== undefined && labels[label.name] === label.value)?.profile;
      models.set(address, { address, profile: own ?? everywhere, slowFactor: 1 });
    }
  }
  return [...models.values()];
}

function toConfig(
  policy: string,
  file: CompiledConfig | undefined,
  endpoints: readonly EndpointModel[],
  { seed, hide }: SimulateOptions,
  fail: (message: string) => never,
): CompiledConfig {
  if (policy === configured) return file ?? fail(`policy ${configured} is that of a --config`);
  if (!presetNames().includes(policy)) fail(`no policy is named ${policy}; expected some of: ${presetNames().join(', ')}${file === undefined ? '' : `, ${configured}`}`);
  if (file !== undefined) return load(withPreset(file, policy), policy, fail);
  return load(simulatedPool({ preset: policy, endpoints, tellKvSize: !hide.includes('kv-size'), seed }), policy, fail);
}

function load(outcome: LoadOutcome, name: string, fail: (message: string) => never): CompiledConfig {
  return outcome.ok ? outcome.config : fail(`${name} cannot be used:\n${describeProblems(outcome.problems)}`);
}

function describeSettings(options: SimulateOptions, workload: Workload, endpoints: readonly EndpointModel[]): [string, string][] {
  const { speed, routers, sharing, arrivals, seed, scenario, hide } = options;
  const durationMs = (workload.requests.at(-1)?.arrivalMs ?? 0) / speed;
  const profiles = [...new Set(endpoints.map(({ profile }) => profile.name))].join(', ');
  return [
    ['workload', `${workload.name}, ${workload.requests.length} requests in ${formatMs(durationMs)} at speed ${speed}${arrivals === 'spread' ? ', arrivals spread' : ''}`],
    ['fleet', `${endpoints.length} endpoints (${profiles}), ${routers} ${routers === 1 ? 'router' : `routers, sharing ${sharing}`}`],
    ...(scenario.length > 0 ? [['scenario', scenario.map((name) => scenarios[name].about).join('; ')] as [string, string]] : []),
    ...(hide.length > 0 ? [['hidden from routers', hide.join(', ')] as [string, string]] : []),
    ['seed', String(seed)],
  ];
}

function help(): string {
  return [
    '',
    'Workloads that are generated:',
    ...Object.entries(generators).map(([name, { about }]) => `  generated:${name.padEnd(16)} ${about}`),
    '',
    'Scenarios:',
    ...Object.entries(scenarios).map(([name, { about }]) => `  ${name.padEnd(26)} ${about}`),
    '',
    'Examples:',
    '  fairlead simulate --trace generated:multi-turn',
    '  fairlead simulate --trace mooncake-conversation --endpoints 10 --speed 8 --policy round-robin,sticky --json',
    '  fairlead simulate --config fairlead.yaml --trace access.log --policy configured,sticky --html report.html',
    '  fairlead simulate --trace generated:agents --policy sticky --explain 120',
    '',
    'Equal arguments give equal results. Figures are of modelled engines: they tell policies apart, not what your servers will do to the',
    'millisecond. A run that breaks a rule (a leaked reservation, a request to an endpoint that is not ready) ends with exit code 1.',
  ].join('\n');
}

function collectNames(text: string, before: readonly string[] | undefined): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.some((name) => name === '')) throw new InvalidArgumentError('Names, comma-separated.');
  return [...new Set([...(before ?? []), ...names])];
}

function collectScenarios(text: string, before: readonly ScenarioName[]): readonly ScenarioName[] {
  return [...before, ...collectNames(text, undefined).map((name) => {
    if (!Object.hasOwn(scenarios, name)) throw new InvalidArgumentError(`"${name}" is none of: ${Object.keys(scenarios).join(', ')}.`);
    return name as ScenarioName;
  })];
}

const hidable: readonly Hidden[] = ['session', 'prefix', 'promptTokens', 'kv-size'];

function collectHidden(text: string, before: readonly Hidden[]): readonly Hidden[] {
  return [...before, ...collectNames(text, undefined).map((name) => {
    const fact = hidable.find((known) => known === name);
    if (fact === undefined) throw new InvalidArgumentError(`"${name}" is none of: ${hidable.join(', ')}.`);
    return fact;
  })];
}

function collectProfiles(text: string, before: readonly ProfileChoice[]): readonly ProfileChoice[] {
  const match = /^(?:([^=:]+)=([^:]+):)?([^:=]+)$/.exec(text);
  const name = match?.[3] ?? '';
  if (!Object.hasOwn(engineProfiles, name)) {
    throw new InvalidArgumentError(`Expected PROFILE or LABEL=VALUE:PROFILE, with a profile of: ${Object.keys(engineProfiles).join(', ')}.`);
  }
  const profile = engineProfiles[name as keyof typeof engineProfiles];
  const [, label, value] = match ?? [];
  return [...before, { label: label === undefined || value === undefined ? undefined : { name: label, value }, profile }];
}

function countUpTo(max: number): (text: string) => number {
  return (text) => {
    const count = Number(text);
    if (!/^\d+$/.test(text) || count < 1 || count > max) throw new InvalidArgumentError(`A whole number from 1 to ${max}.`);
    return count;
  };
}

function parseFactor(text: string): number {
  const factor = Number(text);
  if (text.trim() === '' || !(factor > 0 && factor <= 1_000_000)) throw new InvalidArgumentError('A number above 0, up to 1000000.');
  return factor;
}

function parseSeed(text: string): number {
  const seed = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(seed)) throw new InvalidArgumentError('A whole number, at least 0.');
  return seed;
}

function parseIndex(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('A whole number: the place of a request in the workload, from 0.');
  return Number(text);
}

function parseSlice(text: string): { from: number; to: number } {
  const match = /^(\d+(?:\.\d+)?)%?-(\d+(?:\.\d+)?)%$/.exec(text);
  const from = Number(match?.[1]) / 100;
  const to = Number(match?.[2]) / 100;
  if (!(from >= 0 && from < to && to <= 1)) throw new InvalidArgumentError('Two percentages, such as 0-25% or 50-100%.');
  return { from, to };
}
