import { BlockNames, chatPath, toTokens, wholeBlocks, type WorkloadOutcome, type WorkloadRequest } from './workload.ts';

/**
 * Reads a trace in the format of Azure's public LLM traces (github.com/Azure/AzurePublicDataset): CSV with TIMESTAMP, ContextTokens,
 * GeneratedTokens. They tell neither sessions nor prefixes: every prompt is taken for new.
 */
export function parseAzure(name: string, text: string): WorkloadOutcome {
  const [head = '', ...rows] = text.split(/\r?\n/);
  const columns = head.replace(/^\uFEFF/, '').split(',').map((column) => column.trim().toLowerCase());
  const at = { time: columns.indexOf('timestamp'), prompt: columns.indexOf('contexttokens'), output: columns.indexOf('generatedtokens') };
  if (at.time < 0 || at.prompt < 0 || at.output < 0) {
    return { ok: false, message: `${name}, line 1: expected the columns TIMESTAMP, ContextTokens, GeneratedTokens. --format names another format` };
  }
  const read: { atMs: number; promptTokens: number; outputTokens: number }[] = [];
  for (const [index, row] of rows.entries()) {
    if (row.trim() === '') continue;
    const cells = row.split(',');
    const atMs = parseTime(cells[at.time] ?? '');
    const promptTokens = toTokens(Number(cells[at.prompt]));
    const outputTokens = toTokens(Number(cells[at.output]));
    if (atMs === undefined || promptTokens === undefined || outputTokens === undefined) {
      return { ok: false, message: `${name}, line ${index + 2}: expected a time such as 2023-11-16 18:15:46.6805900 and two numbers of tokens, at least 1` };
    }
    read.push({ atMs, promptTokens, outputTokens });
  }
  read.sort((a, b) => a.atMs - b.atMs);
  const startMs = read[0]?.atMs ?? 0;
  const names = new BlockNames();
  const requests = read.map(
    ({ atMs, promptTokens, outputTokens }): WorkloadRequest => ({
      arrivalMs: atMs - startMs,
      promptTokens,
      outputTokens,
      blockHashes: names.fresh(wholeBlocks(promptTokens)),
      outputBlockHashes: [],
      session: undefined,
      model: undefined,
      tenant: undefined,
      path: chatPath,
    }),
  );
  return { ok: true, workload: { name, requests, assumptions: ['the trace tells no sessions and no prefixes: nothing is reused'] } };
}

/** `2023-11-16 18:15:46.6805900`, with or without zone, in ms; a time without one is taken for UTC. Finer than a millisecond is kept. */
function parseTime(text: string): number | undefined {
  const match = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?\s*(Z|[+-]\d\d:?\d\d)?$/.exec(text.trim());
  if (match === null) return undefined;
  const [, date = '', time = '', fraction = '', zone = 'Z'] = match;
  const ms = Date.parse(`${date}T${time}${zone}`);
  return Number.isNaN(ms) ? undefined : ms + Number(fraction === '' ? 0 : fraction) * 1_000;
}
