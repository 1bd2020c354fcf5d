/** One line of a page in Prometheus' text format. */
export interface Sample {
  readonly labels: ReadonlyMap<string, string>;
  /** Finite. */
  readonly value: number;
}

/** Longest line that is read, in bytes, and most of one name. */
const lineBytesMax = 65_536;
const samplesMax = 4_096;
/** Most places looked at where a name stands in the page, comments and longer names among them. */
const placesMax = 65_536;
const labelsMax = 64;

const newline = 0x0a;
const openingBrace = 0x7b;
const space = 0x20;
const tab = 0x09;

/**
 * The samples of one metric in a page of Prometheus' text format (version 0.0.4; OpenMetrics reads the same here). A model server's page
 * is a few hundred kilobytes of histograms around ten lines that matter: those are searched for, and the rest is not even decoded.
 * What cannot be read is left out, and so is what is not a finite number. Never throws.
 */
export function findSamples(page: Buffer, name: string): Sample[] {
  const samples: Sample[] = [];
  let places = 0;
  for (let at = page.indexOf(name); at !== -1 && places < placesMax && samples.length < samplesMax; places += 1) {
    const after = at + Buffer.byteLength(name);
    const next = page[after];
    const isLine = (at === 0 || page[at - 1] === newline) && (next === openingBrace || next === space || next === tab);
    let resume = after;
    if (isLine) {
      const newlineAt = page.indexOf(newline, after);
      const end = newlineAt === -1 ? page.length : newlineAt;
      if (end - after <= lineBytesMax) {
        const sample = parseSample(page.toString('utf8', after, end));
        if (sample !== undefined) samples.push(sample);
      }
      resume = end;
    }
    at = page.indexOf(name, resume);
  }
  return samples;
}

/** Reads what follows a metric's name: `{label="value",…} number [timestamp]`. */
function parseSample(line: string): Sample | undefined {
  const labels = new Map<string, string>();
  const text = line.trimStart();
  let rest = text;
  if (text.startsWith('{')) {
    const end = parseLabels(text, labels);
    if (end === undefined) return undefined;
    rest = text.slice(end);
  }
  const written = /^[ \t]*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:[ \t\r]|$)/.exec(rest)?.[1];
  if (written === undefined) return undefined;
  const value = Number(written);
  return Number.isFinite(value) ? { labels, value } : undefined;
}

const labelStart = /[ \t,]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"/y;
const labelText = /((?:[^"\\]|\\.)*)"/y;
const labelsEnd = /[ \t,]*\}/y;

/** Reads labels from the opening brace on; returns where they end, undefined where they do not. */
function parseLabels(text: string, labels: Map<string, string>): number | undefined {
  let at = 1;
  for (let count = 0; count <= labelsMax; count += 1) {
    labelsEnd.lastIndex = at;
    if (labelsEnd.test(text)) return labelsEnd.lastIndex;
    labelStart.lastIndex = at;
    const name = labelStart.exec(text)?.[1];
    if (name === undefined) return undefined;
    labelText.lastIndex = labelStart.lastIndex;
    const value = labelText.exec(text)?.[1];
    if (value === undefined) return undefined;
    labels.set(name, value.includes('\\') ? unescapeText(value) : value);
    at = labelText.lastIndex;
  }
  return undefined;
}

/** Backslash, quote and line feed are all that is escaped; before anything else a backslash means itself. */
function unescapeText(text: string): string {
  return text.replace(/\\(\\|"|n)/g, (_, escaped: string) => (escaped === 'n' ? '\n' : escaped));
}
