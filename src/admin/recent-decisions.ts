import { ChurnMap } from '../core/churn-map.ts';
import { type DecisionAccount, type Explanation, explain } from '../core/explain.ts';
import type { Completion, DecisionLog, RefusalCode } from '../router/ports.ts';
import type { Routed } from '../router/routed.ts';

/** A decision that was made lately: one element of what `/api/v1/decisions` answers. */
export interface RecentDecision extends Explanation {
  /** Wall-clock time, ISO 8601. */
  readonly time: string;
  /** Names the request in completion reports and in the decision log; null: it was refused. */
  readonly lease: string | null;
  /** Why it was refused; null: it was routed. */
  readonly refused: RefusalCode | null;
  /** Addresses told to Envoy, best first. */
  readonly told: readonly string[];
  /** Time it took to decide; null: it was refused. */
  readonly decisionMs: number | null;
  /** What became of it; null: it is under way, or was refused. */
  readonly end: { readonly ending: string; readonly status: number | null; readonly durationMs: number; readonly firstTokenMs: number | null } | null;
}

/** Decisions kept at most, and told where nobody says how many. */
export const recentDecisionsMax = 256;
export const recentDecisionsDefault = 20;
/** And endpoints in all of them together: with thousands of endpoints, fewer decisions are kept. */
const endpointsMax = 100_000;

/**
 * Where more than this come in a second, and have for a while, one is kept now and then and the others are passed over: what is kept for a moment
 * under full load has grown old by the time it goes, and to collect it then costs more than to decide did.
 */
const allKeptPerSecond = 100;
/** Time between two that are kept then, in ms. */
const keptEveryMs = 100;

interface Entry {
  readonly timeMs: number;
  readonly account: DecisionAccount;
  readonly routed: Routed | undefined;
  readonly refused: RefusalCode | undefined;
  readonly endpoints: number;
  firstTokenMs: number | undefined;
  end: { readonly completion: Completion; readonly durationMs: number } | undefined;
}

/** Keeps the last decisions, or a part of them where they are very many, and how they came about. To keep one costs an entry in a list; it is written out when somebody asks. */
export class RecentDecisions implements DecisionLog {
  readonly #wallMs: () => number;
  /** A ring: the oldest is at `#oldest`, and `#kept` of them are there. */
  readonly #entries: (Entry | undefined)[] = new Array<undefined>(recentDecisionsMax).fill(undefined);
  #oldest = 0;
  #kept = 0;
  readonly #byLease = new ChurnMap<string, Entry>();
  #endpoints = 0;
  /** How many may come at once before they are too many to keep all of them. */
  #room = recentDecisionsMax;
  #roomMs = 0;
  #keptMs = 0;

  /** `wallMs`: milliseconds since the Unix epoch. */
  constructor(wallMs: () => number) {
    this.#wallMs = wallMs;
  }

  decided(routed: Routed): void {
    const nowMs = this.#wallMs();
    if (this.#isKept(nowMs)) this.#byLease.set(routed.lease, this.#add(nowMs, routed.account, routed, undefined));
  }

  refused(code: RefusalCode, account: DecisionAccount): void {
    const nowMs = this.#wallMs();
    if (this.#isKept(nowMs)) this.#add(nowMs, account, undefined, code);
  }

  firstToken(lease: string, sinceDispatchMs: number): void {
    const entry = this.#byLease.get(lease);
    if (entry !== undefined) entry.firstTokenMs = sinceDispatchMs;
  }

  ended(lease: string, completion: Completion, durationMs: number): void {
    const entry = this.#byLease.get(lease);
    if (entry !== undefined) entry.end = { completion, durationMs };
  }

  /** The last `limit` decisions, newest first. */
  list(limit: number): RecentDecision[] {
    return Array.from({ length: Math.min(limit, this.#kept) }, (_, back) => this.#entries[(this.#oldest + this.#kept - 1 - back) % recentDecisionsMax]).flatMap(
      (entry) => (entry === undefined ? [] : [toRecent(entry)]),
    );
  }

  #isKept(nowMs: number): boolean {
    const passedMs = Math.max(0, nowMs - this.#roomMs);
    this.#roomMs = nowMs;
    this.#room = Math.min(recentDecisionsMax, this.#room + (passedMs * allKeptPerSecond) / 1_000);
    const keepsAll = this.#room >= 1;
    this.#room = Math.max(0, this.#room - 1);
    if (!keepsAll && Math.abs(nowMs - this.#keptMs) < keptEveryMs) return false;
    this.#keptMs = nowMs;
    return true;
  }

  #add(timeMs: number, account: DecisionAccount, routed: Routed | undefined, refused: RefusalCode | undefined): Entry {
    let endpoints = 0;
    for (const { decision } of account.considered) {
      const { trace } = decision;
      endpoints += trace.endpoints ?? trace.candidates.length + trace.rejections.length;
    }
    const entry: Entry = { timeMs, account, routed, refused, endpoints, firstTokenMs: undefined, end: undefined };
    this.#endpoints += endpoints;
    while (this.#kept === recentDecisionsMax || (this.#endpoints > endpointsMax && this.#kept > 0)) this.#dropOldest();
    this.#entries[(this.#oldest + this.#kept) % recentDecisionsMax] = entry;
    this.#kept += 1;
    return entry;
  }

  #dropOldest(): void {
    const oldest = this.#entries[this.#oldest];
    this.#entries[this.#oldest] = undefined;
    this.#oldest = (this.#oldest + 1) % recentDecisionsMax;
    this.#kept -= 1;
    this.#endpoints -= oldest?.endpoints ?? 0;
    if (oldest?.routed !== undefined) this.#byLease.delete(oldest.routed.lease);
  }
}

function toRecent({ timeMs, account, routed, refused, firstTokenMs, end }: Entry): RecentDecision {
  return {
    time: new Date(timeMs).toISOString(),
    lease: routed?.lease ?? null,
    refused: refused ?? null,
    told: routed?.addresses ?? [],
    decisionMs: routed?.decisionMs ?? null,
    end:
      end === undefined
        ? null
        : { ending: end.completion.ending, status: end.completion.status ?? null, durationMs: end.durationMs, firstTokenMs: firstTokenMs ?? null },
    ...explain(account),
  };
}
