// `npm run bench`: what Fairlead costs a request, beside an empty external processor in Go and one in Node, all behind real Envoys on this
// machine. docs/performance.md says how to read it.
import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { endChildrenOnSignal, projectRoot } from '../../lab/child-process.ts';
import { envoyBinary } from '../../lab/envoy-process.ts';
import { readLoadAverage } from '../../lab/process-usage.ts';
import { startRedis } from '../../lab/redis-process.ts';
import { describeMachine, resultsFolder, writeResults } from '../result-file.ts';
import { type BenchCase, cases, limits } from './cases.ts';
import { buildGoBaseline } from './go-baseline.ts';
import { createLoadGenerator, hasWrk, type LoadGeneratorName } from './load.ts';
import { type CaseResult, measureCase } from './measure.ts';
import { type ProcessorName, processorNames } from './processors.ts';
import { failuresOf, formatCases, formatLegend, formatVerdicts, judge } from './report.ts';
import { startUpstream } from './upstream.ts';

const page = path.join(projectRoot, 'docs/performance.md');

interface Options {
  readonly cases?: readonly BenchCase[];
  readonly processors: readonly ProcessorName[];
  readonly repeats?: number;
  readonly seconds?: number;
  readonly connections: number;
  readonly load?: LoadGeneratorName;
  readonly latency: boolean;
  readonly quick: boolean;
  readonly check: boolean;
  readonly profile?: string;
  readonly out?: string;
}

function parseNames<T extends string>(known: readonly T[]): (text: string) => T[] {
  return (text) =>
    text.split(',').map((name) => {
      const found = known.find((one) => one === name);
      if (found === undefined) throw new InvalidArgumentError(`Known are: ${known.join(', ')}.`);
      return found;
    });
}

function parseCases(text: string): BenchCase[] {
  const names = parseNames(cases.map(({ name }) => name))(text);
  return cases.filter(({ name }) => names.includes(name));
}

function parseNumber(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('A number above 0.');
  return value;
}

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const firstLine = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: 'utf8' }).trim().split('\n')[0] ?? '';

/** Puts the tables of the run where docs/performance.md has those of the last one. */
async function showOnPage(text: string): Promise<void> {
  const before = await readFile(page, 'utf8');
  const after = before.replace(/(<!-- bench:begin .*-->\n)[^]*(<!-- bench:end -->)/, (_whole, begin: string, end: string) => `${begin}\n${text}\n\n${end}`);
  if (after === before) throw new Error(`${page} has no place for the tables`);
  await writeFile(page, after);
}

