// `npm run bench:workers`: exchanges per second of two workers against one, driven directly over gRPC on the same cores, A B A B, and each
// worker's share. docs/workers.md says how to read it.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { endChildrenOnSignal, runProgram } from '../lab/child-process.ts';
import { type FairleadProcess, startFairlead } from '../lab/fairlead-process.ts';
import { readCpuUs, readLoadAverage } from '../lab/process-usage.ts';
import { startRedis } from '../lab/redis-process.ts';
import { encodeProcessingRequest } from '../src/extproc/proto.ts';
import { resultsFolder, writeResults } from './result-file.ts';
import { median } from './statistics.ts';

interface Options {
  readonly repeats: string;
  readonly seconds: string;
  readonly state: 'memory' | 'redis';
  readonly out: string;
}

/** What is compared; `apart`: two processes that share nothing, so what the machine costs and what sharing costs can be told apart. */
const subjectNames = ['one', 'two', 'apart'] as const;
type SubjectName = (typeof subjectNames)[number];

/** One run of one of them. */
interface Run {
  readonly subject: SubjectName;
  readonly perSecond: number;
  /** Each worker's part of all exchanges. */
  readonly shares: readonly number[];
  /** CPU time per exchange, in microseconds, of Fairlead and of what drives it. */
  readonly cpuUs: { readonly fairlead: number; readonly driver: number };
  readonly loadAverage: number;
}

const drivers = 2;
const connectionsPerDriver = 2;
const streamsPerConnection = 32;
/** So many that no endpoint has hundreds of requests in flight, as none has in earnest. */
const endpointCount = 100;
/** Exchanges of each worker before anything is measured. */
const warmUpExchanges = 20_000;
const method = '/envoy.service.ext_proc.v3.ExternalProcessor/Process';

/** A request whose headers tell all, as one gRPC message. */
function createMessage(): Buffer {
  const headers = { ':path': '/v1/chat/completions', ':method': 'POST', 'content-type': 'application/json', 'x-model': 'bench' };
  const message = encodeProcessingRequest({
    request_headers: { headers: { headers: Object.entries(headers).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) }, end_of_stream: true },
    protocol_config: { request_body_mode: 0 },
  });
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(message.length, 1);
  return Buffer.concat([frame, message]);
}

/** How long h2load drives: seconds, or a number of exchanges. */
type Length = { readonly seconds: number } | { readonly exchanges: number };

/** Drives one port. Resolves with the exchanges that succeeded per second, and the CPU time of each. */
async function drive(port: number, dataFile: string, length: Length): Promise<{ readonly perSecond: number; readonly cpuUs: number }> {
  const long = 'seconds' in length ? ['-D', String(length.seconds)] : ['-n', String(length.exchanges)];
  const args = [...long, '-c', String(connectionsPerDriver), '-m', String(streamsPerConnection), '-t', '1', '-d', dataFile];
  const headers = ['content-type: application/grpc', 'te: trailers'].flatMap((header) => ['-H', header]);
  const child = runProgram('h2load', [...args, ...headers, `http://127.0.0.1:${port}${method}`], { name: 'h2load' });
  let cpuUs = 0;
  const timer = setInterval(() => {
    try {
      cpuUs = readCpuUs(child.pid);
    } catch {
      // It ended just now: the last reading stands.
    }
  }, 50);
  const code = await child.ended;
  clearInterval(timer);
  const text = child.log();
  const perSecond = Number(/finished in [^,]+, ([\d.]+) req\/s/.exec(text)?.[1]);
  const done = Number(/status codes: (\d+) 2xx/.exec(text)?.[1]);
  if (code !== 0 || !(perSecond > 0) || !/ 0 failed, 0 errored/.test(text)) throw new Error(`h2load failed (Debian has it in nghttp2-client):\n${text}`);
  return { perSecond, cpuUs: cpuUs / done };
}

/** A Fairlead of so many workers, ready to be measured. */
class Subject {
  readonly #name: SubjectName;
  readonly #processes: readonly FairleadProcess[];
  readonly #ports: readonly number[];
  readonly #dataFile: string;

  private constructor(name: SubjectName, processes: readonly FairleadProcess[], dataFile: string) {
    this.#name = name;
    this.#processes = processes;
    this.#ports = processes.flatMap(({ grpcPorts }) => grpcPorts);
    this.#dataFile = dataFile;
  }

