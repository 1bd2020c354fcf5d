import type { EngineMetrics } from '../core/fleet-snapshot.ts';
import type { Load } from '../fleet/load.ts';
import { type HealthRow, parseHealthFields, toHealthFields } from '../fleet/health-row.ts';
import type { LoadEvent, PoolLoad } from '../fleet/shared-state.ts';
import { parseMetricsRows, type ToldMetrics, toMetricsRows } from './metrics-rows.ts';
import type { Completion, CompletionSignal, Ending } from './ports.ts';

/** What one router tells the others of one pool: its whole load, or what changed since it last spoke. */
export type PoolMessage =
  | {
      readonly kind: 'snapshot';
      readonly router: string;
      /** Rises with every message of a router: what is older than what was heard already is dropped. */
      readonly sequence: number;
      readonly loads: PoolLoad;
      /** Whether the router pushes events between snapshots. */
      readonly pushes: boolean;
      /** What it read of model servers' metrics since its last snapshot, by address; undefined: nothing. */
      readonly metrics?: ReadonlyMap<string, ToldMetrics>;
      /** All that it knows to have been said of endpoints' health; not in every snapshot. */
      readonly health?: readonly HealthRow[];
    }
  | { readonly kind: 'events'; readonly router: string; readonly sequence: number; readonly events: readonly LoadEvent[] };

/** A completion report on its way to the router that owns the lease. */
export interface ForwardedCompletion {
  readonly lease: string;
  readonly completion: Completion;
}

/** What one router tells another, and nobody else. */
export interface ReportsMessage {
  readonly router: string;
  /** Of this message among its router's, from 1; 0: it need not be acknowledged. */
  readonly number: number;
  readonly reports: readonly ForwardedCompletion[];
  /** Numbers of the other's messages that have arrived. */
  readonly received: readonly number[];
}

/** Bounds on what is taken from Redis, whoever wrote it there. */
const messageCharsMax = 4_000_000;
const entriesMax = 20_000;
const countMax = 1e9;
const routerName = /^[\w.-]{1,80}$/;
const keyIdName = /^[0-9a-f]{32}$/;
const leaseName = /^[\w.-]{1,128}$/;

const version = 2;

/** What every message of a router starts with, and no other router's: tells one's own without reading them. */
export function openingOf(router: string): string {
  return `[${version},${JSON.stringify(router)},`;
}

/** A snapshot as text. The pool is not in it: it is the channel's. */
export function encodeSnapshot(
  router: string,
  sequence: number,
  loads: PoolLoad,
  pushes: boolean,
  metrics?: { readonly read: ReadonlyMap<string, EngineMetrics>; readonly nowMs: number },
  health: readonly HealthRow[] = [],
): string {
  const rows = [...loads].map(([address, { requests, promptTokens, requestsWaiting, uncachedTokensWaiting }]) => [
    address,
    toCount(requests),
    toCount(promptTokens),
    toCount(requestsWaiting),
    toCount(uncachedTokensWaiting),
  ]);
  const read = metrics === undefined || metrics.read.size === 0 ? [] : toMetricsRows(metrics.read, metrics.nowMs);
  const more = health.length > 0 ? [read, health.map(toHealthFields)] : read.length > 0 ? [read] : [];
  return JSON.stringify([version, router, sequence, 's', pushes ? 1 : 0, rows, ...more]);
}

/** Events as text, all of one pool; at most 20 000. */
export function encodeEvents(router: string, sequence: number, events: readonly LoadEvent[]): string {
  return JSON.stringify([version, router, sequence, 'e', events.map(toRow)]);
}

/** Trailing fields that say nothing are left out. */
function toRow(event: LoadEvent): unknown[] {
  if (event.kind === 'health') return ['h', event.address, toHealthFields(event.row)];
  const uncached = toCount(event.uncachedTokens);
  switch (event.kind) {
    case 'dispatch': {
      const { placement, cached } = event;
      const row: unknown[] = ['d', event.address, toCount(event.promptTokens), uncached];
      const keyId = placement?.keyId ?? cached?.keyId;
      if (keyId === undefined && cached === undefined) return row;
      row.push(keyId ?? 0, placement === undefined ? 0 : placement.away ? 1 : 2);
      if (cached !== undefined) row.push(encodeBlocks(cached.prefixHashes));
      return row;
    }
    case 'first-token':
      return ['f', event.address, uncached];
    case 'done':
      return ['x', event.address, toCount(event.promptTokens), uncached, event.waiting ? 1 : 0];
  }
}

