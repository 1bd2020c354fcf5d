// `npm run bench:redis`: what state shared through Redis costs on this machine, in bytes and CPU per request, for several numbers of
// routers and request rates; how late the others hear; and up to where pushing every event holds. Prints tables, writes
// bench/results/redis-cost.json.
//
// Each router is a process with the real router, fleet, exchange and Redis client, driven by a loop instead of gRPC (router-under-load.ts):
// Envoy's protocol costs the same with and without shared state, and on a small machine its client alone would leave no room for eight
// routers. A request is what it is in service, with first tokens observed: a decision, a first token, an end; three events. What sharing
// costs a router is the CPU of its process (user + system, as the operating system counts it) less that of the same load with state in
// memory; runs alternate: memory, redis, memory, redis. Delay is from `publish` in one process to its effect in another, by the machine's
// monotonic clock, in a run of its own.
import { type ChildProcess, fork } from 'node:child_process';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { endChildrenOnSignal } from '../lab/child-process.ts';
import { startRedis } from '../lab/redis-process.ts';
import { loadConfig } from '../src/config/load.ts';
import { describeMachine, resultsFolder, writeResults } from './result-file.ts';
import { type Order, probePool, type Reply } from './router-under-load.ts';
import { quantile } from './statistics.ts';

const folder = path.dirname(fileURLToPath(import.meta.url));
const warmUpMs = 1_500;
const endpoints = 10;
const eventsPerRequest = 3;
/** Share of a core that Redis may take before pushing every event is too much. */
const redisShareMax = 0.7;

const { values: given } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    routers: { type: 'string', default: '2,4,8' },
    rates: { type: 'string', default: '0,200,1000,4000' },
    out: { type: 'string', default: path.join(resultsFolder, 'redis-cost.json') },
  },
});
const measuredMs = Number(given.seconds) * 1_000;

/** Median push delay from which a row says more of the machine than of the exchange. */
const saturatedMs = 5;

/** What one run used. Sums over routers, per second. */
interface Run {
  readonly requestsPerSecond: number;
  readonly routerCpuUs: number;
  readonly redisCpuUs: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly commands: number;
  readonly dropped: number;
  readonly delaysMs: readonly number[];
}

/** One row: so many routers at so many requests a second over all of them. */
interface Row {
  readonly routers: number;
  readonly requestsPerSecond: number;
  /** Into and out of Redis, per second. */
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly commandsPerSecond: number;
  /** Shares of one core: Redis, and what sharing adds to each router. */
  readonly redisCores: number;
  readonly routerCores: number;
  /** The difference between the two pairs of runs, in the same unit: what is below it is noise. */
  readonly routerCoresSpread: number;
  readonly dropped: number;
  readonly pushDelayMs: { readonly p50: number; readonly p99: number; readonly samples: number };
}

function ask(child: ChildProcess, order: Order): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const fail = (code: number | null): void => reject(new Error(`a router ended with ${code ?? 'a signal'}`));
    child.once('exit', fail);
    child.once('message', (reply: Reply) => {
      child.off('exit', fail);
      if (reply.kind === 'failed') reject(new Error(reply.message));
      else resolve(reply);
    });
    child.send(order);
  });
}

async function readInfo(client: Redis): Promise<(name: string) => number> {
  const text = `${await client.info('stats')}\n${await client.info('cpu')}`;
  return (name) => Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(text)?.[1] ?? NaN);
}

