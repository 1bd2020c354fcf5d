import { toOutputTokens } from './answer-length.ts';
import { type Fields, parseObject } from './json-line.ts';
import { BlockNames, chatPath, toTokens, wholeBlocks, type WorkloadOutcome, type WorkloadRequest } from './workload.ts';

/**
 * Reads Fairlead's decision log (docs/decision-log.md): JSON lines of decisions, refusals and completions, joined by their lease. Where it was
 * written with prefix hashes, reuse is what it was; without them, the prompts of one session are taken for growing ones.
 */
export function parseDecisionLog(name: string, text: string): WorkloadOutcome {
  const decisions: { readonly atMs: number; readonly fields: Fields }[] = [];
  const completions = new Map<string, Fields>();
  let line = 0;
  for (const row of text.split('\n')) {
    line += 1;
    if (row.trim() === '') continue;
    const fields = parseObject(row);
    const atMs = typeof fields?.['time'] === 'string' ? Date.parse(fields['time']) : NaN;
    const event = fields?.['event'];
    if (fields === undefined || Number.isNaN(atMs) || typeof event !== 'string') {
      return { ok: false, message: `${name}, line ${line}: expected a line of Fairlead's decision log, an object with event and time. --format names another format` };
    }
    const lease = fields['lease'];
    // What was refused is asked again: another policy may take it.
    if (event === 'decision' || event === 'refusal') decisions.push({ atMs, fields });
    else if (event === 'completion' && typeof lease === 'string') completions.set(lease, fields);
  }
  decisions.sort((a, b) => a.atMs - b.atMs);
  const startMs = decisions[0]?.atMs ?? 0;
  const texts = new BlockNames();
  const interned = new Map<number, number>();
  let withPrefix = 0;
  let withEnd = 0;
  const requests: WorkloadRequest[] = [];
  for (const { atMs, fields } of decisions) {
    const promptTokens = toTokens(fields['promptTokens']) ?? toTokens(fields['reckonedTokens']);
    if (promptTokens === undefined) continue;
    const end = typeof fields['lease'] === 'string' ? completions.get(fields['lease']) : undefined;
    if (end !== undefined) withEnd += 1;
    const outputTokens = toOutputTokens(toNumber(end?.['responseBytes']), fields['stream'] === true);
    const session = typeof fields['session'] === 'string' ? fields['session'] : undefined;
    const hashes = fields['prefixHashes'];
    const blocks = wholeBlocks(promptTokens);
    let blockHashes: readonly number[];
    let outputBlockHashes: readonly number[] = [];
    if (Array.isArray(hashes) && hashes.every(isHash)) {
      withPrefix += 1;
      // Small names: engines with smaller blocks make several of each.
      blockHashes = hashes.slice(0, blocks).map((hash) => {
        const known = interned.get(hash) ?? interned.size + 1;
        interned.set(hash, known);
        return known;
      });
    } else {
      const all = session === undefined ? texts.fresh(blocks) : texts.of(session, wholeBlocks(promptTokens + outputTokens));
      // Apart from interned names.
      blockHashes = all.slice(0, blocks).map((block) => block + unhashedFrom);
      outputBlockHashes = all.slice(blocks).map((block) => block + unhashedFrom);
    }
    const model = typeof fields['model'] === 'string' ? fields['model'] : undefined;
    requests.push({ arrivalMs: atMs - startMs, promptTokens, outputTokens, blockHashes, outputBlockHashes, session, model, tenant: undefined, path: chatPath });
  }
  const assumptions = [
    `${withPrefix} of ${requests.length} requests tell their prefix; prompts of one session are taken for growing ones, all others for new`,
    `lengths of answers are reckoned from their bytes, known of ${withEnd}`,
  ];
  return { ok: true, workload: { name, requests, assumptions } };
}

const unhashedFrom = 2 ** 40;

function isHash(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function toNumber(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}
