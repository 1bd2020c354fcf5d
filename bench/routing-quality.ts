// `npm run bench:routing [-- --policies a,b --routers N --arrivals spread]`: policies on the public Mooncake traces in the eight cells that
// NVIDIA Dynamo's own replay is known of, beside its figures and the bound. Needs the traces ($FAIRLEAD_TRACES or ../shared/traces).
// `-- --check [--seeds 1,2,3]`: holds `sticky` against its limits in all cells, with one router and with eight, and ends with 1 where one is missed.
import path from 'node:path';
import { Command } from 'commander';
import { SeededRng } from '../sim/clock/seeded-rng.ts';
import { engineProfiles } from '../sim/engine/engine-profiles.ts';
import { type RunSummary, summarise } from '../sim/report/summary.ts';
import { presetNames, simulatedAddresses, simulatedPool } from '../sim/simulated-fleet.ts';
import { simulate, undisturbed } from '../sim/simulation.ts';
import { spreadArrivals } from '../sim/workloads/adjustments.ts';
import { readWorkload, tracesFolder } from '../sim/workloads/trace-source.ts';

/**
 * Mean and p99 of the time to first token in ms, by cell: Dynamo's own replay (its kv_router with the best setting seen), and one pooled cache
 * dealt greedily. `shareMax`: the most that `sticky` may have of round robin's mean.
 */
const cells = [
  { trace: 'conversation', endpoints: 4, speed: 1, dynamo: '401/1863', best: '342/1796', bound: '316/1773', shareMax: 0.72 },
  { trace: 'conversation', endpoints: 10, speed: 1, dynamo: '216/1559', best: '193/1527', bound: '186/1523', shareMax: 0.74 },
  { trace: 'conversation', endpoints: 4, speed: 4, dynamo: '823/2910', best: '631/2518', bound: '432/2047', shareMax: 0.32 },
  { trace: 'conversation', endpoints: 10, speed: 8, dynamo: '414/1881', best: '262/1661', bound: '215/1593', shareMax: 0.35 },
  { trace: 'synthetic', endpoints: 4, speed: 1, dynamo: '167/1114', best: '151/1111', bound: '139/1098', shareMax: 0.53 },
  { trace: 'synthetic', endpoints: 10, speed: 1, dynamo: '133/1044', best: '128/1043', bound: '123/1043', shareMax: 0.48 },
  { trace: 'synthetic', endpoints: 4, speed: 4, dynamo: '538/2306', best: '328/1906', bound: '231/1729', shareMax: 0.04 },
  { trace: 'synthetic', endpoints: 10, speed: 8, dynamo: '239/1216', best: '172/1103', bound: '139/1092', shareMax: 0.09 },
] as const;

const values = new Command('npm run bench:routing --')
  .description("Time to first token of policies on the public Mooncake traces, in the eight cells that NVIDIA Dynamo's own replay is known of.")
  .option('--policies <names>', 'which to compare', 'round-robin,least-requests,least-tokens,session-affinity,prefix-affinity,sticky')
  .option('--routers <count>', 'routers that share the requests', '1')
  .option('--arrivals <kind>', 'stamps as recorded, many of them identical, or spread', 'recorded')
  .option('--seed <number>', 'of chance', '1')
  .option('--check', 'hold sticky against its limits instead, with one router and with eight; exit with 1 where one is missed', false)
  .option('--seeds <numbers>', 'with --check: averaged over', '1,2,3')
  .parse()
  .opts<{ policies: string; routers: string; arrivals: string; seed: string; check: boolean; seeds: string }>();
const policies = values.policies.split(',');
const routers = Number(values.routers);
const seed = Number(values.seed);
const arrivals = values.arrivals === 'spread' ? 'spread' : 'recorded';
const unknown = policies.filter((policy) => !presetNames().includes(policy));
if (unknown.length > 0 || !(routers >= 1) || !(seed >= 0)) {
  process.stderr.write(`expected --policies of ${presetNames().join(', ')}; --routers and --seed as whole numbers\n`);
  process.exit(2);
}

type Cell = (typeof cells)[number];
type Arrivals = 'recorded' | 'spread';

async function run(policy: string, { trace, endpoints, speed }: Cell, { routers, arrivals, seed }: { routers: number; arrivals: Arrivals; seed: number }): Promise<RunSummary> {
  const folder = tracesFolder(path.resolve(import.meta.dirname, '..'));
  const source = readWorkload({ trace: `mooncake-${trace}`, format: undefined, folder, seed, requestsMax: undefined });
  if (!source.ok) throw new Error(source.message);
  const models = simulatedAddresses(endpoints).map((address) => ({ address, profile: engineProfiles['dynamo-mocker'], slowFactor: 1 }));
  const pool = simulatedPool({ preset: policy, endpoints: models, tellKvSize: true, seed });
  if (!pool.ok) throw new Error(JSON.stringify(pool.problems));
  const workload = arrivals === 'spread' ? spreadArrivals(source.workload, new SeededRng(seed, 'spread')) : source.workload;
  const result = await simulate({
    ...undisturbed,
    config: pool.config,
    endpoints: models,
    workload,
    speed,
    routers,
    seed,
  });
  return summarise(result, { policy, speed, routers, objectiveMs: 2_000 });
}