  /** Starts it, and has each worker decide so often that its code is compiled. */
  static async start(name: SubjectName, state: object, dataFile: string): Promise<Subject> {
    const endpoints = Array.from({ length: endpointCount }, (_, i) => ({ address: `10.0.0.${i + 1}:80` }));
    const config = {
      workers: name === 'two' ? 2 : 1,
      state,
      affinity: { secret: 'of this benchmark alone' },
      // Nothing reports the end of these requests: they are counted for a second each.
      leases: { expireAfterMsMax: 1_000, assumedDurationMs: 1_000 },
      pools: [{ name: 'bench', policy: { preset: 'sticky' }, observe: { firstToken: false }, health: { passive: false }, endpoints }],
    };
    const processes = await Promise.all(Array.from({ length: name === 'apart' ? 2 : 1 }, () => startFairlead(config)));
    const subject = new Subject(name, processes, dataFile);
    await Promise.all(subject.#ports.map((port) => drive(port, dataFile, { exchanges: warmUpExchanges })));
    return subject;
  }

  async measure(seconds: number): Promise<Run> {
    const before = { decided: await this.#decided(), cpuUs: this.#cpuUs() };
    const driven = await Promise.all(Array.from({ length: drivers }, (_, i) => drive(this.#ports[i % this.#ports.length] ?? 0, this.#dataFile, { seconds })));
    const after = { decided: await this.#decided(), cpuUs: this.#cpuUs() };
    const perSecond = driven.reduce((sum, one) => sum + one.perSecond, 0);
    const exchanges = after.decided - before.decided;
    // What h2load takes for done may have ended with a gRPC error: those that were decided count.
    if (exchanges < 0.98 * perSecond * seconds) throw new Error(`only ${exchanges} of ${Math.round(perSecond * seconds)} exchanges were decided:\n${this.#processes.map((one) => one.log().slice(-2_000)).join('\n')}`);
    return {
      subject: this.#name,
      perSecond,
      shares: driven.map((one) => one.perSecond / perSecond),
      cpuUs: { fairlead: (after.cpuUs - before.cpuUs) / exchanges, driver: driven.reduce((sum, one) => sum + one.cpuUs, 0) / driven.length },
      loadAverage: readLoadAverage(),
    };
  }

  async #decided(): Promise<number> {
    const counts = await Promise.all(this.#processes.map((one) => one.metric('fairlead_decisions_total')));
    return counts.reduce((sum, count) => sum + count, 0);
  }

  #cpuUs(): number {
    return this.#processes.reduce((sum, { pid }) => sum + readCpuUs(pid), 0);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#processes.map((one) => one.stop()));
  }
}

async function main({ repeats, seconds, state: kind, out }: Options): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-bench-'));
  const redis = kind === 'redis' ? await startRedis() : undefined;
  const state = redis === undefined ? { kind: 'memory' } : { kind: 'redis', url: redis.url };
  const runs: Run[] = [];
  const subjects: Subject[] = [];
  try {
    const dataFile = path.join(folder, 'request');
    await writeFile(dataFile, createMessage());
    for (const name of subjectNames) subjects.push(await Subject.start(name, state, dataFile));
    for (let round = 0; round < Number(repeats); round += 1) {
      for (const subject of subjects) {
        const run = await subject.measure(Number(seconds));
        runs.push(run);
        const shares = run.shares.map((share) => share.toFixed(3)).join(' / ');
        const { fairlead, driver } = run.cpuUs;
        process.stdout.write(
          `${run.subject.padEnd(5)} ${Math.round(run.perSecond)}/s, CPU per exchange ${fairlead.toFixed(1)} µs + driver ${driver.toFixed(1)} µs, shares ${shares}, load ${run.loadAverage}\n`,
        );
      }
    }
  } finally {
    await Promise.all(subjects.map((subject) => subject.stop()));
    await redis?.stop();
    await rm(folder, { recursive: true });
  }
  const of = (subject: SubjectName, read: (run: Run) => number): number => median(runs.filter((run) => run.subject === subject).map(read));
  const each = (read: (run: Run) => number): Record<SubjectName, number> => ({ one: of('one', read), two: of('two', read), apart: of('apart', read) });
  const perSecond = each((run) => run.perSecond);
  const cpuUs = each((run) => run.cpuUs.fairlead);
  const driver = of('two', (run) => run.cpuUs.driver);
  const summary = {
    state: kind,
    cores: availableParallelism(),
    perSecond,
    ratio: perSecond.two / perSecond.one,
    ratioApart: perSecond.apart / perSecond.one,
    cpuUs: { ...cpuUs, driver },
    // What they would do on two cores that nobody else uses: one worker has a core to itself, two share both with the driver.
    ratioByCpu: (2 * cpuUs.one) / (cpuUs.two + driver),
    ratioApartByCpu: (2 * cpuUs.one) / (cpuUs.apart + driver),
    largestShare: of('two', (run) => Math.max(...run.shares)),
    runs,
  };
  process.stdout.write(`${JSON.stringify({ ...summary, runs: runs.length }, null, 2)}\n`);
  await writeResults(out, summary);
}

endChildrenOnSignal();
await new Command('bench:workers')
  .option('--repeats <count>', 'alternating runs of each', '5')
  .option('--seconds <count>', 'seconds of each run', '4')
  .option('--state <kind>', 'memory or redis', 'memory')
  .option('--out <file>', 'JSON of all runs', path.join(resultsFolder, 'workers.json'))
  .action(main)
  .parseAsync();
