import { ChurnMap } from '../core/churn-map.ts';
import type { LatencySnapshot } from '../core/fleet-snapshot.ts';
import { keptMax, LastTimes } from './last-times.ts';
import { TimedRing } from './timed-ring.ts';

/** What became of a request, as far as its endpoint is judged by it. */
export type RequestOutcome =
  /**
   * It was answered. `firstByteMs` stands for the first token where first tokens are not noticed; `tpotMs` is undefined where the answer
   * was not streamed, or nothing was measured.
   */
  | { readonly kind: 'answered'; readonly firstByteMs: number | undefined; readonly tpotMs: number | undefined }
  /** The endpoint answered, but not with what was asked for (4xx): in order, and its times tell nothing. */
  | { readonly kind: 'refused' }
  /** 5xx, reset, timeout, no connection. */
  | { readonly kind: 'failed' }
  /** The client left after that long; `firstByteMs` as above. */
  | { readonly kind: 'given-up'; readonly afterMs: number; readonly firstByteMs: number | undefined }
  /** Nobody knows. */
  | { readonly kind: 'unknown' };

/** What is older counts no longer: an endpoint that was avoided becomes unknown, and is tried again. */
const ageMsMax = 300_000;
/**
 * The first piece of a response may be that of an error page, which comes fast: it counts once the request ended well, or this long
 * after without any end. Reports of an end come within about a second.
 */
const doubtMs = 2_000;
/** Bytes of a server-sent event that carries one token, roughly; the same for all endpoints of a pool, which is all that comparing asks. */
const eventBytes = 256;
/** A response of fewer tokens says little of their pace. */
const paceTokensMin = 8;
/** No engine generates a single answer faster, in ms a token: what is faster was not streamed, but sent at once. */
const tpotMsMin = 0.2;

/**
 * How long the last requests of one endpoint took: at most 256 of the last five minutes. Times of requests that failed are left out, so
 * that an endpoint that fails fast does not look fast; the share that failed is told beside them. Time is an argument.
 */
export class LatencyWindow {
  readonly #ttfts = new LastTimes();
  readonly #tpots = new LastTimes();
  /** 1: failed, 0: not. */
  readonly #endings = new TimedRing(keptMax);
  #failed = 0;
  /** First tokens of requests that are not over: those that count not yet, in the order in which they came, and those that do. */
  readonly #doubted = new ChurnMap<string, { readonly ms: number; readonly atMs: number }>();
  readonly #believed = new ChurnMap<string, number>();
  #noticesFirstTokens = false;
  #nowMs = 0;
  #cached: LatencySnapshot | undefined;
  /** When the cached snapshot changes without anything being measured; -Infinity: it has to be made again. */
  #cachedUntilMs = Infinity;

  /** A request's first token came `ttftMs` after it was sent. */
  firstToken(lease: string, ttftMs: number, nowMs: number): void {
    if (!(ttftMs >= 0 && ttftMs < Infinity)) return;
    this.#noticesFirstTokens = true;
    this.#doubted.set(lease, { ms: ttftMs, atMs: nowMs });
    this.#cachedUntilMs = Math.min(this.#cachedUntilMs, nowMs + doubtMs);
    this.advance(nowMs);
  }

  /** How long the first token of a request took that is not over; undefined: none came. */
  firstTokenOf(lease: string): number | undefined {
    return this.#doubted.get(lease)?.ms ?? this.#believed.get(lease);
  }

  /** Takes a first token back, because another endpoint gave it: returns its time, undefined where none came. */
  takeFirstToken(lease: string): number | undefined {
    const ms = this.firstTokenOf(lease);
    this.#doubted.delete(lease);
    this.#believed.delete(lease);
    return ms;
  }

