/** When an endpoint that fails is left alone, and how it comes back. */
export interface BreakerSettings {
  /** Failures in a row that open it; fewer are enough where it stands out. */
  readonly consecutiveFailures: number;
  /** Share of the last requests that failed, above which it opens, from so many requests in the window on. */
  readonly failureShare: number;
  readonly requestsMin: number;
  readonly windowMs: number;
  /** First time to wait before it is tried again, in ms; doubled each time that it fails again, up to the longest. */
  readonly backOffMs: number;
  readonly backOffMsMax: number;
  /** Trial requests at a time, and successes in a row that close it. */
  readonly trials: number;
}

/** `open`: failed; `slow`: up, but no use; both wait for their back-off. `half-open`: takes trial requests. */
export type BreakerState = 'closed' | 'open' | 'slow' | 'half-open';

/** How a breaker stands, as routers tell one another. */
export interface BreakerVerdict {
  readonly state: BreakerState;
  /** When it may be tried; undefined unless it is open or slow. */
  readonly untilMs: number | undefined;
  /** Times that it opened lately: each doubles the back-off. */
  readonly strikes: number;
}

/** What one ended request says. */
export type BreakerNews =
  /** Enough failed: it should open. */
  | 'trip'
  /** A trial failed: it opens again. */
  | 'trial-failed'
  /** Enough trials succeeded: it closes. */
  | 'trials-passed'
  | undefined;

/** Parts of the window that are forgotten one after another. */
const windowParts = 10;
/** Failures in a row that open it where none of its peers fails any: chance would have spread them. */
const standingOutFailures = 3;
/** Strikes that still make a difference; more would overflow the doubling. */
const strikesMax = 16;

interface Part {
  /** Number of the part since the clock's zero. */
  id: number;
  requests: number;
  failed: number;
}

/**
 * Circuit breaker of one endpoint: closed, open (or slow), half-open, with a back-off that doubles. Says what it would do; whether it may
 * open is for the pool to say, which keeps a share of its endpoints whatever they do. Time is an argument.
 *
 * Requests that were sent before it opened say nothing afterwards: only trials decide whether it closes.
 */
export class Breaker {
  #settings: BreakerSettings;
  readonly #trialsChanged: () => void;
  #state: BreakerState = 'closed';
  #untilMs: number | undefined;
  #strikes = 0;
  /** When it closed, or a strike was last forgiven. */
  #calmSinceMs = -Infinity;
  #consecutive = 0;
  readonly #parts: Part[] = Array.from({ length: windowParts }, () => ({ id: -1, requests: 0, failed: 0 }));
  readonly #trials = new Set<string>();
  #passed = 0;

  /** `trialsChanged`: told when `trialsFree` may be another. */
  constructor(settings: BreakerSettings, trialsChanged: () => void = () => undefined) {
    this.#settings = settings;
    this.#trialsChanged = trialsChanged;
  }

  get state(): BreakerState {
    return this.#state;
  }

