import type { LoadSample, RequestOutcome } from '../outcomes.ts';
import { linePlot, type PlotLine, stackedBars } from './plots.ts';
import type { RunSummary } from './summary.ts';
import { formatMs, percent } from './table.ts';

/** One run, with what its plots need. */
export interface ReportedRun {
  readonly summary: RunSummary;
  readonly requests: readonly RequestOutcome[];
  readonly samples: readonly LoadSample[];
  readonly addresses: readonly string[];
}

export interface HtmlReport {
  readonly title: string;
  /** What was run, as pairs of name and value. */
  readonly settings: readonly (readonly [name: string, value: string])[];
  readonly assumptions: readonly string[];
  readonly objectiveMs: number;
  readonly runs: readonly ReportedRun[];
}

/** Colours that differ in print and to colour-blind eyes (Okabe & Ito). */
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#000000', '#999999'];

/** Samples of load that make one point of its plot. */
const samplesPerPoint = 16;

const style = `
:root { color-scheme: light; }
body { font: 14px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 960px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: #666; } dd { margin: 0; }
figure { margin: 1rem 0; break-inside: avoid; } figcaption { color: #444; } svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: #333; } .note { color: #555; }
@media print { body { max-width: none; margin: 0; font-size: 11px; } h2 { break-after: avoid; } }
`;

/** The report as one page that needs nothing else: no script, no font, no picture from elsewhere. */
export function toHtml({ title, settings, assumptions, objectiveMs, runs }: HtmlReport): string {
  const ttfts: PlotLine[] = runs.map(({ summary, requests }, i) => ({ name: summary.policy, colour: colourOf(i), points: cumulative(requests) }));
  const reuse: PlotLine[] = runs.map(({ summary, requests }, i) => ({ name: summary.policy, colour: colourOf(i), points: reuseOverTime(requests) }));
  const reasons = runs.map(({ summary }) => ({ name: summary.policy, parts: [...summary.reasons].sort(([, a], [, b]) => b - a) }));
  const loads = runs.map(({ summary, samples: taken, addresses }) => {
    const samples = averaged(taken);
    const lines = addresses.map((address, endpoint): PlotLine => ({
      name: address,
      colour: colourOf(endpoint),
      points: samples.map(({ atMs, inFlight }) => [atMs / 1_000, inFlight[endpoint] ?? 0]),
    }));
    const shown = lines.length <= colours.length ? lines : lines.map((line) => ({ ...line, name: '' }));
    return figure(`${summary.policy}: requests in flight on each endpoint`, linePlot({ lines: shown, x: { label: 'virtual time, s' }, y: { label: 'requests' }, alt: `Load per endpoint under ${summary.policy}` }));
  });
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>${style}</style>
</head>
<body>
<h1>${escape(title)}</h1>
<dl>${settings.map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`).join('')}</dl>
${assumptions.length === 0 ? '' : `<p class="note">Assumed: ${escape(assumptions.join('; '))}.</p>`}
<h2>Summary</h2>
${summaryTable(runs.map(({ summary }) => summary), objectiveMs)}
<h2>Time to first token</h2>
${figure('Share of requests whose first token came within a time', linePlot({ lines: ttfts, x: { label: 'ms', logarithmic: true }, y: { label: 'share', max: 1 }, alt: 'Cumulative distribution of time to first token' }))}
<h2>Reuse</h2>
${figure('Share of prompt tokens found in caches, over the last tenth of the requests', linePlot({ lines: reuse, x: { label: 'virtual time, s' }, y: { label: 'share', max: 1 }, alt: 'Reuse over time' }))}
<h2>Load</h2>
${loads.join('\n')}
<h2>Decisions by reason</h2>
${figure('What tipped the decisions', stackedBars({ bars: reasons, colours, alt: 'Decisions by reason' }))}
</body>
</html>
`;
}

function summaryTable(runs: readonly RunSummary[], objectiveMs: number): string {
  const head = ['policy', 'reuse', 'TTFT mean', 'p50', 'p90', 'p99', 'TPOT', 'load CV', `TTFT ≤ ${formatMs(objectiveMs)}`, 'goodput', 'busy per 1000', 'same endpoint', 'unfinished'];
  const rows = runs.map((run) => [
    run.policy,
    percent(run.reuse),
    ...[run.ttftMs.mean, run.ttftMs.p50, run.ttftMs.p90, run.ttftMs.p99].map(formatMs),
    run.tpotMs === undefined ? '–' : formatMs(run.tpotMs),
    run.loadCv.toFixed(3),
    percent(run.withinObjective),
    `${run.goodputPerSecond.toFixed(1)}/s`,
    `${run.busySecondsPerThousand.toFixed(0)} s`,
    run.sameEndpoint === undefined ? '–' : percent(run.sameEndpoint),
    [...run.unfinished].map(([ending, many]) => `${many} ${ending}`).join(', ') || '0',
  ]);
  const row = (cells: readonly string[], tag: string): string => `<tr>${cells.map((cell) => `<${tag}>${escape(cell)}</${tag}>`).join('')}</tr>`;
  return `<table><thead>${row(head, 'th')}</thead><tbody>${rows.map((cells) => row(cells, 'td')).join('')}</tbody></table>`;
}

/** Load jumps from moment to moment; its mean over some samples shows where it lies. */
function averaged(samples: readonly LoadSample[]): LoadSample[] {
  const means: LoadSample[] = [];
  for (let from = 0; from < samples.length; from += samplesPerPoint) {
    const some = samples.slice(from, from + samplesPerPoint);
    const first = some[0];
    if (first === undefined) continue;
    means.push({ atMs: first.atMs, inFlight: first.inFlight.map((_, i) => some.reduce((sum, { inFlight }) => sum + (inFlight[i] ?? 0), 0) / some.length) });
  }
  return means;
}

/** At most 200 points of the distribution. */
function cumulative(requests: readonly RequestOutcome[]): [number, number][] {
  const sorted = requests.flatMap(({ ttftMs }) => ttftMs ?? []).sort((a, b) => a - b);
  const points = Math.min(200, sorted.length);
  return Array.from({ length: points }, (_, i) => {
    const at = points === 1 ? 0 : Math.round((i / (points - 1)) * (sorted.length - 1));
    return [Math.max(1, sorted[at] ?? 1), (at + 1) / sorted.length];
  });
}

function reuseOverTime(requests: readonly RequestOutcome[]): [number, number][] {
  const served = requests.filter(({ ttftMs }) => ttftMs !== undefined);
  const window = Math.max(1, Math.floor(served.length / 10));
  const step = Math.max(1, Math.floor(served.length / 100));
  const points: [number, number][] = [];
  for (let end = window; end <= served.length; end += step) {
    let prompt = 0;
    let cached = 0;
    for (const request of served.slice(end - window, end)) {
      prompt += request.promptTokens;
      cached += request.cachedTokens;
    }
    points.push([(served[end - 1]?.arrivalMs ?? 0) / 1_000, prompt === 0 ? 0 : cached / prompt]);
  }
  return points;
}

function figure(caption: string, svg: string): string {
  return `<figure>${svg}<figcaption>${escape(caption)}</figcaption></figure>`;
}

function colourOf(index: number): string {
  return colours[index % colours.length] ?? '#000';
}

/** Text as it may stand in HTML. */
export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
