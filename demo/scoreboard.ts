import type { RequestRecord } from './chat-client.ts';
import type { StackEndpoint } from './stack.ts';

/** What one endpoint, one kind of request, or all of them did. */
export interface Line {
  readonly name: string;
  readonly requests: number;
  readonly sessions: number;
  /** Share of prompt tokens that came from the endpoint's cache. */
  readonly cachedShare: number;
  /** Prompt tokens that did not, and had to be computed. */
  readonly computedTokens: number;
  readonly ttftP50Ms: number | undefined;
  readonly ttftP99Ms: number | undefined;
  readonly lateP99Ms: number | undefined;
}

/** Adds up what the client saw. */
export class Scoreboard {
  readonly #records: RequestRecord[] = [];
  readonly #endpoints: readonly StackEndpoint[];

  constructor(endpoints: readonly StackEndpoint[]) {
    this.#endpoints = endpoints;
  }

  add(record: RequestRecord): void {
    this.#records.push(record);
  }

  get requests(): number {
    return this.#records.length;
  }

  get failures(): readonly string[] {
    return this.#records.flatMap(({ failure }) => failure ?? []);
  }

  /** One line for each endpoint. */
  lines(): Line[] {
    return this.#endpoints.map(({ address, kind }) =>
      toLine(kind === undefined ? address : `${address} ${kind}`, this.#records.filter(({ servedBy }) => servedBy === address)),
    );
  }

  /** Requests of one kind, whichever endpoint served them. */
  ofKind(kind: string): Line {
    return toLine(kind, this.#records.filter((record) => record.kind === kind && record.failure === undefined));
  }

  /** What endpoints of one kind served. */
  byServers(kind: string): Line {
    const addresses = new Set(this.#endpoints.flatMap((endpoint) => (endpoint.kind === kind ? endpoint.address : [])));
    return toLine(kind, this.#records.filter(({ servedBy }) => servedBy !== undefined && addresses.has(servedBy)));
  }

  total(): Line {
    return toLine('all', this.#records.filter(({ failure }) => failure === undefined));
  }
}

function toLine(name: string, records: readonly RequestRecord[]): Line {
  const ttfts = records.flatMap(({ ttftMs }) => ttftMs ?? []).sort((a, b) => a - b);
  const lates = records.map(({ lateMs }) => lateMs).sort((a, b) => a - b);
  const prompt = records.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
  const cached = records.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
  return {
    name,
    requests: records.length,
    sessions: new Set(records.map(({ session }) => session)).size,
    cachedShare: prompt === 0 ? 0 : cached / prompt,
    computedTokens: prompt - cached,
    ttftP50Ms: quantile(ttfts, 0.5),
    ttftP99Ms: quantile(ttfts, 0.99),
    lateP99Ms: quantile(lates, 0.99),
  };
}

/** Nearest-rank quantile of sorted values; undefined of none. */
export function quantile(sorted: readonly number[], q: number): number | undefined {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))];
}

/** A table of one run by endpoint, ready to print. */
export function formatTable(board: Scoreboard): string {
  const rows = [...board.lines(), board.total()].map((line) => [
    line.name,
    String(line.requests),
    String(line.sessions),
    formatShare(line.cachedShare),
    formatMs(line.ttftP50Ms),
    formatMs(line.ttftP99Ms),
  ]);
  return formatGrid(['endpoint', 'requests', 'sessions', 'cached', 'TTFT p50', 'TTFT p99'], rows);
}

/** Columns under their titles, the first to the left, figures to the right. */
export function formatGrid(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const print = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ').trimEnd();
  return [print(head), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(print)].join('\n');
}

/** Milliseconds for people; a dash for what was not measured. */
export function formatMs(ms: number | undefined): string {
  return ms === undefined ? '–' : `${ms.toFixed(0)} ms`;
}

/** A share from 0 to 1 in percent. */
export function formatShare(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}