/** Bytes of a block's hash in a message: 53 bits. */
const blockBytes = 7;
/** Blocks of one prompt in a message: as many as are hashed. */
const blocksMax = 512;
const base64 = /^[A-Za-z0-9+/]*={0,2}$/;

function encodeBlocks(blocks: readonly number[]): string {
  const count = Math.min(blocks.length, blocksMax);
  const bytes = Buffer.allocUnsafe(count * blockBytes);
  for (let i = 0; i < count; i += 1) {
    const block = blocks[i] ?? 0;
    bytes.writeUInt32LE(block % 0x100000000, i * blockBytes);
    bytes.writeUIntLE(Math.floor(block / 0x100000000), i * blockBytes + 4, 3);
  }
  return bytes.toString('base64');
}

function parseBlocks(text: unknown): number[] | undefined {
  // Buffer skips what is not base64.
  if (typeof text !== 'string' || text.length > (blocksMax * blockBytes * 4) / 3 + 4 || !base64.test(text)) return undefined;
  const bytes = Buffer.from(text, 'base64');
  if (bytes.length % blockBytes !== 0) return undefined;
  const blocks: number[] = [];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const high = bytes.readUIntLE(at + 4, 3);
    if (high > 0x1fffff) return undefined;
    blocks.push(high * 0x100000000 + bytes.readUInt32LE(at));
  }
  return blocks;
}

/** A number that every reader takes: what a client can make absurd (a declared length) must not silence its router. */
function toCount(number: number): number {
  return number > 0 ? Math.min(Math.round(number), countMax) : 0;
}

/** Reads a message of a pool's channel; undefined for anything that is not one. Never throws. */
export function parsePoolMessage(pool: string, text: string): PoolMessage | undefined {
  const message = parseJson(text);
  if (!Array.isArray(message)) return undefined;
  const [found, router, sequence, kind] = message as unknown[];
  if (found !== version || typeof router !== 'string' || !routerName.test(router) || !isSequence(sequence)) return undefined;
  if (kind === 's') {
    const [, , , , pushes, rows, metrics, health] = message as unknown[];
    if (!Array.isArray(rows) || rows.length > entriesMax) return undefined;
    const loads = new Map<string, Load>();
    for (const row of rows as unknown[]) {
      if (!Array.isArray(row)) return undefined;
      const [address, requests, promptTokens, requestsWaiting, uncachedTokensWaiting] = row as unknown[];
      if (!isAddress(address) || !isCount(requests) || !isCount(promptTokens) || !isCount(requestsWaiting) || !isCount(uncachedTokensWaiting)) {
        return undefined;
      }
      loads.set(address, { requests, promptTokens, requestsWaiting, uncachedTokensWaiting });
    }
    const told = metrics === undefined ? undefined : parseMetricsRows(metrics, isAddress);
    const words = Array.isArray(health) && health.length <= entriesMax ? (health as unknown[]).flatMap((fields) => parseHealthFields(fields) ?? []) : undefined;
    return { kind: 'snapshot', router, sequence, loads, pushes: pushes === 1, ...(told && { metrics: told }), ...(words && { health: words }) };
  }
  if (kind !== 'e') return undefined;
  const rows = (message as unknown[])[4];
  if (!Array.isArray(rows) || rows.length > entriesMax) return undefined;
  const events: LoadEvent[] = [];
  for (const row of rows as unknown[]) {
    const event = parseRow(pool, row);
    if (event === undefined) return undefined;
    events.push(event);
  }
  return { kind: 'events', router, sequence, events };
}

