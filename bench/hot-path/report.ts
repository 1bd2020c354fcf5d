// What the measurements say: medians, ratios of pairs of runs, limits held or missed.
import { median } from '../statistics.ts';
import { cases, type Limit, limits } from './cases.ts';
import type { CaseResult, ProcessorResult } from './measure.ts';
import type { ProcessorName } from './processors.ts';

/** One limit held against what was measured. */
export interface Verdict extends Limit {
  /** Median of the rounds' ratios; NaN: not measured. */
  readonly ratio: number;
  readonly holds: boolean;
}

const find = (result: CaseResult, name: ProcessorName): ProcessorResult | undefined => result.processors.find((processor) => processor.name === name);

/** Middle ratio of CPU per request, round by round: what drifts between rounds is in both. NaN where one of them did not run. */
export function cpuRatio(result: CaseResult, of: ProcessorName, against: ProcessorName): number {
  const [mine, theirs] = [find(result, of)?.cpu ?? [], find(result, against)?.cpu ?? []];
  return median(mine.map(({ cpuUs }, round) => cpuUs / (theirs[round]?.cpuUs ?? NaN)));
}

/** What a processor adds to the latency of the route without one, in microseconds: median over the rounds. NaN where it was not measured. */
export function addedUs(result: CaseResult, name: ProcessorName, quantile: 'p50Us' | 'p99Us'): number {
  const samples = find(result, name)?.latency ?? [];
  return median(samples.map((sample, round) => sample[quantile] - (result.unprocessed[round]?.[quantile] ?? NaN)));
}

/** All limits on the cases that ran. A limit on a processor that did not run does not hold. */
export function judge(results: readonly CaseResult[], latencyMeasured: boolean): Verdict[] {
  return limits.flatMap((limit): Verdict[] => {
    const result = results.find(({ name }) => name === limit.caseName);
    if (result === undefined || (limit.measure !== 'cpu' && !latencyMeasured)) return [];
    const quantile = limit.measure === 'latencyP50' ? 'p50Us' : 'p99Us';
    const ratio =
      limit.measure === 'cpu'
        ? cpuRatio(result, limit.of, limit.against)
        : addedUs(result, limit.of, quantile) / addedUs(result, limit.against, quantile);
    return [{ ...limit, ratio, holds: ratio <= limit.max }];
  });
}

/** Requests that failed, as `case processor: N`. */
export function failuresOf(results: readonly CaseResult[]): string[] {
  return results.flatMap((result) => result.processors.filter(({ failures }) => failures > 0).map(({ name, failures }) => `${result.name} ${name}: ${failures}`));
}

/** One table for all cases, in Markdown. */
export function formatCases(results: readonly CaseResult[]): string {
  const head = ['case', 'processor', 'CPU µs/request', '× Go', 'requests/s', 'Envoy µs/request', 'added p50 / p99 µs', 'resident MB', 'failures'];
  const rows = results.flatMap((result) =>
    result.processors.map((processor, i) => {
      const of = (read: (sample: ProcessorResult['cpu'][number]) => number): number => median(processor.cpu.map(read));
      const [p50, p99] = [addedUs(result, processor.name, 'p50Us'), addedUs(result, processor.name, 'p99Us')];
      return [
        i === 0 ? result.name : '',
        processor.name,
        fixed(of(({ cpuUs }) => cpuUs), 0),
        fixed(cpuRatio(result, processor.name, 'go'), 2),
        fixed(of(({ requestsPerSecond }) => requestsPerSecond), 0),
        fixed(of(({ envoyCpuUs }) => envoyCpuUs), 0),
        Number.isNaN(p50) ? '' : `${p50.toFixed(0)} / ${p99.toFixed(0)}`,
        fixed(processor.residentMb, 0),
        String(processor.failures),
      ];
    }),
  );
  return formatTable(head, rows);
}

const measures: Readonly<Record<Limit['measure'], string>> = { cpu: 'CPU', latencyP50: 'added latency p50', latencyP99: 'added latency p99' };

/** The limits and whether they hold, in Markdown. */
export function formatVerdicts(verdicts: readonly Verdict[]): string {
  const rows = verdicts.map(({ caseName, measure, of, against, ratio, max, holds }) => [
    caseName,
    `${measures[measure]}, ${of} ÷ ${against}`,
    Number.isNaN(ratio) ? 'not measured' : ratio.toFixed(2),
    `≤ ${max}`,
    holds ? 'PASS' : 'MISS',
  ]);
  return formatTable(['case', 'ratio', 'measured', 'limit', ''], rows);
}

/** What the cases are, in Markdown. */
export function formatLegend(results: readonly CaseResult[]): string {
  return cases
    .filter(({ name }) => results.some((result) => result.name === name))
    .map(({ name, about, policy }) => `- ${name}: ${about} (${policy})`)
    .join('\n');
}

const fixed = (value: number, digits: number): string => (Number.isNaN(value) ? '' : value.toFixed(digits));

function formatTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string => `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}
