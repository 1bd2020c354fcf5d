import { Command } from 'commander';
import { loadConfigFile } from '../config/load.ts';
import { describeProblems } from '../config/problem.ts';
import { createLogger } from '../telemetry/logger.ts';
import { startService } from './service.ts';

/** Time for the last log lines to be written before the process ends. */
const lastLinesMs = 100;

/** `fairlead serve`: runs the service until SIGTERM or SIGINT, then drains. */
export function serveCommand(): Command {
  return new Command('serve')
    .description('run the external processor')
    .requiredOption('-c, --config <file>', 'configuration file (YAML)')
    .action(async ({ config: file }: { config: string }) => {
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
      const starting = startService(outcome.config, logger).catch((error: unknown) => {
        process.stderr.write(`fairlead: ${error instanceof Error ? error.message : String(error)}\n`);
        process.exitCode = 1;
        return undefined;
      });
      let signals = 0;
      const stop = (signal: NodeJS.Signals): void => {
        signals += 1;
        if (signals > 1) {
          logger.warn({ signal }, 'second signal: stopping at once');
          process.exit(1);
        }
        // Log lines are written in the background: those under way get the time to come out, in their order.
        const exit = (code: number): void => void setTimeout(() => process.exit(code), lastLinesMs);
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
      // Who rotates the decision log sends this after renaming it. Without such a file the signal keeps its usual meaning.
      if (outcome.config.files.decisionLog !== undefined) process.on('SIGHUP', () => void starting.then((service) => service?.reopenLogs()));
      await starting;
    });
}
