/** A line of a plot. */
export interface PlotLine {
  /** In the key; empty: not in it. */
  readonly name: string;
  readonly colour: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

interface Axis {
  readonly label: string;
  readonly logarithmic?: boolean;
  /** Its end; undefined: what the points need. */
  readonly max?: number;
}

export interface LinePlot {
  readonly lines: readonly PlotLine[];
  readonly x: Axis;
  readonly y: Axis;
  /** For those who do not see it. */
  readonly alt: string;
}

const width = 900;
const height = 260;
const margin = { left: 56, right: 16, top: 12, bottom: 36 };
const inner = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };
const keyRowHeight = 18;

/** Lines over two axes, with a key below, as SVG. */
export function linePlot({ lines, x, y, alt }: LinePlot): string {
  const atX = lines.flatMap(({ points }) => points.map(([at]) => at));
  // Time ends with the last point; other axes end with a tick.
  const xs = scaleOf(atX, x.logarithmic === true ? x : { max: atX.reduce((most, at) => Math.max(most, at), 1), ...x });
  const ys = scaleOf(lines.flatMap(({ points }) => points.map(([, at]) => at)), { ...y, logarithmic: false });
  const px = (value: number): string => (margin.left + xs.at(value) * inner.width).toFixed(1);
  const py = (value: number): string => (margin.top + (1 - ys.at(value)) * inner.height).toFixed(1);
  const bottom = margin.top + inner.height;
  const grid = [
    ...xs.ticks.map((tick) => `<line x1="${px(tick)}" y1="${margin.top}" x2="${px(tick)}" y2="${bottom}" stroke="#e5e5e5"/><text x="${px(tick)}" y="${bottom + 14}" text-anchor="middle">${toLabel(tick)}</text>`),
    ...ys.ticks.map((tick) => `<line x1="${margin.left}" y1="${py(tick)}" x2="${width - margin.right}" y2="${py(tick)}" stroke="#e5e5e5"/><text x="${margin.left - 6}" y="${Number(py(tick)) + 4}" text-anchor="end">${toLabel(tick)}</text>`),
    `<text x="${width - margin.right}" y="${bottom + 28}" text-anchor="end">${text(x.label)}</text>`,
    `<text x="${margin.left + 6}" y="${margin.top + 12}">${text(y.label)}</text>`,
  ];
  const drawn = lines.map(({ colour, points }) => {
    const path = points.map(([atX, atY], i) => `${i === 0 ? 'M' : 'L'}${px(atX)} ${py(atY)}`).join('');
    return path === '' ? '' : `<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.6"/>`;
  });
  const named = lines.filter(({ name }) => name !== '');
  const total = height + Math.ceil(named.length / 4) * keyRowHeight;
  return `<svg viewBox="0 0 ${width} ${total}" role="img" aria-label="${text(alt)}">${grid.join('')}${drawn.join('')}${keyOf(named.map(({ name, colour }) => [name, colour]), height + 8)}</svg>`;
}

export interface StackedBars {
  readonly bars: readonly { readonly name: string; readonly parts: readonly (readonly [name: string, size: number])[] }[];
  readonly colours: readonly string[];
  readonly alt: string;
}

const barHeight = 26;
const barLabelWidth = 180;

/** Horizontal bars, each divided by the shares of its parts; equal names have equal colours. */
export function stackedBars({ bars, colours, alt }: StackedBars): string {
  const names = [...new Set(bars.flatMap(({ parts }) => parts.map(([name]) => name)))];
  const colourOf = (name: string): string => colours[names.indexOf(name) % colours.length] ?? '#000';
  const drawn = bars.map(({ name, parts }, row) => {
    const total = parts.reduce((sum, [, size]) => sum + size, 0);
    const y = row * barHeight + 4;
    let from = barLabelWidth;
    const pieces = parts.map(([part, size]) => {
      const length = total === 0 ? 0 : (size / total) * (width - barLabelWidth - margin.right);
      const share = total === 0 ? 0 : (size / total) * 100;
      const label = length > 60 ? `<text x="${(from + length / 2).toFixed(1)}" y="${y + 14}" text-anchor="middle" style="fill:#fff">${share.toFixed(0)} %</text>` : '';
      const piece = `<rect x="${from.toFixed(1)}" y="${y}" width="${length.toFixed(1)}" height="${barHeight - 8}" fill="${colourOf(part)}"><title>${text(part)}: ${size}</title></rect>${label}`;
      from += length;
      return piece;
    });
    return `<text x="0" y="${y + 14}">${text(name)}</text>${pieces.join('')}`;
  });
  const keyY = bars.length * barHeight + 12;
  const total = keyY + Math.ceil(names.length / 4) * keyRowHeight;
  return `<svg viewBox="0 0 ${width} ${total}" role="img" aria-label="${text(alt)}">${drawn.join('')}${keyOf(names.map((name) => [name, colourOf(name)]), keyY)}</svg>`;
}

function keyOf(entries: readonly (readonly [name: string, colour: string])[], y: number): string {
  return entries
    .map(([name, colour], i) => {
      const at = { x: (i % 4) * (width / 4), y: y + Math.floor(i / 4) * keyRowHeight };
      return `<rect x="${at.x}" y="${at.y}" width="12" height="4" fill="${colour}"/><text x="${at.x + 18}" y="${at.y + 6}">${text(name)}</text>`;
    })
    .join('');
}

function scaleOf(values: readonly number[], { logarithmic = false, max }: Axis): { at: (value: number) => number; ticks: number[] } {
  let low = logarithmic ? Infinity : 0;
  let high = max ?? -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    if (max === undefined) high = Math.max(high, value);
  }
  if (!Number.isFinite(low)) low = 1;
  if (!(high > low)) high = low + 1;
  if (logarithmic) {
    const from = Math.floor(Math.log10(low));
    const to = Math.max(from + 1, Math.ceil(Math.log10(high)));
    const ticks = Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
    return { at: (value) => (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from), ticks };
  }
  const step = niceStep((high - low) / 5);
  const end = max ?? Math.ceil(high / step) * step;
  const ticks: number[] = [];
  for (let tick = 0; low + tick * step <= end * (1 + 1e-9); tick += 1) ticks.push(low + tick * step);
  return { at: (value) => Math.min(1, Math.max(0, (value - low) / (end - low))), ticks };
}

/** 1, 2 or 5 times a power of ten, at least so much. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9)) ?? 10);
}

function toLabel(value: number): string {
  if (value >= 1_000_000) return `${Number((value / 1_000_000).toFixed(1))}M`;
  if (value >= 10_000) return `${Number((value / 1_000).toFixed(1))}k`;
  return String(Number(value.toFixed(3)));
}

function text(value: string): string {
  return value.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
