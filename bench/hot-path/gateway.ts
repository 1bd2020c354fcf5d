import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import type { BenchCase } from './cases.ts';
import { clusterName, isFairlead, type Processor } from './processors.ts';

/** Under this path nothing is sent to the processor: what latency is compared with. */
export const unprocessedPrefix = '/no-extproc';
/** What is measured is work; a busy machine's pauses must not turn into failures. */
const messageTimeoutMs = 10_000;

/** What Envoy counted of its processor since it started. */
export interface ProcessingCounts {
  readonly streams: number;
  /** Anything that went wrong between the two. */
  readonly failures: number;
}

/** An Envoy of one worker in front of a processor, on the shipped configuration. */
export interface Gateway {
  readonly url: string;
  readonly pid: number;
  counts(): Promise<ProcessingCounts>;
  /** Numbers of its statistics whose names match. */
  stats(filter: string): Promise<Record<string, number>>;
  stop(): Promise<void>;
}

/** Starts the Envoy that a case asks for. A baseline is not bothered with access logs: it takes none. */
export async function startGateway(processor: Pick<Processor, 'name' | 'address'>, benchCase: Pick<BenchCase, 'mode' | 'baselineMode'>, endpoints: readonly string[]): Promise<Gateway> {
  const decides = isFairlead(processor.name);
  const mode = decides ? benchCase.mode : benchCase.baselineMode;
  const duplex = mode === 'FULL_DUPLEX_STREAMED';
  const config = renderEnvoyConfig({
    file: duplex ? 'envoy-inference-gateway.yaml' : 'envoy.yaml',
    clusters: { [clusterName]: endpoints },
    fairlead: [processor.address],
    bodyMode: mode,
    ...(duplex && { responseBodyMode: mode }),
    // The file for inference gateways has no access log to begin with.
    ...(!decides && { accessLog: false }),
    messageTimeoutMs,
    noExtProc: { prefix: unprocessedPrefix, cluster: clusterName },
  });
  const envoy: EnvoyProcess = await startEnvoy({ config, concurrency: 1 });
  return {
    url: envoy.url,
    pid: envoy.pid,
    stats: (filter) => envoy.stats(filter),
    counts: async () => {
      const stats = await envoy.stats('^http\\.llm\\.ext_proc\\.');
      const of = (...names: string[]): number => names.reduce((sum, name) => sum + (stats[`http.llm.ext_proc.${name}`] ?? 0), 0);
      return {
        streams: of('streams_started'),
        failures: of('streams_failed', 'failure_mode_allowed', 'message_timeouts', 'spurious_msgs_received', 'rejected_header_mutations'),
      };
    },
    stop: () => envoy.stop(),
  };
}
