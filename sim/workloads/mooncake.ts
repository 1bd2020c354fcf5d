import { parseObject } from './json-line.ts';
import { chatPath, toTokens, wholeBlocks, type WorkloadOutcome, type WorkloadRequest } from './workload.ts';

/**
 * Reads a trace in the format of Mooncake (github.com/kvcache-ai/Mooncake, FAST'25 release): JSON lines with `timestamp` in ms, `input_length`
 * and `output_length` in tokens, and `hash_ids`, one id for each started block of 512 prompt tokens, chained: an equal id means an equal
 * prompt up to there. The session is `extra.prompt_cache_key` or `session_id`; where a trace has neither, it is inferred from the chains.
 */
export function parseMooncake(name: string, text: string): WorkloadOutcome {
  const requests: WorkloadRequest[] = [];
  const sessions = new InferredSessions();
  let inferred = 0;
  let line = 0;
  for (const row of text.split('\n')) {
    line += 1;
    if (row.trim() === '') continue;
    const fields = parseObject(row);
    const arrivalMs = fields?.['timestamp'];
    const promptTokens = toTokens(fields?.['input_length']);
    const outputTokens = toTokens(fields?.['output_length']);
    const ids = fields?.['hash_ids'];
    const isTrace = typeof arrivalMs === 'number' && arrivalMs >= 0 && promptTokens !== undefined && outputTokens !== undefined;
    if (!isTrace || !Array.isArray(ids) || !ids.every(isBlockId)) {
      const expected = 'an object with timestamp (ms), input_length, output_length (tokens, at least 1) and hash_ids (whole numbers)';
      return { ok: false, message: `${name}, line ${line}: expected ${expected}. Is this a trace in Mooncake's format? --format names another` };
    }
    const blockHashes = ids.slice(0, wholeBlocks(promptTokens));
    let session = sessionOf(fields);
    if (session === undefined) {
      inferred += 1;
      session = sessions.of(blockHashes);
    }
    requests.push({ arrivalMs, promptTokens, outputTokens, blockHashes, outputBlockHashes: [], session, model: undefined, tenant: undefined, path: chatPath });
  }
  requests.sort((a, b) => a.arrivalMs - b.arrivalMs);
  const assumptions = inferred > 0 ? [`${inferred} of ${requests.length} requests name no session: inferred from chains of blocks`] : [];
  return { ok: true, workload: { name, requests, assumptions } };
}

function isBlockId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function sessionOf(fields: Readonly<Record<string, unknown>> | undefined): string | undefined {
  const extra = fields?.['extra'];
  const key = typeof extra === 'object' && extra !== null ? (extra as Record<string, unknown>)['prompt_cache_key'] : fields?.['session_id'];
  return typeof key === 'string' || typeof key === 'number' ? String(key) : undefined;
}

/** A prompt that goes on where an earlier one ended is the next turn of its session; a common system prompt ends no prompt. */
class InferredSessions {
  readonly #byLastBlock = new Map<number, string>();
  #count = 0;

  of(blocks: readonly number[]): string {
    const continued = blocks.findLast((block) => this.#byLastBlock.has(block));
    const known = continued === undefined ? undefined : this.#byLastBlock.get(continued);
    const session = known ?? `inferred-${this.#count}`;
    if (known === undefined) this.#count += 1;
    const last = blocks.at(-1);
    // Of a prompt of one block nobody knows whether that is its own.
    if (last !== undefined && blocks.length > 1) this.#byLastBlock.set(last, session);
    return session;
  }
}
