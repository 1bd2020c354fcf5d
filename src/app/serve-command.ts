import path from 'node:path';
import { Command } from 'commander';
import { loadConfigFile } from '../config/load.ts';
import { describeProblems } from '../config/problem.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { createLogger, type Logger } from '../telemetry/logger.ts';
import { suitCollector } from './collector-settings.ts';
import { type ConfigOrigin, type Service, startService } from './service.ts';
import { parseWorkers, toWorkerCount, type WorkerCount } from './worker-count.ts';

/** Time for the last log lines to be written before the process ends. */
const lastLinesMs = 100;

type Running = Pick<Service, 'drain' | 'reload' | 'reopenLogs'>;

/** Runs the service in this thread, or in several led by this one. */
async function start(config: CompiledConfig, origin: ConfigOrigin, workers: number, logger: Logger): Promise<Running> {
  if (workers === 1) return startService(config, origin, logger);
  const { startWorkers } = await import('./workers/supervisor.ts');
  return startWorkers(config, origin, workers, logger);
}

/** `fairlead serve`: runs the service until SIGTERM or SIGINT, then drains. */
export function serveCommand(): Command {
  return new Command('serve')
    .description('run the external processor')
    .requiredOption('-c, --config <file>', 'configuration file (YAML)')
    .option('--workers <count>', 'threads that decide, each on a port of its own, or auto: one for each core (default: as configured, or 1)', parseWorkers)
    .action(async ({ config: file, workers: asked }: { config: string; workers?: WorkerCount }) => {
      suitCollector();
      const outcome = loadConfigFile(file);
      if (!outcome.ok) {
        process.stderr.write(`fairlead: ${file} cannot be used:\n${describeProblems(outcome.problems)}\n`);
        process.exitCode = 1;
        return;
      }
      const logger = createLogger({ level: outcome.config.settings.log.level });
      for (const { path, message } of outcome.warnings) logger.warn({ path }, message);
      // Bugs are caught at the stream boundary. What still escapes is logged; one stray rejection must not end all requests.
      process.on('unhandledRejection', (error) => logger.error({ err: error }, 'unhandled rejection'));
      process.on('uncaughtException', (error) => {
        logger.fatal({ err: error }, 'uncaught exception');
        process.exit(70);
      });
      const origin = { file: path.resolve(file), warnings: outcome.warnings };
      const workers = toWorkerCount(asked ?? outcome.config.settings.workers);
      // Log lines are written in the background: those under way get the time to come out, in their order.
      const exit = (code: number): void => void setTimeout(() => process.exit(code), lastLinesMs);
      const starting = start(outcome.config, origin, workers, logger).catch((error: unknown) => {
        process.stderr.write(`fairlead: ${error instanceof Error ? error.message : String(error)}\n`);
        // What was started before it failed, such as the exchange with Redis, would keep the process alive.
        exit(1);
        return undefined;
      });
      let signals = 0;
      const stop = (signal: NodeJS.Signals): void => {
        signals += 1;
        if (signals > 1) {
          logger.warn({ signal }, 'second signal: stopping at once');
          process.exit(1);
        }
        // A signal may come while everything still starts: then it is stopped once it is up.
        starting.then((service) => service?.drain()).then(
          () => exit(0),
          (error: unknown) => {
            logger.error({ err: error }, 'drain failed');
            exit(1);
          },
        );
      };
      process.on('SIGTERM', stop);
      process.on('SIGINT', stop);
      // Who rotates the decision log sends this after renaming it, too.
      process.on('SIGHUP', () => {
        void starting.then((service) => {
          service?.reopenLogs();
          service?.reload('signal');
        });
      });
      await starting;
    });
}