async function run(children: readonly ChildProcess[], client: Redis, state: object, requestsPerSecond: number, probes: boolean): Promise<Run> {
  const pool = (name: string, count: number): object => ({ name, endpoints: Array.from({ length: count }, (_, i) => ({ address: `10.0.0.${i + 1}:8000` })) });
  // JSON is YAML.
  const config = JSON.stringify({ state, affinity: { secret: 'of the benchmark' }, pools: [pool('chat', endpoints), pool(probePool, 1)], routes: [{ targets: [{ pool: 'chat' }] }] });
  await client.flushall();
  await Promise.all(children.map((child, i) => ask(child, { kind: 'prepare', id: `bench-router-${i}-0123456789ab`, config, routers: children.length })));
  for (const child of children) child.send({ kind: 'load', requestsPerSecond: requestsPerSecond / children.length, probes } satisfies Order);
  await sleep(warmUpMs);
  for (const child of children) child.send({ kind: 'measure' } satisfies Order);
  const before = await readInfo(client);
  const startedMs = performance.now();
  await sleep(measuredMs);
  const after = await readInfo(client);
  const perSecond = 1_000 / (performance.now() - startedMs);
  const reports = (await Promise.all(children.map((child) => ask(child, { kind: 'report' })))).flatMap((reply) => (reply.kind === 'report' ? [reply] : []));
  const used = (...names: string[]): number => names.reduce((sum, name) => sum + after(name) - before(name), 0) * perSecond;
  const total = (of: (report: (typeof reports)[number]) => number): number => reports.reduce((sum, report) => sum + of(report), 0) * perSecond;
  return {
    requestsPerSecond: total(({ requests }) => requests),
    routerCpuUs: total(({ cpuUs }) => cpuUs),
    redisCpuUs: used('used_cpu_user', 'used_cpu_sys') * 1e6,
    bytesIn: used('total_net_input_bytes'),
    bytesOut: used('total_net_output_bytes'),
    commands: used('total_commands_processed'),
    dropped: total(({ dropped }) => dropped),
    delaysMs: reports.flatMap(({ delaysMs }) => delaysMs),
  };
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

async function measureRow(children: readonly ChildProcess[], client: Redis, redisState: object, requestsPerSecond: number): Promise<Row> {
  const memory: Run[] = [];
  const shared: Run[] = [];
  for (let pair = 0; pair < 2; pair += 1) {
    memory.push(await run(children, client, { kind: 'memory' }, requestsPerSecond, false));
    shared.push(await run(children, client, redisState, requestsPerSecond, false));
  }
  const { delaysMs } = await run(children, client, redisState, requestsPerSecond, true);
  const cores = shared.map(({ routerCpuUs }, pair) => (routerCpuUs - (memory[pair]?.routerCpuUs ?? NaN)) / 1e6 / children.length);
  const over = (of: (run: Run) => number): number => mean(shared.map(of));
  return {
    routers: children.length,
    requestsPerSecond: over((one) => one.requestsPerSecond),
    bytesIn: over(({ bytesIn }) => bytesIn),
    bytesOut: over(({ bytesOut }) => bytesOut),
    commandsPerSecond: over(({ commands }) => commands),
    redisCores: over(({ redisCpuUs }) => redisCpuUs) / 1e6,
    routerCores: mean(cores),
    routerCoresSpread: Math.abs((cores[0] ?? NaN) - (cores[1] ?? NaN)),
    dropped: over(({ dropped }) => dropped),
    pushDelayMs: { p50: quantile(delaysMs, 0.5), p99: quantile(delaysMs, 0.99), samples: delaysMs.length },
  };
}

const heads = ['routers', 'req/s', 'in B/req', 'out B/req', 'cmd/s', 'Redis us/req', 'Redis core', 'router us/req', 'router core', '(+-)', 'push p50', 'push p99 ms'];

function print(row: Row): string {
  const { requestsPerSecond: rate, routers } = row;
  const perRequest = (value: number): string => (rate < 1 ? '-' : value.toFixed(0));
  const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;
  return [
    String(routers),
    rate.toFixed(0),
    perRequest(row.bytesIn / rate),
    perRequest(row.bytesOut / rate),
    row.commandsPerSecond.toFixed(0),
    perRequest((row.redisCores * 1e6) / rate),
    percent(row.redisCores),
    // Of all routers together, for one request.
    perRequest((row.routerCores * routers * 1e6) / rate),
    percent(row.routerCores),
    percent(row.routerCoresSpread),
    row.pushDelayMs.p50.toFixed(1),
    row.pushDelayMs.p99.toFixed(1),
  ]
    .map((cell, i) => cell.padStart(heads[i]?.length ?? 0))
    .join('  ')
    .concat(isSaturated(row) ? '  saturated' : '');
}

/**
 * What Redis spends on one command by the number of routers that hear of it: a line through the rows, in microseconds. Commands, not
 * events, are what it costs: however many requests there are, a router sends no more than one message in a millisecond or two.
 */
function fitCommandUs(of: readonly Row[]): (routers: number) => number {
  const points = of.map(({ routers, redisCores, commandsPerSecond }) => [routers, (redisCores * 1e6) / commandsPerSecond] as const);
  const [x, y] = [mean(points.map(([n]) => n)), mean(points.map(([, us]) => us))];
  const spread = points.reduce((sum, [n]) => sum + (n - x) ** 2, 0);
  const slope = spread === 0 ? 0 : Math.max(0, points.reduce((sum, [n, us]) => sum + (n - x) * (us - y), 0) / spread);
  return (routers) => Math.max(0, y + slope * (routers - x));
}

/** The machine, not the exchange, was the limit: messages grow when timers are late, and look cheaper than they are. */
function isSaturated({ pushDelayMs, dropped }: Row): boolean {
  return pushDelayMs.p50 > saturatedMs || dropped > 0;
}

const numbers = (text: string): number[] => text.split(',').map(Number);
endChildrenOnSignal();
const redis = await startRedis();
const client = new Redis(redis.port);
const lines: string[] = [];
const say = (line: string): void => {
  lines.push(line);
  process.stdout.write(`${line}\n`);
};
const rows: Row[] = [];
const children: ChildProcess[] = [];
try {
  const version = /^redis_version:(\S+)/m.exec(await client.info('server'))?.[1] ?? '?';
  const pushed = loadConfig(`pools: [{ name: p, endpoints: [{ address: "10.0.0.1:1" }] }]\nstate: { kind: redis }\naffinity: { secret: s }`);
  const state = pushed.ok ? pushed.config.settings.state : undefined;
  const eventsMax = state?.kind === 'redis' ? state.pushEventsPerSecondMax : NaN;
  const machine = { ...describeMachine(), redis: version };
  say(`${machine.cpus} × ${machine.model}, Node ${machine.node}, Redis ${version}, ${endpoints} endpoints, ${given.seconds} s a run`);
  say(heads.join('  '));
  // Thinning is off: what is measured is what pushing everything costs.
  const redisState = { kind: 'redis', url: redis.url, pushEventsPerSecondMax: 1_000_000_000 };
  for (const routers of numbers(given.routers)) {
    while (children.length < routers) children.push(fork(path.join(folder, 'router-under-load.ts')));
    for (const rate of numbers(given.rates)) {
      const row = await measureRow(children.slice(0, routers), client, redisState, rate);
      rows.push(row);
      say(print(row));
    }
  }
  const busy = rows.filter((row) => row.requestsPerSecond >= 500 && !isSaturated(row));
  const commandUs = fitCommandUs(busy);
  const messagesMax = Math.max(...busy.map((row) => row.commandsPerSecond / row.routers));
  const holds = [2, 4, 8, 12, 16, 24, 32, 48].map((routers) => ({ routers, redisCores: (routers * messagesMax * commandUs(routers)) / 1e6 }));
  const routersMax = holds.findLast(({ redisCores }) => redisCores <= redisShareMax)?.routers ?? 0;
  say('');
  say(`A router sent at most ${messagesMax.toFixed(0)} commands/s; one cost Redis ${commandUs(2).toFixed(0)} us with 2 routers, ${commandUs(8).toFixed(0)} us with 8 (rows of 500 requests/s and more, less saturated ones).`);
  say(`At that, whatever the request rate, Redis takes: ${holds.map(({ routers, redisCores }) => `${routers} routers ${(redisCores * 100).toFixed(0)} %`).join(', ')} of a core.`);
  say(`So pushing holds up to about ${routersMax} routers (Redis at ${redisShareMax * 100} % of a core).`);
  const routerCores = Math.max(...busy.map((row) => row.routerCores));
  const eventsMeasured = Math.max(...busy.map((row) => row.requestsPerSecond * eventsPerRequest));
  say(`Sharing took at most ${(routerCores * 100).toFixed(0)} % of a router's core, at up to ${eventsMeasured.toFixed(0)} events/s; the default of pushEventsPerSecondMax is ${eventsMax}.`);
  await writeResults(given.out, { machine, measuredMs, endpoints, eventsPerRequest, pushEventsPerSecondMax: eventsMax, rows, messagesMax, routersMax, holds });
} finally {
  for (const child of children) child.disconnect();
  client.disconnect();
  await redis.stop();
}
