import type { DecisionAccount } from '../core/explain.ts';
import { explain } from '../core/explain.ts';
import { hashName, pairFraction } from '../core/hash.ts';
import type { Completion, DecisionLog, RefusalCode } from '../router/ports.ts';
import type { Routed } from '../router/routed.ts';

/** Where lines go. Returns at once; what the destination cannot take in time is dropped. */
export interface LineSink {
  /** Takes a line that ends in a line feed; false: it was dropped. */
  write(line: string): boolean;
}

export interface DecisionRecorderOptions {
  readonly routerId: string;
  /** Share of sessions to record, from 0 to 1; of requests without a session, share of requests. */
  readonly sample: number;
  /** Whether to write the hashes of the prompt's leading blocks. */
  readonly prefixHashes: boolean;
  /** Whether to write every endpoint with its scores, or why it was left out. */
  readonly trace: boolean;
  readonly sink: LineSink;
  /** Milliseconds since the Unix epoch. */
  readonly wallMs: () => number;
  /** Told of every line that the destination did not take. */
  readonly onDropped: () => void;
}

/** Requests under way whose end is waited for. */
const openMax = 200_000;
const salt = hashName('decision log');

/**
 * Writes decisions as JSON lines: one when a request is routed or refused, one when it is over (docs/decision-log.md). Holds no session,
 * tenant, prompt, path or header; the session is its keyed hash. Sessions are recorded whole or not at all, and by all routers that share
 * the secret alike, so that a sample still shows what a session's turns find in caches.
 */
export class DecisionRecorder implements DecisionLog {
  readonly #options: DecisionRecorderOptions;
  /** Recorded requests under way, and when their first token came. */
  readonly #open = new Map<string, number | undefined>();

  constructor(options: DecisionRecorderOptions) {
    this.#options = options;
  }

  decided(routed: Routed): void {
    const { lease, pool, addresses, account, decision, promptTokens, uncachedTokens, decisionMs } = routed;
    if (!this.#isSampled(account.sessionKey, lease)) return;
    this.#open.set(lease, undefined);
    if (this.#open.size > openMax) for (const oldest of this.#open.keys()) if (this.#open.delete(oldest)) break;
    const shadow = account.considered.at(-1)?.shadow;
    this.#write('decision', {
      lease,
      ...this.#describe(account),
      pool: pool.name,
      policy: decision.trace.policy,
      endpoint: addresses[0],
      reason: decision.reason,
      reckonedTokens: promptTokens,
      cachedTokens: promptTokens - uncachedTokens,
      decisionMs: round(decisionMs),
      ...(shadow && {
        shadow: {
          policy: shadow.policy,
          outcome: shadow.outcome,
          endpoint: shadow.address,
          reason: shadow.reason,
          regretMs: shadow.expectedTtftMs && round(shadow.expectedTtftMs.live - shadow.expectedTtftMs.shadow),
        },
      }),
      ...(this.#options.trace && { pools: explain(account).pools }),
    });
  }

  refused(code: RefusalCode, account: DecisionAccount): void {
    if (!this.#isSampled(account.sessionKey, undefined)) return;
    this.#write('refusal', {
      ...this.#describe(account),
      pool: account.considered.at(-1)?.pool,
      code,
      ...(this.#options.trace && { pools: explain(account).pools }),
    });
  }

  firstToken(lease: string, sinceDispatchMs: number): void {
    if (this.#open.has(lease)) this.#open.set(lease, sinceDispatchMs);
  }

  ended(lease: string, { ending, signal, status, firstByteMs, answerMs, responseBytes, attempts, servedBy }: Completion, durationMs: number): void {
    if (!this.#open.has(lease)) return;
    const firstTokenMs = this.#open.get(lease);
    this.#open.delete(lease);
    this.#write('completion', {
      lease,
      ending,
      signal,
      status,
      durationMs: round(durationMs),
      firstTokenMs: firstTokenMs && round(firstTokenMs),
      firstByteMs: firstByteMs && round(firstByteMs),
      answerMs: answerMs && round(answerMs),
      responseBytes,
      attempts,
      servedBy,
    });
  }

  #describe({ route, model, sessionKey, promptTokens, maxTokens, stream, prefixHashes }: DecisionAccount): object {
    return {
      route,
      model,
      session: sessionKey,
      promptTokens,
      maxTokens,
      stream,
      ...(this.#options.prefixHashes && prefixHashes.length > 0 && { prefixHashes }),
    };
  }

  #isSampled(sessionKey: string | undefined, lease: string | undefined): boolean {
    const { sample, wallMs } = this.#options;
    if (sample >= 1) return true;
    // The key is a keyed hash already: its first 48 bits are as good as a draw that all routers make alike.
    if (sessionKey !== undefined) return Number.parseInt(sessionKey.slice(0, 12), 16) / 2 ** 48 < sample;
    return pairFraction(hashName(lease ?? String(wallMs())), salt) < sample;
  }

  #write(event: 'decision' | 'refusal' | 'completion', fields: object): void {
    const { routerId, sink, wallMs, onDropped } = this.#options;
    const line = JSON.stringify({ event, time: new Date(wallMs()).toISOString(), router: routerId, ...fields });
    if (!sink.write(`${line}\n`)) onDropped();
  }
}

/** Microseconds are as fine as anything here was measured. */
function round(ms: number): number {
  return Math.round(ms * 1_000) / 1_000;
}

/** One listener that tells all the given ones. What one throws goes to `onError`; the others and the caller do not see it. */
export function combineDecisionLogs(logs: readonly Partial<DecisionLog>[], onError: (error: unknown) => void): DecisionLog {
  const tell = (call: (log: Partial<DecisionLog>) => void): void => {
    for (const log of logs) {
      try {
        call(log);
      } catch (error) {
        onError(error);
      }
    }
  };
  return {
    decided: (routed) => tell((log) => log.decided?.(routed)),
    refused: (code, account) => tell((log) => log.refused?.(code, account)),
    firstToken: (lease, sinceDispatchMs) => tell((log) => log.firstToken?.(lease, sinceDispatchMs)),
    ended: (lease, completion, durationMs) => tell((log) => log.ended?.(lease, completion, durationMs)),
  };
}
