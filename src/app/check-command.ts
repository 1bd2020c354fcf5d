import { Command } from 'commander';
import { readEndpointList } from '../config/endpoint-list.ts';
import { loadConfigFile } from '../config/load.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import { describeProblems, type Problem, toPath } from '../config/problem.ts';

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
      const warnings = [...outcome.warnings, ...doubtsAboutLists(outcome.config)];
      if (warnings.length > 0) process.stderr.write(`${file}: warnings\n${describeProblems(warnings)}\n`);
      const { pools, table } = outcome.config;
      const endpoints = pools.reduce((sum, pool) => sum + pool.endpoints.length, 0);
      process.stdout.write(`${file}: ok (pools: ${pools.length}, endpoints: ${endpoints}, routes: ${table.routes.length})\n`);
    });
}

/** What is wrong with the files that endpoints are read from: a router starts without them, and waits for them. */
function doubtsAboutLists({ settings, files }: CompiledConfig): Problem[] {
  return settings.pools.flatMap(({ name }, index) => {
    const list = files.endpointLists.get(name);
    const read = list === undefined ? undefined : readEndpointList(list);
    if (list === undefined || read?.ok !== false) return [];
    const at = toPath(['pools', index, 'discovery', 'file']);
    return read.problems.map(({ path, message }) => ({ path: at, message: `${list}: ${path === '' ? '' : `${path}: `}${message}` }));
  });
}
