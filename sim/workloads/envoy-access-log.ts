import { toOutputTokens } from './answer-length.ts';
import { type Fields, parseObject } from './json-line.ts';
import { BlockNames, chatPath, toTokens, wholeBlocks, type WorkloadOutcome, type WorkloadRequest } from './workload.ts';

/** Bytes of a token of English in a prompt. */
const promptBytesPerToken = 4;

/** Names under which logs have a field; the first that is there counts. Envoy's and Istio's default JSON formats use the first ones. */
const fieldNames = {
  start: ['start_time', 'timestamp', 'time', '@timestamp'],
  path: ['path', 'x-envoy-original-path', 'request_path'],
  status: ['response_code', 'status'],
  bytesReceived: ['bytes_received', 'request_bytes'],
  bytesSent: ['bytes_sent', 'response_bytes'],
  contentType: ['content_type', 'response_content_type', 'resp_content_type'],
  session: ['session', 'session_id', 'x-session-id', 'x_session_id'],
  tenant: ['tenant', 'tenant_id', 'x-tenant-id', 'x_tenant_id'],
  model: ['model', 'x-model', 'x_model'],
  promptTokens: ['prompt_tokens', 'input_tokens'],
  outputTokens: ['output_tokens', 'completion_tokens'],
} as const;

/**
 * Reads Envoy's access log in JSON, one record a line. Of each record it needs the start and the size of the request (`bytes_received`, or
 * `prompt_tokens`); with session, model, tenant and path it can tell more (docs/routing-quality.md has the format to log). An access log
 * does not tell prefixes: the prompts of one session are taken for growing ones, each beginning with the one before.
 */
export function parseEnvoyAccessLog(name: string, text: string): WorkloadOutcome {
  const read: { atMs: number; fields: Fields; promptTokens: number }[] = [];
  let line = 0;
  let left = 0;
  for (const row of text.split('\n')) {
    line += 1;
    if (row.trim() === '') continue;
    const fields = parseObject(row);
    const atMs = fields && toTimeMs(find(fields, 'start'));
    if (fields === undefined || atMs === undefined) {
      return { ok: false, message: `${name}, line ${line}: expected a JSON object with start_time, such as "2026-01-01T00:00:00.000Z". Log with json_format (docs/routing-quality.md), or name the --format` };
    }
    const bytes = toTokens(toNumber(find(fields, 'bytesReceived')));
    const promptTokens = toTokens(toNumber(find(fields, 'promptTokens'))) ?? (bytes && Math.max(1, Math.round(bytes / promptBytesPerToken)));
    const status = toNumber(find(fields, 'status'));
    // Requests without a body, and those that never reached a model, are no work for one.
    if (promptTokens === undefined || (status !== undefined && (status === 0 || status >= 400))) {
      left += 1;
      continue;
    }
    read.push({ atMs, fields, promptTokens });
  }
  if (read.length === 0) {
    return { ok: false, message: `${name}: none of ${left} records is an answered request with a size. Log bytes_received or prompt_tokens, and response_code` };
  }
  read.sort((a, b) => a.atMs - b.atMs);
  const startMs = read[0]?.atMs ?? 0;
  const names = new BlockNames();
  let outputsKnown = 0;
  let withSession = 0;
  const requests = read.map(({ atMs, fields, promptTokens }): WorkloadRequest => {
    const session = toText(find(fields, 'session'));
    const tenant = toText(find(fields, 'tenant'));
    const outputs = toTokens(toNumber(find(fields, 'outputTokens')));
    if (outputs !== undefined) outputsKnown += 1;
    if (session !== undefined) withSession += 1;
    const outputTokens = outputs ?? toOutputTokens(toNumber(find(fields, 'bytesSent')), toText(find(fields, 'contentType'))?.includes('event-stream') === true);
    const blocks = wholeBlocks(promptTokens);
    const key = JSON.stringify([tenant ?? '', session ?? '']);
    const all = session === undefined ? names.fresh(blocks) : names.of(key, wholeBlocks(promptTokens + outputTokens));
    return {
      arrivalMs: atMs - startMs,
      promptTokens,
      outputTokens,
      blockHashes: all.slice(0, blocks),
      outputBlockHashes: all.slice(blocks),
      session,
      tenant,
      model: toText(find(fields, 'model')),
      path: toText(find(fields, 'path'))?.split('?')[0] ?? chatPath,
    };
  });
  const assumptions = [
    `${withSession} of ${requests.length} requests name a session; prompts of one session are taken for growing ones, all others for new`,
    ...(outputsKnown < requests.length ? [`lengths of ${requests.length - outputsKnown} answers are reckoned from their bytes`] : []),
    ...(left > 0 ? [`${left} records left out: refused, failed, or without a size`] : []),
  ];
  return { ok: true, workload: { name, requests, assumptions } };
}

function find(fields: Fields, what: keyof typeof fieldNames): unknown {
  for (const name of fieldNames[what]) {
    const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
    // Envoy writes what it does not know as null or "-".
    if (value !== undefined && value !== null && value !== '-' && value !== '') return value;
  }
  return undefined;
}

function toTimeMs(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  const ms = typeof value === 'string' ? Date.parse(value) : NaN;
  return Number.isNaN(ms) ? undefined : ms;
}

function toNumber(value: unknown): number | undefined {
  const number = typeof value === 'string' ? Number(value) : value;
  return typeof number === 'number' && Number.isFinite(number) ? number : undefined;
}

function toText(value: unknown): string | undefined {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : undefined;
}
