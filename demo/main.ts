// `npm run demo`: real chat traffic through a real Envoy, routed by Fairlead, over simulated model servers.
import { Command, InvalidArgumentError, Option } from 'commander';
import { presets } from '../src/strategies/presets.ts';
import { chatScenario } from './chat-scenario.ts';
import { mixedScenario } from './mixed-scenario.ts';
import type { Scenario } from './scenario.ts';
import { spikeScenario } from './spike-scenario.ts';
import { formatTable, Scoreboard } from './scoreboard.ts';
import { type Stack, startStack } from './stack.ts';

/** Sends the traffic and shows it while it runs: a table that redraws on a terminal, a line a second elsewhere. */
async function play(scenario: Scenario, stack: Stack, requests: number): Promise<Scoreboard> {
  const board = new Scoreboard(stack.endpoints);
  const live = process.stdout.isTTY;
  let drawn = 0;
  const title = (): string => `${stack.policy}: ${board.requests}/${requests} requests, ${board.failures.length} failed`;
  const show = (): void => {
    if (live) {
      const text = `${title()}\n${formatTable(board)}\n`;
      process.stdout.write(`${drawn > 0 ? `\u001b[${drawn}A\u001b[J` : ''}${text}`);
      drawn = text.split('\n').length - 1;
    } else {
      process.stdout.write(`${title()}, ${scenario.progress(board)}\n`);
    }
  };
  const timer = setInterval(show, live ? 250 : 1_000);
  try {
    await scenario.send(stack, requests, (record) => board.add(record));
  } finally {
    clearInterval(timer);
  }
  if (live) show();
  else process.stdout.write(`\n${title()}\n${formatTable(board)}\n`);
  process.stdout.write('\n');
  return board;
}

function keepMessage(stack: Stack): string {
  const body = '{"model":"demo-model","messages":[{"role":"user","content":"Hello"}],"max_tokens":16}';
  return [
    `Everything stays up (policy ${stack.policy}). Try:`,
    `  curl -i ${stack.url}/v1/chat/completions -H 'content-type: application/json' -H 'x-session-id: me' -d '${body}'`,
    `  curl -s http://127.0.0.1:${stack.fairleadAdminPort}/api/v1/fleet     (Fairlead: also /metrics, /readyz)`,
    `  curl -s http://127.0.0.1:${stack.envoyAdminPort}/stats?filter=ext_proc     (Envoy's admin)`,
    'Ctrl-C ends it.',
    '',
  ].join('\n');
}

async function untilInterrupted(): Promise<void> {
  await new Promise<void>((resolve) => {
    const alive = setInterval(() => {}, 60_000);
    const end = (): void => {
      clearInterval(alive);
      resolve();
    };
    process.once('SIGINT', end);
    process.once('SIGTERM', end);
  });
}

function parseCount(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError('A whole number from 1 to 999999.');
  return Number(text);
}

function parsePolicy(text: string): string {
  if (!Object.hasOwn(presets, text)) throw new InvalidArgumentError(`One of: ${Object.keys(presets).join(', ')}.`);
  return text;
}

interface DemoOptions {
  readonly scenario: 'chat' | 'mixed' | 'spike';
  readonly requests?: number;
  readonly policy: string;
  readonly weights: boolean;
  readonly spikeSeconds?: number;
  readonly rivals: boolean;
  readonly keep: boolean;
}

function toScenario({ scenario, weights, spikeSeconds = 30 }: DemoOptions): Scenario {
  switch (scenario) {
    case 'chat':
      return chatScenario;
    case 'mixed':
      return mixedScenario({ weighted: weights });
    case 'spike':
      return spikeScenario({ spikeSeconds });
  }
}

async function main(options: DemoOptions): Promise<void> {
  const { scenario: name, requests: asked, policy, weights, spikeSeconds, rivals, keep } = options;
  if (name !== 'mixed' && !weights) throw new InvalidArgumentError('--no-weights goes with --scenario mixed: the other servers are equal.');
  if (name !== 'spike' && spikeSeconds !== undefined) throw new InvalidArgumentError('--spike-seconds goes with --scenario spike.');
  if (name === 'spike' && asked !== undefined) throw new InvalidArgumentError('--requests does not go with --scenario spike: use --spike-seconds.');
  const scenario = toScenario(options);
  const requests = asked ?? scenario.requestsDefault;
  process.stdout.write(`${scenario.opening(requests)}\n\n`);
  const policies = [policy, ...(rivals ? scenario.rivals : []).filter((rival) => rival !== policy)];
  const boards: [string, Scoreboard][] = [];
  let kept: Stack | undefined;
  for (const each of policies) {
    // Anew for every policy: all of them start with cold caches.
    const stack = await startStack({ policy: each, servers: scenario.servers, timeScale: scenario.timeScale, pool: scenario.pool ?? {} });
    try {
      boards.push([each, await play(scenario, stack, requests)]);
    } catch (error) {
      await stack.stop();
      throw error;
    }
    if (keep && each === policy) kept = stack;
    else await stack.stop();
  }
  process.stdout.write(scenario.compare(boards));
  const failures = boards.flatMap(([each, board]) => board.failures.map((failure) => `${each}: ${failure}`));
  if (failures.length > 0) {
    process.stderr.write(`\n${failures.length} requests failed:\n${[...new Set(failures)].slice(0, 10).map((line) => `  ${line}`).join('\n')}\n`);
    process.exitCode = 1;
  }
  const shown = boards.find(([each]) => each === policy);
  const missed = shown === undefined ? [] : (scenario.missed?.(...shown) ?? []);
  if (missed.length > 0) {
    process.stderr.write(`\n${policy} missed what it should do:\n${missed.map((line) => `  ${line}`).join('\n')}\n`);
    process.exitCode = 1;
  }
  if (kept !== undefined) {
    process.stdout.write(`\n${keepMessage(kept)}`);
    await untilInterrupted();
    await kept.stop();
  }
}

await new Command('demo')
  .description('Real chat traffic through a real Envoy, routed by Fairlead, over five simulated model servers.')
  .addOption(
    new Option('--scenario <name>', 'chat: chats over equal servers; mixed: short and 30 000-token prompts over unequal ones; spike: eight times the load, and two servers in reserve')
      .choices(['chat', 'mixed', 'spike'])
      .default('chat'),
  )
  .option('--requests <n>', `requests for each policy (default: ${chatScenario.requestsDefault}, mixed ${mixedScenario({ weighted: true }).requestsDefault})`, parseCount)
  .option('--policy <name>', `policy to show beside round-robin (mixed: beside sticky and three more): ${Object.keys(presets).join(', ')}`, parsePolicy, 'sticky')
  .option('--no-weights', 'mixed: do not tell Fairlead how fast the servers are')
  .option('--spike-seconds <n>', 'spike: how long it lasts (default: 30)', parseCount)
  .option('--no-rivals', 'show the policy alone')
  .option('--keep', 'stay up afterwards and print how to reach everything', false)
  .action(main)
  .parseAsync()
  .catch((error: unknown) => {
    process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  });
