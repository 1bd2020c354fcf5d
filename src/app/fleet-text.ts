import type { ChangeReport } from '../admin/change-report.ts';
import type { EndpointReport, FleetReport } from '../admin/fleet-report.ts';

/** The report as tables. */
export function formatFleet({ router, sharing, routers, pools }: FleetReport): string {
  const state =
    sharing.kind === 'memory'
      ? 'memory: this router alone'
      : `${sharing.kind}: ${sharing.connected ? 'connected' : 'DEGRADED'}, ${sharing.pushing ? 'events pushed' : 'snapshots only'}, last heard ${sharing.snapshotAgeMs ?? '?'} ms ago`;
  const lines = [`router ${router.id} (${router.state}, up ${router.uptimeS} s)`, `state  ${state}`];
  if (sharing.trouble !== null) lines.push(`       ${sharing.trouble.message}`);
  if (routers.length > 0) {
    const rows = routers.map(({ id, ageMs, requestsInFlight, loadShare }) => [id, `${ageMs} ms`, String(requestsInFlight), `${(loadShare * 100).toFixed(0)} %`]);
    lines.push('', ...table(['router', 'heard', 'in flight', 'share'], rows, 2));
  }
  for (const { name, cluster, policy, endpoints } of pools) {
    lines.push('', `pool ${name} (cluster ${cluster ?? 'none'}, policy ${policy ?? 'none'})`);
    const rows = endpoints.map((endpoint) => [
      endpoint.standby ? `${endpoint.address} (reserve)` : endpoint.address,
      endpoint.state,
      endpoint.changed === null ? '' : formatAge(endpoint.changed.ageMs),
      describeCause(endpoint),
      String(endpoint.weight),
      String(endpoint.requestsInFlight),
      String(endpoint.fleetRequestsInFlight),
      String(endpoint.promptTokensInFlight),
    ]);
    lines.push(...table(['endpoint', 'state', 'for', 'since', 'weight', 'in flight', 'fleet', 'prompt tokens'], rows, 4));
  }
  return `${lines.map(toPrintable).join('\n')}\n`;
}

/** Fleet and last changes, for a screen of so many lines: what does not fit is left out at the end. */
export function formatScreen(report: FleetReport, changes: readonly ChangeReport[], rowsMax: number): string {
  const fleet = formatFleet(report).trimEnd().split('\n');
  const rows = changes.map((change) => [formatAge(change.ageMs), change.pool, change.address, `${change.from ?? 'new'} → ${change.to ?? 'gone'}`, describeChange(change)]);
  const recent = rows.length === 0 ? [] : ['', 'last changes', ...table(['ago', 'pool', 'endpoint', 'state', 'cause'], rows, 5)];
  return [...fleet, ...recent].map(toPrintable).slice(0, Math.max(1, rowsMax)).join('\n');
}

/** One change as a line. */
export function formatChange(change: ChangeReport): string {
  const { time, pool, address, from, to } = change;
  return toPrintable(`${time} ${pool} ${address} ${from ?? 'new'} → ${to ?? 'gone'}: ${describeChange(change)}`);
}

/** One endpoint's state as a line. */
export function formatEndpoint(time: string, pool: string, endpoint: EndpointReport): string {
  const { address, state } = endpoint;
  const cause = describeCause(endpoint);
  return toPrintable(`${time} ${pool} ${address} ${state}${cause === '' ? '' : `: ${cause}`}`);
}

function describeCause({ changed, retryInMs }: EndpointReport): string {
  const retry = retryInMs === null ? '' : `tried in ${formatAge(retryInMs)}`;
  const cause = changed === null ? '' : changed.detail === null ? changed.cause : `${changed.cause} (${changed.detail})`;
  return [cause, retry].filter((part) => part !== '').join(', ');
}

function describeChange({ cause, detail, by }: ChangeReport): string {
  return `${cause}${detail === null ? '' : ` (${detail})`}${by === null ? '' : `, by ${by}`}`;
}

/** A duration as people say it: `340 ms`, `12 s`, `5 min`, `3 h`, `2 d`. */
export function formatAge(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const units = [
    [86_400_000, 'd'],
    [3_600_000, 'h'],
    [60_000, 'min'],
    [1_000, 's'],
  ] as const;
  const [length, unit] = units.find(([unitMs]) => ms >= unitMs) ?? [1_000, 's'];
  return `${Math.floor(ms / length)} ${unit}`;
}

/** Whatever the router sends: nothing of it steers the terminal. */
function toPrintable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

/** `left`: columns that begin at the left; figures end at the right. */
function table(head: readonly string[], rows: readonly (readonly string[])[], left: number): string[] {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const print = (cells: readonly string[]): string =>
    `  ${cells.map((cell, i) => (i < left ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ')}`.trimEnd();
  return [print(head), ...rows.map(print)];
}