function parseRow(pool: string, row: unknown): LoadEvent | undefined {
  if (!Array.isArray(row)) return undefined;
  const [kind, address, tokens, uncachedTokens, more, moved, blocks] = row as unknown[];
  if (!isAddress(address)) return undefined;
  if (kind === 'h') {
    const row = parseHealthFields(tokens);
    return row?.address === address ? { kind: 'health', pool, address, row } : undefined;
  }
  if (!isCount(tokens)) return undefined;
  if (kind === 'f') return { kind: 'first-token', pool, address, uncachedTokens: tokens };
  if (!isCount(uncachedTokens)) return undefined;
  if (kind === 'x') return { kind: 'done', pool, address, promptTokens: tokens, uncachedTokens, waiting: more === 1 };
  if (kind !== 'd') return undefined;
  const keyId = more === undefined || more === 0 ? undefined : more;
  if (keyId !== undefined && !isKeyId(keyId)) return undefined;
  const prefixHashes = blocks === undefined ? undefined : parseBlocks(blocks);
  if (blocks !== undefined && prefixHashes === undefined) return undefined;
  return {
    kind: 'dispatch',
    pool,
    address,
    promptTokens: tokens,
    uncachedTokens,
    placement: keyId !== undefined && (moved === 1 || moved === 2) ? { keyId, away: moved === 1 } : undefined,
    cached: prefixHashes && { keyId, prefixHashes },
  };
}

/** A message from one router to another as text; at most 20 000 reports. */
export function encodeReports({ router, number, reports, received }: ReportsMessage): string {
  const rows = reports.map(({ lease, completion: { ending, signal, status, firstByteMs, servedBy, answerMs, responseBytes, attempts } }) => [
    ...[lease, ending, signal],
    ...[status, firstByteMs, servedBy, answerMs, responseBytes, attempts].map((value) => value ?? null),
  ]);
  return JSON.stringify([version, router, number, rows, received]);
}

/** Reads a message from one router to another; undefined: it is none. Reports that are malformed are left out. Never throws. */
export function parseReports(text: string): ReportsMessage | undefined {
  const message = parseJson(text);
  if (!Array.isArray(message)) return undefined;
  const [of, router, number, rows, received] = message as unknown[];
  if (of !== version || typeof router !== 'string' || !routerName.test(router) || !isCount(number)) return undefined;
  if (!Array.isArray(rows) || rows.length > entriesMax || !Array.isArray(received) || received.length > entriesMax) return undefined;
  return { router, number, reports: (rows as unknown[]).flatMap(parseReport), received: (received as unknown[]).filter(isCount) };
}

function parseReport(row: unknown): ForwardedCompletion[] {
  if (!Array.isArray(row)) return [];
  const [lease, ending, signal, status, firstByteMs, servedBy, answerMs, responseBytes, attempts] = row as unknown[];
  if (typeof lease !== 'string' || !leaseName.test(lease) || !isEnding(ending) || !isSignal(signal)) return [];
  return [
    {
      lease,
      completion: {
        ending,
        signal,
        status: isCount(status) ? status : undefined,
        firstByteMs: isDuration(firstByteMs) ? firstByteMs : undefined,
        servedBy: isAddress(servedBy) ? servedBy : undefined,
        answerMs: isDuration(answerMs) ? answerMs : undefined,
        responseBytes: isCount(responseBytes) ? responseBytes : undefined,
        attempts: isCount(attempts) ? attempts : undefined,
      },
    },
  ];
}

/** Whether a text can be a session's keyed hash. */
export function isKeyId(value: unknown): value is string {
  return typeof value === 'string' && keyIdName.test(value);
}

/** Whether a text can be an address; whether it is one of ours is for the fleet to say. */
export function isAddress(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= 64;
}

const endings: Readonly<Record<Ending, true>> = {
  finished: true,
  'client-abort': true,
  'upstream-failure': true,
  'not-proxied': true,
  'stream-error': true,
  expired: true,
  open: true,
};
const signals: Readonly<Record<CompletionSignal, true>> = { 'access-log': true, 'response-phases': true, 'ext-proc': true, timer: true };

function isEnding(value: unknown): value is Ending {
  return typeof value === 'string' && Object.hasOwn(endings, value);
}

function isSignal(value: unknown): value is CompletionSignal {
  return typeof value === 'string' && Object.hasOwn(signals, value);
}

/** Whole: sums and differences of whole numbers are exact, so that what was added can be taken away to the last. */
function isCount(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= countMax;
}

/** A router that speaks every 2 ms passes a thousand million in three weeks. */
function isSequence(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isDuration(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= countMax;
}

function parseJson(text: string): unknown {
  if (text.length > messageCharsMax) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
