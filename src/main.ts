import { Command } from 'commander';
import { checkCommand } from './app/check-command.ts';
import { envoySnippetCommand } from './app/envoy-snippet-command.ts';
import { explainCommand } from './app/explain-command.ts';
import { fleetCommand } from './app/fleet-command.ts';
import { serveCommand } from './app/serve-command.ts';
import { packageFile, packageVersion } from './app/package-file.ts';

const program = new Command('fairlead')
  .description('Routes LLM requests in Envoy and Istio: an external processor that picks pool and endpoint.')
  .version(packageVersion())
  .showHelpAfterError('(fairlead --help shows what there is)');
program.addCommand(serveCommand());
program.addCommand(checkCommand());
program.addCommand(fleetCommand());
program.addCommand(explainCommand());
program.addCommand(envoySnippetCommand());
// What simulates is no part of the service: loaded only when asked for.
const asksForHelp = process.argv.includes('--help') || process.argv.includes('-h') || process.argv[2] === 'help';
if (process.argv[2] === 'sim-server' || asksForHelp) {
  const { modelServerCommand } = await import('../sim/model-server/command.ts');
  program.addCommand(modelServerCommand());
}
if (process.argv[2] === 'simulate' || asksForHelp) {
  const { simulateCommand } = await import('../sim/command.ts');
  program.addCommand(simulateCommand(packageFile('.')));
}

await program.parseAsync();
