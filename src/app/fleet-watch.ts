import { setTimeout as sleep } from 'node:timers/promises';
import type { ChangeReport } from '../admin/change-report.ts';
import type { FleetReport } from '../admin/fleet-report.ts';
import { formatChange, formatEndpoint, formatScreen } from './fleet-text.ts';

/** What a router said of its fleet, or why it said nothing. */
export type FleetAnswer =
  | { readonly ok: true; readonly report: FleetReport; readonly changes: readonly ChangeReport[] }
  | { readonly ok: false; readonly cause: string };

export interface FleetWatchOptions {
  readonly ask: () => Promise<FleetAnswer>;
  readonly write: (text: string) => void;
  /** Lines that fit; undefined: this is no terminal, and changes are written as lines, each once. */
  readonly rows: () => number | undefined;
  /** Ends the watch. */
  readonly signal: AbortSignal;
  readonly intervalMs?: number;
}

const clearScreen = '\u001b[H\u001b[2J';

/** Shows a fleet and what changes in it, once a second, until it is told to end. A router that does not answer is asked again. */
export async function watchFleet({ ask, write, rows, signal, intervalMs = 1_000 }: FleetWatchOptions): Promise<void> {
  const lines = new ChangeLines();
  while (!signal.aborted) {
    const answer = await ask();
    const rowsMax = rows();
    if (rowsMax === undefined) for (const line of lines.next(answer)) write(`${line}\n`);
    else write(`${clearScreen}${answer.ok ? formatScreen(answer.report, answer.changes, rowsMax - 1) : `${answer.cause}; asking again`}\n`);
    await sleep(intervalMs, undefined, { signal }).catch(() => {});
  }
}

/** A fleet as lines: how each endpoint stands at first, then every change once. */
class ChangeLines {
  #router: string | undefined;
  #seen = new Set<string>();
  #cause: string | undefined;

  next(answer: FleetAnswer): string[] {
    if (!answer.ok) {
      const lines = answer.cause === this.#cause ? [] : [answer.cause];
      this.#cause = answer.cause;
      return lines;
    }
    this.#cause = undefined;
    const { report, changes } = answer;
    const named = changes.map((change) => ({ change, name: nameOf(change) }));
    const isFirst = report.router.id !== this.#router;
    const fresh = named.filter(({ name }) => !this.#seen.has(name));
    // Where nothing is known of what was last told, more came in between than the router tells of.
    const isTorn = this.#seen.size > 0 && fresh.length === named.length && fresh.length > 0;
    const lines = isFirst
      ? report.pools.flatMap(({ name, endpoints }) => endpoints.map((endpoint) => formatEndpoint(new Date().toISOString(), name, endpoint)))
      : [...(isTorn ? ['… more changes than are kept'] : []), ...fresh.reverse().map(({ change }) => formatChange(change))];
    this.#router = report.router.id;
    this.#seen = new Set(named.map(({ name }) => name));
    return lines;
  }
}

function nameOf({ atMs, pool, address, from, to }: ChangeReport): string {
  return [atMs, pool, address, from, to].join(' ');
}
