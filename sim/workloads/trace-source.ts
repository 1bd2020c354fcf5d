import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { SeededRng } from '../clock/seeded-rng.ts';
import { parseAzure } from './azure.ts';
import { parseDecisionLog } from './decision-log.ts';
import { parseEnvoyAccessLog } from './envoy-access-log.ts';
import { generateWorkload, type GeneratorName, generators } from './generated.ts';
import { parseMooncake } from './mooncake.ts';
import type { WorkloadOutcome } from './workload.ts';

/** Every format by its name in `--format`. */
export const traceFormats = {
  mooncake: parseMooncake,
  azure: parseAzure,
  'decision-log': parseDecisionLog,
  'envoy-access-log': parseEnvoyAccessLog,
} as const satisfies Record<string, (name: string, text: string) => WorkloadOutcome>;

export type TraceFormat = keyof typeof traceFormats;

/** Largest trace read, unpacked, in bytes: what a string can hold, with room. */
const bytesMax = 500_000_000;
/** Requests of a generated workload, unless told otherwise. */
export const generatedRequestsDefault = 4_000;

/** Where public traces are looked for by name. */
export function tracesFolder(root: string, environment: Readonly<Record<string, string | undefined>> = process.env): string {
  const told = environment['FAIRLEAD_TRACES'];
  return told === undefined || told === '' ? path.resolve(root, '../shared/traces') : told;
}

/** The file of a public trace: as named, or as it may be packed. Undefined: it is not there. */
export function findTrace(folder: string, name: string): string | undefined {
  return [name, `${name}.jsonl.gz`, `${name}.csv.gz`, `${name}.jsonl`, `${name}.csv`].map((file) => path.join(folder, file)).find((file) => isFile(file));
}

export interface TraceSource {
  /** A file, the name of a trace in `folder`, or `generated:NAME`. */
  readonly trace: string;
  readonly format: TraceFormat | undefined;
  /** Where traces are looked for by name. */
  readonly folder: string;
  readonly seed: number;
  readonly requestsMax: number | undefined;
}

/** Reads or makes a workload. Never throws for what a user can have given. */
export function readWorkload({ trace, format, folder, seed, requestsMax }: TraceSource): WorkloadOutcome {
  if (trace.startsWith('generated:')) {
    const name = trace.slice('generated:'.length);
    if (!isGenerator(name)) return { ok: false, message: `nothing generates ${name}; expected one of: ${Object.keys(generators).join(', ')}` };
    return { ok: true, workload: generateWorkload(name, { rng: new SeededRng(seed, 'workload'), requests: requestsMax ?? generatedRequestsDefault }) };
  }
  const file = isFile(trace) ? trace : findTrace(folder, trace);
  if (file === undefined) {
    const cure = `name a file, a trace in $FAIRLEAD_TRACES (looked in ${folder}), or one of: ${Object.keys(generators).map((name) => `generated:${name}`).join(', ')}`;
    return { ok: false, message: `there is no trace ${trace}: ${cure}` };
  }
  let text: string;
  try {
    const bytes = readFileSync(file);
    text = (bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes, { maxOutputLength: bytesMax }) : bytes).toString('utf8');
  } catch (error) {
    return { ok: false, message: `${file} cannot be read: ${(error as Error).message}` };
  }
  const found = format ?? detectFormat(text);
  if (found === undefined) return { ok: false, message: `${file} is of no format known here; name it with --format: ${Object.keys(traceFormats).join(', ')}` };
  const name = path.basename(file).replace(/(\.jsonl|\.csv|\.json|\.log)?(\.gz)?$/, '');
  const outcome = traceFormats[found](name, text);
  if (outcome.ok && outcome.workload.requests.length === 0) return { ok: false, message: `${file} holds no request` };
  return outcome;
}

/** By the first line: what each format must have there. */
function detectFormat(text: string): TraceFormat | undefined {
  const line = text.slice(0, 1_000_000).split('\n').find((row) => row.trim() !== '') ?? '';
  if (/^\uFEFF?\s*timestamp\s*,/i.test(line)) return 'azure';
  if (!line.trimStart().startsWith('{')) return undefined;
  if (line.includes('"hash_ids"')) return 'mooncake';
  return /"event":\s*"(decision|refusal|completion)"/.test(line) ? 'decision-log' : 'envoy-access-log';
}

function isGenerator(name: string): name is GeneratorName {
  return Object.hasOwn(generators, name);
}

function isFile(file: string): boolean {
  return existsSync(file) && statSync(file).isFile();
}
