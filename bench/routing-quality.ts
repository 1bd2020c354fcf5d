// `npm run bench:routing [-- --policies a,b --routers N --arrivals spread]`: policies on the public Mooncake traces in the eight cells that
// NVIDIA Dynamo's own replay is known of, beside its figures and the bound. Needs the traces ($FAIRLEAD_TRACES or ../shared/traces).
import path from 'node:path';
import { parseArgs } from 'node:util';
import { SeededRng } from '../sim/clock/seeded-rng.ts';
import { engineProfiles } from '../sim/engine/engine-profiles.ts';
import { type RunSummary, summarise } from '../sim/report/summary.ts';
import { presetNames, simulatedAddresses, simulatedPool } from '../sim/simulated-fleet.ts';
import { simulate, undisturbed } from '../sim/simulation.ts';
import { spreadArrivals } from '../sim/workloads/adjustments.ts';
import { readWorkload, tracesFolder } from '../sim/workloads/trace-source.ts';

/** Mean and p99 of the time to first token in ms, by cell: Dynamo's own replay (its kv_router with the best setting seen), and one pooled cache dealt greedily. */
const cells = [
  { trace: 'conversation', endpoints: 4, speed: 1, dynamo: '401/1863', best: '342/1796', bound: '316/1773' },
  { trace: 'conversation', endpoints: 10, speed: 1, dynamo: '216/1559', best: '193/1527', bound: '186/1523' },
  { trace: 'conversation', endpoints: 4, speed: 4, dynamo: '823/2910', best: '631/2518', bound: '432/2047' },
  { trace: 'conversation', endpoints: 10, speed: 8, dynamo: '414/1881', best: '262/1661', bound: '215/1593' },
  { trace: 'synthetic', endpoints: 4, speed: 1, dynamo: '167/1114', best: '151/1111', bound: '139/1098' },
  { trace: 'synthetic', endpoints: 10, speed: 1, dynamo: '133/1044', best: '128/1043', bound: '123/1043' },
  { trace: 'synthetic', endpoints: 4, speed: 4, dynamo: '538/2306', best: '328/1906', bound: '231/1729' },
  { trace: 'synthetic', endpoints: 10, speed: 8, dynamo: '239/1216', best: '172/1103', bound: '139/1092' },
] as const;

const { values } = parseArgs({
  options: {
    policies: { type: 'string', default: 'round-robin,least-requests,least-tokens,session-affinity,prefix-affinity,sticky' },
    routers: { type: 'string', default: '1' },
    arrivals: { type: 'string', default: 'recorded' },
    seed: { type: 'string', default: '1' },
  },
});
const policies = values.policies.split(',');
const routers = Number(values.routers);
const seed = Number(values.seed);
const unknown = policies.filter((policy) => !presetNames().includes(policy));
if (unknown.length > 0 || !(routers >= 1) || !(seed >= 0)) {
  process.stderr.write(`expected --policies of ${presetNames().join(', ')}; --routers and --seed as whole numbers\n`);
  process.exit(2);
}

async function run(policy: string, { trace, endpoints, speed }: (typeof cells)[number]): Promise<RunSummary> {
  const folder = tracesFolder(path.resolve(import.meta.dirname, '..'));
  const source = readWorkload({ trace: `mooncake-${trace}`, format: undefined, folder, seed, requestsMax: undefined });
  if (!source.ok) throw new Error(source.message);
  const models = simulatedAddresses(endpoints).map((address) => ({ address, profile: engineProfiles['dynamo-mocker'], slowFactor: 1 }));
  const pool = simulatedPool({ preset: policy, endpoints: models, tellKvSize: true, seed });
  if (!pool.ok) throw new Error(JSON.stringify(pool.problems));
  const workload = values.arrivals === 'spread' ? spreadArrivals(source.workload, new SeededRng(seed, 'spread')) : source.workload;
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

const head = ['policy', ...cells.map(({ trace, endpoints, speed }) => `${trace.slice(0, 4)} ${endpoints}, ${speed}x`)];
const rows: string[][] = [];
const means = new Map<string, number[]>();
for (const policy of policies) {
  const summaries: RunSummary[] = [];
  for (const [i, cell] of cells.entries()) {
    process.stderr.write(`${policy}: cell ${i + 1} of ${cells.length}\n`);
    summaries.push(await run(policy, cell));
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
const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
const print = (row: readonly string[]): string => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |\n`;
process.stdout.write(`TTFT in ms, mean/p99; ${routers} ${routers === 1 ? 'router' : 'routers'}, arrivals ${values.arrivals}, seed ${seed}\n`);
process.stdout.write(print(head));
process.stdout.write(print(widths.map((width) => '-'.repeat(width))));
for (const row of rows) process.stdout.write(print(row));