  get verdict(): BreakerVerdict {
    return { state: this.#state, untilMs: this.#untilMs, strikes: this.#strikes };
  }

  /** Trial requests that it takes now. */
  get trialsFree(): number {
    return this.#state === 'half-open' ? Math.max(0, this.#settings.trials - this.#trials.size) : 0;
  }

  configure(settings: BreakerSettings): void {
    this.#settings = settings;
    this.#trialsChanged();
  }

  /** A request was sent there: a trial, if trials are what it takes. */
  dispatched(lease: string): void {
    if (this.#state !== 'half-open') return;
    this.#trials.add(lease);
    this.#trialsChanged();
  }

  isTrial(lease: string): boolean {
    return this.#trials.has(lease);
  }

  /** What ended within the window. */
  recent(nowMs: number): { readonly requests: number; readonly failed: number } {
    const oldest = Math.floor(nowMs / (this.#settings.windowMs / windowParts)) - windowParts;
    let requests = 0;
    let failed = 0;
    for (const part of this.#parts) {
      if (part.id <= oldest) continue;
      requests += part.requests;
      failed += part.failed;
    }
    return { requests, failed };
  }

  /** A request is over that says something of the endpoint. `standsOut`: asked whether its peers do without failures meanwhile. */
  ended(lease: string, failed: boolean, nowMs: number, standsOut: () => boolean = () => false): BreakerNews {
    const wasTrial = this.#trials.delete(lease);
    if (wasTrial) this.#trialsChanged();
    if (this.#state === 'half-open') {
      if (!wasTrial) return undefined;
      if (failed) return 'trial-failed';
      this.#passed += 1;
      return this.#passed >= this.#settings.trials ? 'trials-passed' : undefined;
    }
    if (this.#state !== 'closed') return undefined;
    const part = this.#partAt(nowMs);
    part.requests += 1;
    if (!failed) {
      this.#consecutive = 0;
      return undefined;
    }
    part.failed += 1;
    this.#consecutive += 1;
    if (this.#consecutive >= this.#settings.consecutiveFailures || this.#shareIsTooLarge(nowMs)) return 'trip';
    return this.#consecutive >= standingOutFailures && standsOut() ? 'trip' : undefined;
  }

  /** A request is over that says nothing of the endpoint. */
  forgot(lease: string): void {
    if (this.#trials.delete(lease)) this.#trialsChanged();
  }

  /** Opens: as failed, or as slow. Each time in succession for twice as long. */
  open(state: 'open' | 'slow', nowMs: number): void {
    const { backOffMs, backOffMsMax } = this.#settings;
    this.#untilMs = nowMs + Math.min(backOffMsMax, backOffMs * 2 ** this.#strikes);
    this.#strikes = Math.min(strikesMax, this.#strikes + 1);
    this.#enter(state);
  }

  /** Closes. What it failed before is remembered in its strikes alone, which time forgives. */
  close(nowMs: number): void {
    this.#untilMs = undefined;
    this.#calmSinceMs = nowMs;
    this.#enter('closed');
  }

  /** Lets time pass. True: its back-off is over, and it is half-open now. */
  tick(nowMs: number): boolean {
    if (this.#state === 'closed') {
      if (this.#strikes > 0 && nowMs - this.#calmSinceMs >= this.#settings.backOffMsMax) {
        this.#strikes -= 1;
        this.#calmSinceMs = nowMs;
      }
      return false;
    }
    if (this.#untilMs === undefined || nowMs < this.#untilMs) return false;
    this.#untilMs = undefined;
    this.#enter('half-open');
    return true;
  }

  /** Takes what another router found out. */
  take({ state, untilMs, strikes }: BreakerVerdict, nowMs: number): void {
    this.#untilMs = state === 'open' || state === 'slow' ? Math.min(untilMs ?? nowMs, nowMs + this.#settings.backOffMsMax) : undefined;
    this.#strikes = Math.min(strikesMax, strikes);
    if (state === 'closed') this.#calmSinceMs = nowMs;
    this.#enter(state);
  }

  #enter(state: BreakerState): void {
    this.#state = state;
    this.#consecutive = 0;
    this.#passed = 0;
    this.#trials.clear();
    for (const part of this.#parts) part.id = -1;
    this.#trialsChanged();
  }

  #partAt(nowMs: number): Part {
    const id = Math.floor(nowMs / (this.#settings.windowMs / windowParts));
    const part = this.#parts[((id % windowParts) + windowParts) % windowParts];
    if (part === undefined) throw new Error('unreachable: the index is within the window');
    if (part.id !== id) {
      part.id = id;
      part.requests = 0;
      part.failed = 0;
    }
    return part;
  }

  #shareIsTooLarge(nowMs: number): boolean {
    const { requests, failed } = this.recent(nowMs);
    return requests >= this.#settings.requestsMin && failed > this.#settings.failureShare * requests;
  }
}
