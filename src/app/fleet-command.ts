import { Command } from 'commander';
import type { FleetReport } from '../admin/fleet-report.ts';

/** `fairlead fleet`: prints routers, pools and endpoints as one router sees them. */
export function fleetCommand(): Command {
  return new Command('fleet')
    .description('print routers, pools and endpoints as a running router sees them')
    .option('--admin <url>', "the router's admin address", 'http://127.0.0.1:9003')
    .option('--json', 'print what /api/v1/fleet answers', false)
    .action(async ({ admin, json }: { admin: string; json: boolean }) => {
      const url = new URL('/api/v1/fleet', admin.includes('://') ? admin : `http://${admin}`);
      let report: FleetReport;
      try {
        const response = await fetch(url, { signal: AbortSignal.timeout(5_000) });
        if (!response.ok) throw new Error(`it answered ${response.status}`);
        report = (await response.json()) as FleetReport;
      } catch (error) {
        const cause = error instanceof Error ? (error.cause instanceof Error ? error.cause.message : error.message) : String(error);
        process.stderr.write(`fairlead: no fleet from ${url.href}: ${cause}. Is Fairlead running there, and is this its listen.admin address?\n`);
        process.exitCode = 1;
        return;
      }
      process.stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : formatFleet(report));
    });
}

/** The report as tables. */
export function formatFleet({ router, sharing, routers, pools }: FleetReport): string {
  const state =
    sharing.kind === 'memory'
      ? 'memory: this router alone'
      : `redis: ${sharing.connected ? 'connected' : 'DEGRADED'}, ${sharing.pushing ? 'events pushed' : 'snapshots only'}, last heard ${sharing.snapshotAgeMs ?? '?'} ms ago`;
  const lines = [`router ${router.id} (${router.state}, up ${router.uptimeS} s)`, `state  ${state}`];
  if (sharing.trouble !== null) lines.push(`       ${sharing.trouble.message}`);
  if (routers.length > 0) {
    const rows = routers.map(({ id, ageMs, requestsInFlight, loadShare }) => [id, `${ageMs} ms`, String(requestsInFlight), `${(loadShare * 100).toFixed(0)} %`]);
    lines.push('', ...table(['router', 'heard', 'in flight', 'share'], rows));
  }
  for (const { name, cluster, policy, endpoints } of pools) {
    lines.push('', `pool ${name} (cluster ${cluster ?? 'none'}, policy ${policy ?? 'none'})`);
    const rows = endpoints.map((endpoint) => [
      endpoint.address,
      endpoint.state,
      String(endpoint.weight),
      String(endpoint.requestsInFlight),
      String(endpoint.fleetRequestsInFlight),
      String(endpoint.promptTokensInFlight),
    ]);
    lines.push(...table(['endpoint', 'state', 'weight', 'in flight', 'fleet', 'prompt tokens'], rows));
  }
  return `${lines.join('\n')}\n`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const print = (cells: readonly string[]): string =>
    `  ${cells.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ')}`.trimEnd();
  return [print(head), ...rows.map(print)];
}
