// `npm run demo`: real chat traffic through a real Envoy, routed by Fairlead, over five simulated model servers.
import { Command, InvalidArgumentError } from 'commander';
import { runFairlead } from '../lab/child-process.ts';
import { freePorts, renderEnvoyConfig, startEnvoy } from '../lab/envoy-process.ts';
import { startFairlead } from '../lab/fairlead-process.ts';
import { presets } from '../src/strategies/presets.ts';
import { sendChatTraffic } from './chat-traffic.ts';
import { formatMs, formatTable, Scoreboard } from './scoreboard.ts';

const modelServers = 5;
const concurrency = 16;
const turnsPerSession = 8;

interface Stack {
  readonly policy: string;
  readonly url: string;
  readonly endpoints: readonly string[];
  readonly fairleadAdminPort: number;
  readonly envoyAdminPort: number;
  stop(): Promise<void>;
}

/** Model servers, Fairlead and Envoy, all on free ports of their own. What had started is stopped when the rest cannot. */
async function startStack(policy: string): Promise<Stack> {
  const started: { stop(): Promise<unknown> }[] = [];
  const stop = async (): Promise<void> => {
    for (const part of started.reverse()) await part.stop();
  };
  try {
    const ports = await freePorts(modelServers);
    const endpoints = ports.map((port) => `127.0.0.1:${port}`);
    const servers = runFairlead(['sim-server', '--ports', ports.join(','), '--profile', 'demo']);
    started.push(servers);
    await servers.waitForLine((line) => (line.includes(`:${ports.at(-1) ?? 0}`) ? true : undefined));
    const fairlead = await startFairlead({
      pools: [{ name: 'chat', policy: { preset: policy }, observe: { firstToken: true }, endpoints: endpoints.map((address) => ({ address })) }],
    });
    started.push(fairlead);
    const envoy = await startEnvoy({ config: renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [fairlead.address] }) });
    started.push(envoy);
    return { policy, url: envoy.url, endpoints, fairleadAdminPort: fairlead.adminPort, envoyAdminPort: envoy.adminPort, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Sends the traffic and shows it while it runs: a table that redraws on a terminal, a line a second elsewhere. */
async function play(stack: Stack, requests: number): Promise<Scoreboard> {
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
      const { ttftP50Ms, ttftP99Ms, cachedShare } = board.total();
      const figures = `cached ${(cachedShare * 100).toFixed(0)} %, TTFT p50 ${formatMs(ttftP50Ms)}, p99 ${formatMs(ttftP99Ms)}`;
      process.stdout.write(`${title()}, ${figures}\n`);
    }
  };
  const timer = setInterval(show, live ? 250 : 1_000);
  try {
    await sendChatTraffic({ baseUrl: stack.url, requests, concurrency, turnsPerSession, onRecord: (record) => board.add(record) });
  } finally {
    clearInterval(timer);
  }
  if (live) show();
  else process.stdout.write(`\n${title()}\n${formatTable(board)}\n`);
  process.stdout.write('\n');
  return board;
}

function compare(boards: readonly (readonly [string, Scoreboard])[]): string {
  const rows = boards.map(([policy, board]) => {
    const { cachedShare, ttftP50Ms, ttftP99Ms } = board.total();
    return `  ${policy.padEnd(18)} cached ${(cachedShare * 100).toFixed(0).padStart(3)} %   TTFT p50 ${formatMs(ttftP50Ms).padStart(8)}   p99 ${formatMs(ttftP99Ms).padStart(8)}`;
  });
  return `The same traffic, side by side:\n${rows.join('\n')}\n`;
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

async function main({ requests, policy, keep }: { requests: number; policy: string; keep: boolean }): Promise<void> {
  process.stdout.write(`Five SIMULATED model servers (no GPU), Envoy with envoy/envoy.yaml, Fairlead. ${requests} chat requests for each policy.\n\n`);
  const policies = policy === 'round-robin' ? [policy] : [policy, 'round-robin'];
  const boards: [string, Scoreboard][] = [];
  let kept: Stack | undefined;
  for (const name of policies) {
    const stack = await startStack(name);
    try {
      boards.push([name, await play(stack, requests)]);
    } catch (error) {
      await stack.stop();
      throw error;
    }
    if (keep && name === policy) kept = stack;
    else await stack.stop();
  }
  process.stdout.write(compare(boards));
  const failures = boards.flatMap(([name, board]) => board.failures.map((failure) => `${name}: ${failure}`));
  if (failures.length > 0) {
    process.stderr.write(`\n${failures.length} requests failed:\n${[...new Set(failures)].slice(0, 10).map((line) => `  ${line}`).join('\n')}\n`);
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
  .option('--requests <n>', 'requests for each policy', parseCount, 400)
  .option('--policy <name>', `policy to show beside round-robin: ${Object.keys(presets).join(', ')}`, parsePolicy, 'session-affinity')
  .option('--keep', 'stay up afterwards and print how to reach everything', false)
  .action(main)
  .parseAsync()
  .catch((error: unknown) => {
    process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  });
