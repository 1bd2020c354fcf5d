import type { RunSummary } from './summary.ts';

/** Runs side by side, the first being what the others are compared with. */
export function formatTable(runs: readonly RunSummary[], objectiveMs: number): string {
  const base = runs[0]?.ttftMs.mean ?? 0;
  const head = [
    'policy', 'reuse', 'TTFT mean', 'p50', 'p90', 'p99', runs.length > 1 ? `of ${runs[0]?.policy ?? ''}` : '', 'TPOT', 'load CV',
    `TTFT <= ${formatMs(objectiveMs)}`, 'goodput', 'busy/1000', 'same endpoint', 'unfinished',
  ];
  const rows = runs.map((run) => [
    run.policy,
    percent(run.reuse),
    formatMs(run.ttftMs.mean),
    formatMs(run.ttftMs.p50),
    formatMs(run.ttftMs.p90),
    formatMs(run.ttftMs.p99),
    runs.length > 1 && base > 0 ? (run.ttftMs.mean / base).toFixed(3) : '',
    run.tpotMs === undefined ? '-' : formatMs(run.tpotMs),
    run.loadCv.toFixed(3),
    percent(run.withinObjective),
    `${run.goodputPerSecond.toFixed(1)}/s`,
    `${run.busySecondsPerThousand.toFixed(0)} s`,
    run.sameEndpoint === undefined ? '-' : percent(run.sameEndpoint),
    String([...run.unfinished.values()].reduce((sum, many) => sum + many, 0)),
  ]);
  const shown = head.map((title, i) => title !== '' || rows.some((row) => row[i] !== ''));
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const print = (cells: readonly string[]): string =>
    `  ${cells.flatMap((cell, i) => (shown[i] === true ? [i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)] : [])).join('  ')}`.trimEnd();
  return [print(head), ...rows.map(print), ...runs.flatMap(describeUnfinished)].join('\n') + '\n';
}

function describeUnfinished({ policy, unfinished }: RunSummary): string[] {
  if (unfinished.size === 0) return [];
  const parts = [...unfinished].sort(([, a], [, b]) => b - a).map(([ending, many]) => `${many} ${ending}`);
  return [`  ${policy}: ${parts.join(', ')}`];
}

/** A time short enough to read. */
export function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${ms >= 100 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
}

/** A share as per cent. */
export function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
