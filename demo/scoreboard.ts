import type { RequestRecord } from './chat-traffic.ts';

/** What one endpoint, or all of them, did. */
export interface Line {
  readonly endpoint: string;
  readonly requests: number;
  readonly sessions: number;
  /** Share of prompt tokens that came from the endpoint's cache. */
  readonly cachedShare: number;
  readonly ttftP50Ms: number | undefined;
  readonly ttftP99Ms: number | undefined;
}

/** Adds up what the client saw. */
export class Scoreboard {
  readonly #records: RequestRecord[] = [];
  readonly #endpoints: readonly string[];

  constructor(endpoints: readonly string[]) {
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

  lines(): Line[] {
    return this.#endpoints.map((endpoint) => toLine(endpoint, this.#records.filter(({ servedBy }) => servedBy === endpoint)));
  }

  total(): Line {
    return toLine('all', this.#records.filter(({ failure }) => failure === undefined));
  }
}

function toLine(endpoint: string, records: readonly RequestRecord[]): Line {
  const ttfts = records.flatMap(({ ttftMs }) => ttftMs ?? []).sort((a, b) => a - b);
  const prompt = records.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
  const cached = records.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
  return {
    endpoint,
    requests: records.length,
    sessions: new Set(records.map(({ session }) => session)).size,
    cachedShare: prompt === 0 ? 0 : cached / prompt,
    ttftP50Ms: quantile(ttfts, 0.5),
    ttftP99Ms: quantile(ttfts, 0.99),
  };
}

/** Nearest-rank quantile of sorted values; undefined of none. */
export function quantile(sorted: readonly number[], q: number): number | undefined {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))];
}

/** A table of one run, ready to print. */
export function formatTable(board: Scoreboard): string {
  const head = ['endpoint', 'requests', 'sessions', 'cached', 'TTFT p50', 'TTFT p99'];
  const rows = [...board.lines(), board.total()].map((line) => [
    line.endpoint,
    String(line.requests),
    String(line.sessions),
    `${(line.cachedShare * 100).toFixed(0)} %`,
    formatMs(line.ttftP50Ms),
    formatMs(line.ttftP99Ms),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const print = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ').trimEnd();
  return [print(head), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(print)].join('\n');
}

/** Milliseconds for people; a dash for what was not measured. */
export function formatMs(ms: number | undefined): string {
  return ms === undefined ? '–' : `${ms.toFixed(0)} ms`;
}
