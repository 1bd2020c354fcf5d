import type { LoadEvent, PoolLoad } from '../fleet/shared-state.ts';
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
    }
  | { readonly kind: 'events'; readonly router: string; readonly sequence: number; readonly events: readonly LoadEvent[] };

/** A completion report on its way to the router that owns the lease. */
export interface ForwardedCompletion {
  readonly lease: string;
  readonly completion: Completion;
}

/** Bounds on what is taken from Redis, whoever wrote it there. */
const messageCharsMax = 4_000_000;
const entriesMax = 20_000;
const countMax = 1e9;
const routerName = /^[\w.-]{1,80}$/;
const keyIdName = /^[0-9a-f]{32}$/;
const leaseName = /^[\w.-]{1,128}$/;

const version = 1;

/** A snapshot as text. The pool is not in it: it is the channel's. */
export function encodeSnapshot(router: string, sequence: number, loads: PoolLoad, pushes: boolean): string {
  const rows = [...loads].map(([address, { requests, promptTokens, promptTokensWaiting }]) => [
    address,
    toCount(requests),
    toCount(promptTokens),
    toCount(promptTokensWaiting),
  ]);
  return JSON.stringify([version, router, sequence, 's', pushes ? 1 : 0, rows]);
}

/** Events as text, all of one pool; at most 20 000. */
export function encodeEvents(router: string, sequence: number, events: readonly LoadEvent[]): string {
  return JSON.stringify([version, router, sequence, 'e', events.map(toRow)]);
}

function toRow(event: LoadEvent): unknown[] {
  const tokens = toCount(event.promptTokens);
  switch (event.kind) {
    case 'dispatch':
      return event.placement === undefined
        ? ['d', event.address, tokens]
        : ['d', event.address, tokens, event.placement.keyId, event.placement.away ? 1 : 0];
    case 'first-token':
      return ['f', event.address, tokens];
    case 'done':
      return ['x', event.address, tokens, event.waiting ? 1 : 0];
  }
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
    const [, , , , pushes, rows] = message as unknown[];
    if (!Array.isArray(rows) || rows.length > entriesMax) return undefined;
    const loads = new Map<string, { requests: number; promptTokens: number; promptTokensWaiting: number }>();
    for (const row of rows as unknown[]) {
      if (!Array.isArray(row)) return undefined;
      const [address, requests, promptTokens, promptTokensWaiting] = row as unknown[];
      if (!isAddress(address) || !isCount(requests) || !isCount(promptTokens) || !isCount(promptTokensWaiting)) return undefined;
      loads.set(address, { requests, promptTokens, promptTokensWaiting });
    }
    return { kind: 'snapshot', router, sequence, loads, pushes: pushes === 1 };
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
  const [kind, address, promptTokens, more, away] = row as unknown[];
  if (!isAddress(address) || !isCount(promptTokens)) return undefined;
  switch (kind) {
    case 'd': {
      if (more === undefined) return { kind: 'dispatch', pool, address, promptTokens, placement: undefined };
      if (!isKeyId(more)) return undefined;
      return { kind: 'dispatch', pool, address, promptTokens, placement: { keyId: more, away: away === 1 } };
    }
    case 'f':
      return { kind: 'first-token', pool, address, promptTokens };
    case 'x':
      return { kind: 'done', pool, address, promptTokens, waiting: more === 1 };
    default:
      return undefined;
  }
}

/** Completion reports as text; at most 20 000. */
export function encodeForwarded(reports: readonly ForwardedCompletion[]): string {
  return JSON.stringify(
    reports.map(({ lease, completion: { ending, signal, status, firstByteMs, servedBy } }) => [lease, ending, signal, status ?? null, firstByteMs ?? null, servedBy ?? null]),
  );
}

/** Reads forwarded reports; what is malformed is left out. Never throws. */
export function parseForwarded(text: string): ForwardedCompletion[] {
  const rows = parseJson(text);
  if (!Array.isArray(rows) || rows.length > entriesMax) return [];
  return (rows as unknown[]).flatMap((row) => {
    if (!Array.isArray(row)) return [];
    const [lease, ending, signal, status, firstByteMs, servedBy] = row as unknown[];
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
        },
      },
    ];
  });
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
