// The processors that are compared, each a process of its own.
import path from 'node:path';
import { projectRoot, type RunningChild, runProgram } from '../../lab/child-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';

/** A Fairlead on its default transport, or on a named one, and the two baselines. */
export const processorNames = ['fairlead', 'fairlead-http2', 'fairlead-grpc-js', 'go', 'grpc-js'] as const;
export type ProcessorName = (typeof processorNames)[number];

/** Whether it decides. The others answer with fixed headers. */
export function isFairlead(name: ProcessorName): boolean {
  return name.startsWith('fairlead');
}

/** A running processor. */
export interface Processor {
  readonly name: ProcessorName;
  readonly pid: number;
  /** `127.0.0.1:PORT` of its gRPC port. */
  readonly address: string;
  /** Exceptions that it caught so far; 0 where it does not count them. */
  internalErrors(): Promise<number>;
  stop(): Promise<void>;
}

export interface ProcessorStart {
  /** Name of the preset that Fairlead decides by. */
  readonly policy: string;
  /** Whether Fairlead notices first tokens; absent: as the policy has it. */
  readonly firstToken?: boolean | undefined;
  /** `ip:port` of the pool's endpoints; a baseline names the first of them in every answer. */
  readonly endpoints: readonly string[];
  /** Whether a baseline answers on the headers, without a body. */
  readonly headersOnly: boolean;
  /** Where Fairlead shares its state. */
  readonly redisUrl: string;
  /** The binary of bench/baseline-go. */
  readonly goBinary?: string | undefined;
  /** Folder into which Fairlead writes a CPU profile of its whole life; absent: none. */
  readonly profileFolder?: string | undefined;
  /** Options of Fairlead's Node. */
  readonly nodeOptions?: readonly string[] | undefined;
}

/** Little room, for runs that look for leaks: left to itself, Node lets garbage pile up for many minutes before it looks, and that looks like one. */
export const smallHeap: readonly string[] = ['--max-old-space-size=96'];

/** Cluster of the shipped Envoy configurations. */
export const clusterName = 'chat';

/** Starts a processor and waits until it serves. */
export async function startProcessor(name: ProcessorName, start: ProcessorStart): Promise<Processor> {
  switch (name) {
    case 'fairlead':
      return startDecider(name, undefined, start);
    case 'fairlead-http2':
      return startDecider(name, 'http2', start);
    case 'fairlead-grpc-js':
      return startDecider(name, 'grpc-js', start);
    case 'go':
      if (start.goBinary === undefined) throw new Error('the Go baseline was not built');
      return startBaseline(name, start.goBinary, [], start);
    case 'grpc-js':
      return startBaseline(name, process.execPath, [path.join(projectRoot, 'bench/baseline-grpc-js/server.ts')], start);
  }
}

/** A Fairlead as it is measured: one pool, a preset, its state in Redis. `nodeOptions`: for its Node. */
export function startMeasuredFairlead(
  { policy, endpoints, firstToken, redisUrl }: Pick<ProcessorStart, 'policy' | 'endpoints' | 'firstToken' | 'redisUrl'>,
  nodeOptions: readonly string[],
  transport?: string,
): Promise<FairleadProcess> {
  const config = {
    listen: { grpc: '127.0.0.1:0', admin: '127.0.0.1:0', ...(transport !== undefined && { transport }) },
    state: { kind: 'redis', url: redisUrl },
    affinity: { secret: 'of the benchmark' },
    pools: [
      {
        name: 'chat',
        cluster: clusterName,
        policy: { preset: policy },
        ...(firstToken !== undefined && { observe: { firstToken } }),
        endpoints: endpoints.map((address) => ({ address })),
      },
    ],
  };
  return startFairlead(config, nodeOptions);
}

async function startDecider(name: ProcessorName, transport: string | undefined, start: ProcessorStart): Promise<Processor> {
  const { profileFolder, nodeOptions = [] } = start;
  const profiling = profileFolder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profileFolder}`, `--cpu-prof-name=${path.basename(profileFolder)}-${name}.cpuprofile`];
  const fairlead = await startMeasuredFairlead(start, [...nodeOptions, ...profiling], transport);
  return {
    name,
    pid: fairlead.pid,
    address: fairlead.address,
    internalErrors: () => fairlead.metric('fairlead_internal_errors_total'),
    stop: () => fairlead.stop(),
  };
}

async function startBaseline(name: ProcessorName, file: string, first: readonly string[], start: ProcessorStart): Promise<Processor> {
  const [endpoint = ''] = start.endpoints;
  const args = [...first, '--cluster', clusterName, '--endpoint', endpoint, ...(start.headersOnly ? ['--headers-only'] : [])];
  const child: RunningChild = runProgram(file, args, { name });
  try {
    const port = await child.waitForLine((line) => /^listening (\d+)$/.exec(line)?.[1]);
    return {
      name,
      pid: child.pid,
      address: `127.0.0.1:${port}`,
      internalErrors: () => Promise.resolve(0),
      stop: async () => {
        await child.stop();
      },
    };
  } catch (error) {
    await child.stop();
    throw error;
  }
}