function printTable(rows: readonly (readonly string[])[]): void {
  const widths = rows[0]?.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0))) ?? [];
  const print = (row: readonly string[]): boolean => process.stdout.write(`| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |\n`);
  rows.forEach((row, i) => {
    print(row);
    if (i === 0) print(widths.map((width) => '-'.repeat(width)));
  });
}

const nameOf = ({ trace, endpoints, speed }: Cell): string => `${trace.slice(0, 4)} ${endpoints}, ${speed}x`;

async function compare(): Promise<void> {
  const rows: string[][] = [['policy', ...cells.map(nameOf)]];
  const means = new Map<string, number[]>();
  for (const policy of policies) {
    const summaries: RunSummary[] = [];
    for (const [i, cell] of cells.entries()) {
      process.stderr.write(`${policy}: cell ${i + 1} of ${cells.length}\n`);
      summaries.push(await run(policy, cell, { routers, arrivals, seed }));
    }
    means.set(policy, summaries.map(({ ttftMs }) => ttftMs.mean));
    rows.push([policy, ...summaries.map(({ ttftMs }) => `${ttftMs.mean.toFixed(0)}/${ttftMs.p99.toFixed(0)}`)]);
    rows.push(['- its reuse', ...summaries.map(({ reuse }) => reuse.toFixed(3))]);
    const base = means.get('round-robin');
    if (base !== undefined && policy !== 'round-robin') rows.push(['- of round-robin', ...summaries.map(({ ttftMs }, i) => (ttftMs.mean / (base[i] ?? NaN)).toFixed(3))]);
  }
  rows.push(['Dynamo kv_router, default', ...cells.map(({ dynamo }) => dynamo)]);
  rows.push(['Dynamo kv_router, best seen', ...cells.map(({ best }) => best)]);
  rows.push(['bound: one pooled cache', ...cells.map(({ bound }) => bound)]);
  process.stdout.write(`TTFT in ms, mean/p99; ${routers} ${routers === 1 ? 'router' : 'routers'}, arrivals ${arrivals}, seed ${seed}\n`);
  printTable(rows);
}

/** What has to hold in each cell, on average over the seeds: how well one seed does hangs on chance by some percent. */
async function check(seeds: readonly number[]): Promise<boolean> {
  const rows: string[][] = [['cell', 'of round-robin', 'p99 of best', '8 of 1, spread', '8 of 1, identical', '']];
  let holds = true;
  for (const cell of cells) {
    process.stderr.write(`${nameOf(cell)}\n`);
    const meanOver = async (measure: (seed: number) => Promise<number>): Promise<number> => {
      let sum = 0;
      for (const seed of seeds) sum += await measure(seed);
      return sum / seeds.length;
    };
    const sticky = (routers: number, arrivals: Arrivals) => async (seed: number) => (await run('sticky', cell, { routers, arrivals, seed })).ttftMs;
    const mean = (routers: number, arrivals: Arrivals): Promise<number> => meanOver(async (seed) => (await sticky(routers, arrivals)(seed)).mean);
    const one = await mean(1, 'recorded');
    const share = one / (await meanOver(async (seed) => (await run('round-robin', cell, { routers: 1, arrivals: 'recorded', seed })).ttftMs.mean));
    const p99 = (await meanOver(async (seed) => (await sticky(1, 'recorded')(seed)).p99)) / Number(cell.best.split('/')[1]);
    const spread = (await mean(8, 'spread')) / (await mean(1, 'spread'));
    const identical = (await mean(8, 'recorded')) / one;
    const passes = share <= cell.shareMax && p99 <= 1.02 && spread <= 1.05 && identical <= 1.45;
    holds &&= passes;
    rows.push([nameOf(cell), `${share.toFixed(3)} <= ${cell.shareMax}`, `${p99.toFixed(3)} <= 1.02`, `${spread.toFixed(3)} <= 1.05`, `${identical.toFixed(3)} <= 1.45`, passes ? 'PASS' : 'MISS']);
  }
  process.stdout.write(`sticky, mean TTFT (p99 where it says so), average of seeds ${seeds.join(', ')}\n`);
  printTable(rows);
  return holds;
}

if (!values.check) await compare();
else if (!(await check(values.seeds.split(',').map(Number)))) process.exitCode = 1;
