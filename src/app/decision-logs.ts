import { RecentDecisions } from '../admin/recent-decisions.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import type { DecisionAccount } from '../core/explain.ts';
import type { DecisionLog } from '../router/ports.ts';
import { combineDecisionLogs, DecisionRecorder, type LineSink } from '../telemetry/decision-log.ts';
import { createLineSink, type LineFile, openLineFile } from '../telemetry/line-file.ts';
import { type Logger, stdout } from '../telemetry/logger.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { RateLimited } from '../telemetry/rate-limited.ts';

/** All that listens to decisions. */
export interface DecisionLogs {
  readonly log: DecisionLog;
  readonly recent: RecentDecisions;
  /** Goes on in a new file of the same name, where decisions are logged to a file. */
  reopen(): void;
  /** Writes what is kept. */
  close(): Promise<void>;
}

export interface DecisionLogsParts {
  readonly routerId: string;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly onError: (error: unknown) => void;
}

/** Least time between two log lines on the same matter, in ms. */
const periodMs = 30_000;

/** Sets up what the configuration asks for. Rejects, naming the setting, where the decision log's file cannot be opened. */
export async function createDecisionLogs({ settings, files }: CompiledConfig, { routerId, metrics, logger, onError }: DecisionLogsParts): Promise<DecisionLogs> {
  const { sample, prefixHashes, trace } = settings.decisionLog;
  const recent = new RecentDecisions(Date.now);
  const logs: Partial<DecisionLog>[] = [metrics.decisions, recent];
  const dropped = new RateLimited<undefined>(periodMs, (count) => {
    logger.warn({ event: 'decision_log_dropped', count }, 'Lines of the decision log were dropped: its destination does not take them fast enough.');
  });
  const troubles = new RateLimited<Error>(periodMs, (count, error) => {
    logger.error({ event: 'decision_log_unwritable', count, err: error }, 'The decision log cannot be written. Its lines are kept up to a bound, then dropped.');
  });
  const shadowFailures = new RateLimited<unknown>(periodMs, (count, error) => {
    logger.warn({ event: 'shadow_failed', count, err: error }, 'A shadow policy failed on live requests; they were decided without it. This is a bug of the strategy: please report it.');
  });
  const noteFailures = ({ considered }: DecisionAccount): void => {
    for (const { shadow } of considered) if (shadow?.outcome === 'failed') shadowFailures.note(shadow.error);
  };
  logs.push({ decided: ({ account }) => noteFailures(account), refused: (_code, account) => noteFailures(account) });
  let file: LineFile | undefined;
  if (sample > 0) {
    const path = files.decisionLog;
    if (path !== undefined) {
      file = await openLineFile(path, (error) => troubles.note(error)).catch((error: unknown) => {
        throw new Error(`cannot open ${path} (decisionLog.file): ${error instanceof Error ? error.message : String(error)}`, { cause: error });
      });
    }
    const sink: LineSink = file ?? createLineSink(stdout());
    const onDropped = (): void => {
      metrics.decisionLineDropped();
      dropped.note(undefined);
    };
    logs.push(new DecisionRecorder({ routerId, sample, prefixHashes, trace, sink, wallMs: Date.now, onDropped }));
  }
  return {
    log: combineDecisionLogs(logs, onError),
    recent,
    reopen: () => file?.reopen(),
    close: async () => {
      for (const limited of [dropped, troubles, shadowFailures]) limited.flush();
      await file?.close();
    },
  };
}
