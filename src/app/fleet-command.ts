import { Command } from 'commander';
import type { ChangeReport } from '../admin/change-report.ts';
import type { FleetReport } from '../admin/fleet-report.ts';
import { formatFleet } from './fleet-text.ts';
import { type FleetAnswer, watchFleet } from './fleet-watch.ts';

/** `fairlead fleet`: shows routers, pools and endpoints as one router sees them, once or all the time. */
export function fleetCommand(): Command {
  return new Command('fleet')
    .description('print routers, pools and endpoints as a running router sees them')
    .option('--admin <url>', "the router's admin address", 'http://127.0.0.1:9003')
    .option('--json', 'print what /api/v1/fleet answers', false)
    .option('--watch', 'show the fleet every second with the last changes, until Ctrl-C; into a pipe, each change as a line', false)
    .action(async ({ admin, json, watch }: { admin: string; json: boolean; watch: boolean }) => {
      const base = admin.includes('://') ? admin : `http://${admin}`;
      if (json && watch) {
        process.stderr.write('fairlead: expected --json or --watch, not both\n');
        process.exitCode = 1;
        return;
      }
      if (watch) {
        await watchInTerminal(base);
        return;
      }
      const answer = await askFleet(base, false);
      if (!answer.ok) {
        process.stderr.write(`fairlead: ${answer.cause}\n`);
        process.exitCode = 1;
        return;
      }
      process.stdout.write(json ? `${JSON.stringify(answer.report, null, 2)}\n` : formatFleet(answer.report));
    });
}

async function watchInTerminal(base: string): Promise<void> {
  const ending = new AbortController();
  const end = (): void => {
    ending.abort();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end);
  // Whoever reads the lines went away.
  process.stdout.once('error', end);
  const { stdout } = process;
  await watchFleet({
    ask: () => askFleet(base, true),
    write: (text) => void stdout.write(text),
    rows: () => (stdout.isTTY ? stdout.rows : undefined),
    signal: ending.signal,
  });
}

async function askFleet(base: string, withChanges: boolean): Promise<FleetAnswer> {
  try {
    const report = (await ask(new URL('/api/v1/fleet', base))) as FleetReport;
    const { changes } = withChanges ? ((await ask(new URL('/api/v1/changes', base))) as { changes: readonly ChangeReport[] }) : { changes: [] };
    return { ok: true, report, changes };
  } catch (error) {
    const cause = error instanceof Error ? (error.cause instanceof Error ? error.cause.message : error.message) : String(error);
    return { ok: false, cause: `no fleet from ${base}: ${cause}. Is Fairlead running there, and is this its listen.admin address?` };
  }
}

async function ask(url: URL): Promise<unknown> {
  const response = await fetch(url, { signal: AbortSignal.timeout(5_000) });
  if (!response.ok) throw new Error(`${url.pathname} answered ${response.status}`);
  return response.json();
}
