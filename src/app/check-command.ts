import { Command } from 'commander';
import { loadConfigFile } from '../config/load.ts';
import { describeProblems } from '../config/problem.ts';

/** `fairlead check`: says everything that is wrong with a configuration, without starting. */
export function checkCommand(): Command {
  return new Command('check')
    .description('check a configuration without starting: exit 0, or 1 with every problem, its path and what was expected')
    .requiredOption('-c, --config <file>', 'configuration file (YAML)')
    .action(({ config: file }: { config: string }) => {
      const outcome = loadConfigFile(file);
      if (!outcome.ok) {
        const count = outcome.problems.length;
        process.stderr.write(`${file}: ${count} ${count === 1 ? 'problem' : 'problems'}\n${describeProblems(outcome.problems)}\n`);
        process.exitCode = 1;
        return;
      }
      if (outcome.warnings.length > 0) process.stderr.write(`${file}: warnings\n${describeProblems(outcome.warnings)}\n`);
      const { pools, table } = outcome.config;
      const endpoints = pools.reduce((sum, pool) => sum + pool.endpoints.length, 0);
      process.stdout.write(`${file}: ok (pools: ${pools.length}, endpoints: ${endpoints}, routes: ${table.routes.length})\n`);
    });
}