async function main(options: Options): Promise<void> {
  if (process.platform !== 'linux') throw new Error('CPU time is read from /proc, which only Linux has');
  const chosen = options.cases ?? cases.filter(({ quick }) => quick || !options.quick);
  const load = options.load ?? (hasWrk() ? 'wrk' : 'node');
  if (load === 'node') say('wrk is not used (Debian: apt-get install wrk): the load generator in Node takes much of this machine, so rates are low.');
  let processors = options.processors;
  const go = processors.includes('go') ? buildGoBaseline() : undefined;
  if (go !== undefined && 'missing' in go) {
    say(`The Go baseline is left out: ${go.missing}.`);
    processors = processors.filter((name) => name !== 'go');
  }
  const repeats = options.repeats ?? (options.quick ? 3 : 5);
  // Latencies of single runs differ by more than what is asked of their medians.
  const latencyRepeats = options.quick ? repeats : 3 * repeats;
  const runMs = (options.seconds ?? (options.quick ? 2 : 3)) * 1_000;
  const machine = {
    ...describeMachine(),
    envoy: /\/(\d+\.\d+\.\d+)\//.exec(firstLine(envoyBinary(), '--version'))?.[1] ?? '?',
    go: go !== undefined && 'file' in go ? (/go\d\S*/.exec(firstLine('go', 'version'))?.[0] ?? '?') : undefined,
    loadAverageBefore: readLoadAverage(),
  };
  const how = `${machine.cpus} × ${machine.model}, Node ${machine.node}, Envoy ${machine.envoy} (1 worker), ${machine.go ?? 'no Go'}, load by ${load}, ${options.connections} connections, ${repeats} × ${runMs / 1_000} s each (latency ${latencyRepeats} ×), load average before: ${machine.loadAverageBefore}`;
  say(how);

  // Each process that runs beside this one is ended with it.
  process.setMaxListeners(50);
  const results: CaseResult[] = [];
  const redis = await startRedis();
  try {
    const upstream = await startUpstream(Math.max(...chosen.map(({ endpoints }) => endpoints)));
    try {
      const bench = {
        generator: createLoadGenerator(load),
        processors,
        repeats,
        latencyRepeats,
        runMs,
        warmUp: { requests: 30_000, seconds: options.quick ? 10 : 15 },
        connections: options.connections,
        upstream: upstream.endpoints,
        redisUrl: redis.url,
        goBinary: go !== undefined && 'file' in go ? go.file : undefined,
        measureLatency: options.latency,
        say,
      };
      for (const benchCase of chosen) {
        say(`${benchCase.name}: ${benchCase.about}`);
        const profileFolder = options.profile === undefined ? undefined : path.resolve(options.profile, benchCase.name);
        const result = await measureCase(benchCase, { ...bench, profileFolder });
        results.push(result);
        say(formatCases([result]));
      }
    } finally {
      await upstream.stop();
    }
  } finally {
    await redis.stop();
  }

  const verdicts = judge(results, options.latency);
  const failures = failuresOf(results);
  const text = [
    how,
    '',
    formatVerdicts(verdicts),
    '',
    failures.length === 0 ? 'No request failed.' : `Requests failed: ${failures.join(', ')}`,
    '',
    formatCases(results),
    '',
    formatLegend(results),
  ].join('\n');
  say(`\n${text}`);
  const out = path.resolve(options.out ?? resultsFolder);
  // Worth keeping where it shows whether the limits hold.
  const partial = options.quick || options.profile !== undefined || !limits.every(({ caseName }) => chosen.some(({ name }) => name === caseName));
  if (!partial || options.out !== undefined) {
    await writeResults(path.join(out, 'hot-path.json'), { machine, load, repeats, latencyRepeats, runMs, connections: options.connections, verdicts, results });
    await writeFile(path.join(out, 'hot-path.md'), `${text}\n`);
  }
  if (!partial && options.out === undefined) await showOnPage(text);
  if (options.check && (failures.length > 0 || verdicts.some(({ holds }) => !holds))) process.exitCode = 1;
}

endChildrenOnSignal();
await new Command('npm run bench --')
  .description('CPU per request, added latency, throughput and memory of Fairlead beside empty external processors in Go and in Node.')
  .addOption(new Option('--cases <names>', `some cases only, of: ${cases.map(({ name }) => name).join(', ')}`).argParser(parseCases))
  .addOption(
    new Option('--processors <names>', `of: ${processorNames.join(', ')}; fairlead runs its default transport`)
      .argParser(parseNames(processorNames))
      .default(['fairlead', 'go', 'grpc-js'] satisfies ProcessorName[], 'fairlead,go,grpc-js'),
  )
  .addOption(new Option('--repeats <count>', 'rounds; each runs every processor once; of latency three times as many, with --quick as many (default: 5, with --quick 3)').argParser(parseNumber))
  .addOption(new Option('--seconds <count>', 'length of one run (default: 3, with --quick 2)').argParser(parseNumber))
  .addOption(new Option('--connections <count>', 'clients at once').argParser(parseNumber).default(32))
  .addOption(new Option('--load <generator>', 'default: wrk where it is installed').choices(['wrk', 'node']))
  .option('--no-latency', 'leave latencies out')
  .option('--quick', 'the most telling cases, fewer and shorter runs; some minutes', false)
  .option('--check', 'exit with 1 where a limit is missed or a request failed', false)
  .option('--profile <folder>', 'have Fairlead write CPU profiles there; slows it down')
  .option('--out <folder>', 'where results are written (default: bench/results, for runs of all cases that have limits)')
  .action(main)
  .parseAsync();
