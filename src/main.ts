import { Command } from 'commander';
import { checkCommand } from './app/check-command.ts';
import { fleetCommand } from './app/fleet-command.ts';
import { serveCommand } from './app/serve-command.ts';
import { packageVersion } from './app/package-file.ts';

const program = new Command('fairlead')
  .description('Routes LLM requests in Envoy and Istio: an external processor that picks pool and endpoint.')
  .version(packageVersion())
  .showHelpAfterError('(fairlead --help shows what there is)');
program.addCommand(serveCommand());
program.addCommand(checkCommand());
program.addCommand(fleetCommand());
// The simulated servers are for demo and tests: loaded only when asked for.
if (process.argv[2] === 'sim-server' || process.argv.includes('--help') || process.argv.includes('-h') || process.argv[2] === 'help') {
  const { modelServerCommand } = await import('../sim/model-server/command.ts');
  program.addCommand(modelServerCommand());
}

await program.parseAsync();
