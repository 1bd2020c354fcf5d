import { type ChangeCause, changeCauses } from './endpoint-change.ts';
import type { HealthAspect } from './endpoint-health.ts';

/** One word on one endpoint, as routers tell one another. Times are ages and remainders: clocks differ. */
export interface HealthRow {
  readonly address: string;
  readonly aspect: HealthAspect;
  /** Counts up with every new word on this aspect of this endpoint, whoever says it. */
  readonly version: number;
  readonly by: string;
  /** One of the aspect's values. */
  readonly value: string;
  /** Breaker: until it is tried again; others: since it was last found so, as with probes. In ms. */
  readonly ms: number;
  /** Breaker: times that it opened lately. */
  readonly strikes: number;
  readonly cause: ChangeCause;
  readonly detail: string | undefined;
}

const aspects: Readonly<Record<HealthAspect, readonly string[]>> = {
  operator: ['none', 'draining', 'not-ready'],
  probe: ['passing', 'loading', 'failing'],
  breaker: ['closed', 'open', 'slow', 'half-open'],
  reserve: ['reserve', 'active'],
};
const msMax = 3_600_000;
const versionMax = 1e12;
const strikesMax = 64;
const detailCharsMax = 160;
const routerName = /^[\w.-]{1,80}$/;

/** A row as a message has it. */
export function toHealthFields({ address, aspect, version, by, value, ms, strikes, cause, detail }: HealthRow): unknown[] {
  return [address, aspect, version, by, value, Math.min(msMax, Math.max(0, Math.round(ms))), strikes, cause, ...(detail === undefined ? [] : [detail.slice(0, detailCharsMax)])];
}

/** Reads one that anyone may have written; undefined: malformed. Whether the endpoint is one of ours is for the fleet to say. */
export function parseHealthFields(fields: unknown): HealthRow | undefined {
  if (!Array.isArray(fields)) return undefined;
  const [address, aspect, version, by, value, ms, strikes, cause, detail] = fields as unknown[];
  if (typeof address !== 'string' || address.length === 0 || address.length > 64) return undefined;
  if (typeof aspect !== 'string' || !Object.hasOwn(aspects, aspect)) return undefined;
  if (typeof value !== 'string' || !aspects[aspect as HealthAspect].includes(value)) return undefined;
  if (!isCount(version, versionMax) || version === 0 || !isCount(ms, msMax) || !isCount(strikes, strikesMax)) return undefined;
  if (typeof by !== 'string' || !routerName.test(by) || !changeCauses.some((known) => known === cause)) return undefined;
  return {
    address,
    aspect: aspect as HealthAspect,
    version,
    by,
    value,
    ms,
    strikes,
    cause: cause as ChangeCause,
    // It goes into logs and terminals.
    detail: typeof detail === 'string' ? detail.slice(0, detailCharsMax).replace(/[^\x20-\x7e]/g, '?') : undefined,
  };
}

function isCount(value: unknown, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max;
}