  /** A request is over. */
  ended(lease: string, outcome: RequestOutcome, nowMs: number): void {
    const doubted = this.#doubted.take(lease);
    const believed = this.#believed.take(lease);
    const hadToken = doubted !== undefined || believed !== undefined;
    switch (outcome.kind) {
      case 'answered':
      case 'given-up': {
        const { firstByteMs } = outcome;
        if (doubted !== undefined) this.#ttfts.add(doubted.ms, nowMs);
        else if (!hadToken && firstByteMs !== undefined && !this.#noticesFirstTokens) this.#ttfts.add(firstByteMs, nowMs);
        else if (!hadToken && outcome.kind === 'given-up') this.#gaveUp(outcome.afterMs, nowMs);
        if (outcome.kind === 'given-up') break;
        if (outcome.tpotMs !== undefined) this.#tpots.add(outcome.tpotMs, nowMs);
        this.#end(false, nowMs);
        break;
      }
      case 'refused':
      case 'failed':
        this.#end(outcome.kind === 'failed', nowMs);
        break;
      case 'unknown':
        break;
    }
    this.#cachedUntilMs = -Infinity;
    this.advance(nowMs);
  }

  /** Lets time pass; to be called now and then, so that `latest` ages while nothing happens. */
  advance(nowMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, nowMs);
  }

  /** The snapshot as of the last time anything was told. */
  get latest(): LatencySnapshot | undefined {
    return this.snapshot(this.#nowMs);
  }

  /** What the window holds; undefined while nothing fresh was measured. The same object until something changes. */
  snapshot(nowMs: number): LatencySnapshot | undefined {
    this.advance(nowMs);
    if (nowMs < this.#cachedUntilMs) return this.#cached;
    this.#doubted.visit(({ ms, atMs }, lease) => {
      if (atMs + doubtMs > nowMs) return false;
      this.#doubted.delete(lease);
      this.#believed.set(lease, ms);
      this.#ttfts.add(ms, nowMs);
      return true;
    });
    const staleMs = nowMs - ageMsMax;
    this.#ttfts.dropUntil(staleMs);
    this.#tpots.dropUntil(staleMs);
    while (this.#endings.oldestMs <= staleMs) this.#dropEnding();

    const oldestMs = Math.min(this.#ttfts.oldestMs, this.#tpots.oldestMs, this.#endings.oldestMs);
    this.#cachedUntilMs = Math.min(oldestMs + ageMsMax, (this.#doubted.oldest?.atMs ?? Infinity) + doubtMs);
    const endings = this.#endings.count;
    this.#cached =
      this.#ttfts.count === 0 && endings === 0
        ? undefined
        : { samples: this.#ttfts.count, ttftMs: this.#ttfts.tail, tpotMs: this.#tpots.tail, failureShare: endings === 0 ? 0 : this.#failed / endings };
    return this.#cached;
  }

  /**
   * The first token would have taken at least that long. A client that leaves sooner than usual says nothing; without those that left
   * later, an endpoint would look the faster the more of its clients lose patience.
   */
  #gaveUp(afterMs: number, nowMs: number): void {
    if (afterMs > (this.snapshot(nowMs)?.ttftMs?.mean ?? Infinity)) this.#ttfts.add(afterMs, nowMs);
  }

  #end(failed: boolean, atMs: number): void {
    if (this.#endings.isFull) this.#dropEnding();
    this.#endings.add(failed ? 1 : 0, atMs);
    if (failed) this.#failed += 1;
  }

  #dropEnding(): void {
    this.#failed -= this.#endings.dropOldest();
  }
}

/**
 * Time per output token in ms, from what Envoy tells of a response: its bytes, and the time from the request's first byte sent to the
 * endpoint to the response's last byte, less the time to the first token. Tokens are reckoned from bytes. Undefined where the response
 * is too short to tell, or was not streamed.
 */
export function toTpotMs(responseBytes: number | undefined, answerMs: number | undefined, ttftMs: number | undefined): number | undefined {
  if (responseBytes === undefined || answerMs === undefined || ttftMs === undefined) return undefined;
  const tokens = responseBytes / eventBytes;
  const tpotMs = (answerMs - ttftMs) / (tokens - 1);
  return tokens >= paceTokensMin && tpotMs >= tpotMsMin && tpotMs < Infinity ? tpotMs : undefined;
}
