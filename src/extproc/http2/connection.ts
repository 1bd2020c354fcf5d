import { constants, type Http2Session } from 'node:http2';
import type { ConnectionLimits } from '../grpc-transport.ts';
import { RateGuard, unansweredResetRate } from '../rate-guard.ts';
import type { StreamPeer } from '../stream.ts';

/** With the 64 KiB that HTTP/2 begins with, all streams of a connection would share what one large body takes. */
const windowBytes = 16_777_216;

/** One client's connection: how large its window is, whether it still lives, and how it ends. */
export class Connection {
  readonly #session: Http2Session;
  readonly #limits: ConnectionLimits;
  readonly #timers = new Set<NodeJS.Timeout>();
  #guard: RateGuard | undefined;
  /** What its streams find out about the client, for one another. */
  readonly peer: StreamPeer = { honoursOverrides: false };

  constructor(session: Http2Session, limits: ConnectionLimits) {
    this.#session = session;
    this.#limits = limits;
    session.setLocalWindowSize(windowBytes);
    session.once('close', () => this.#clearTimers());
    const { keepaliveIntervalMs, ageMsMax, ageGraceMs } = limits;
    if (keepaliveIntervalMs > 0) this.#timers.add(setInterval(() => this.#ping(), keepaliveIntervalMs).unref());
    if (ageMsMax > 0) {
      // Spread out, so that connections made at once do not all end at once.
      this.#after(ageMsMax * (0.9 + 0.2 * Math.random()), () => {
        this.leave();
        this.#after(ageGraceMs, () => this.destroy());
      });
    }
  }

  /**
   * Asks the client to go elsewhere, and closes when its streams have ended. It hears which stream is the last that was taken, so that it may
   * repeat later ones elsewhere (RFC 9113, 6.8). The notice that could come before, "all streams are still taken", is none with Node: from its first
   * GOAWAY on it drops new streams without a word, and their calls would hang.
   */
  leave(): void {
    const session = this.#session;
    if (!session.closed && !session.destroyed) session.close();
  }

  destroy(): void {
    this.#session.destroy(undefined, constants.NGHTTP2_CANCEL);
  }

  /** Counts a call that was reset before anything was answered. As many as only an attacker resets end the connection. */
  countUnansweredReset(): void {
    const nowMs = performance.now();
    this.#guard ??= new RateGuard(unansweredResetRate, nowMs);
    if (!this.#guard.admits(nowMs)) this.#session.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }

  #ping(): void {
    const session = this.#session;
    if (session.closed || session.destroyed) return;
    const timer = setTimeout(() => session.destroy(undefined, constants.NGHTTP2_NO_ERROR), this.#limits.keepaliveTimeoutMs).unref();
    this.#timers.add(timer);
    session.ping(() => {
      clearTimeout(timer);
      this.#timers.delete(timer);
    });
  }

  #after(ms: number, step: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      step();
    }, ms).unref();
    this.#timers.add(timer);
  }

  #clearTimers(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }
}
