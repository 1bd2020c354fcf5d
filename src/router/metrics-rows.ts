import type { EngineMetrics } from '../core/fleet-snapshot.ts';

/** What one router read of a model server's metrics, as it tells the others: clocks differ, ages do not. */
export interface ToldMetrics extends Omit<EngineMetrics, 'scrapedMs'> {
  readonly ageMs: number;
}

/** Endpoints told of in one message, adapters of one endpoint, and the longest name of one, in characters. */
const rowsMax = 20_000;
const adaptersMax = 256;
const adapterCharsMax = 256;
const countMax = 1e12;
const ageMsMax = 600_000;

/** Metrics as rows of a message. */
export function toMetricsRows(metrics: ReadonlyMap<string, EngineMetrics>, nowMs: number): unknown[][] {
  return [...metrics].map(([address, { scrapedMs, requestsRunning, requestsQueued, kvUsage, kvTokensMax, adapters, adaptersMax: max }]) => [
    address,
    Math.min(ageMsMax, Math.max(0, Math.round(nowMs - scrapedMs))),
    ...[requestsRunning, requestsQueued, kvUsage, kvTokensMax, max].map((value) => value ?? null),
    adapters === undefined ? null : [...adapters].slice(0, adaptersMax),
  ]);
}

/** Reads rows that anyone may have written; what is malformed is left out, and a number out of range is unknown. Never throws. */
export function parseMetricsRows(rows: unknown, isAddress: (value: unknown) => value is string): ReadonlyMap<string, ToldMetrics> {
  const told = new Map<string, ToldMetrics>();
  if (!Array.isArray(rows) || rows.length > rowsMax) return told;
  for (const row of rows as unknown[]) {
    if (!Array.isArray(row)) continue;
    const [address, ageMs, running, queued, kvUsage, kvTokensMax, max, adapters] = row as unknown[];
    if (!isAddress(address) || !isWithin(ageMs, ageMsMax)) continue;
    told.set(address, {
      ageMs,
      requestsRunning: toNumber(running, countMax),
      requestsQueued: toNumber(queued, countMax),
      kvUsage: toNumber(kvUsage, 1),
      kvTokensMax: toNumber(kvTokensMax, countMax),
      adapters: toAdapters(adapters),
      adaptersMax: toNumber(max, countMax),
    });
  }
  return told;
}

function toAdapters(value: unknown): ReadonlySet<string> | undefined {
  if (!Array.isArray(value) || value.length > adaptersMax) return undefined;
  const names = value as unknown[];
  return new Set(names.filter((name): name is string => typeof name === 'string' && name.length > 0 && name.length <= adapterCharsMax));
}

function isWithin(value: unknown, max: number): value is number {
  return typeof value === 'number' && value >= 0 && value <= max;
}

function toNumber(value: unknown, max: number): number | undefined {
  return isWithin(value, max) ? value : undefined;
}
