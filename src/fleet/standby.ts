import type { PoolLoad } from './pool-load.ts';

/** When a pool's reserve joins and leaves. */
export interface StandbySettings {
  /** Under pressure is a pool that reaches either: the wait of a new prompt in ms, or requests in flight as a part of the limits. */
  readonly pressure: { readonly waitMs: number; readonly inFlightShare: number };
  /** How long it has to stay so before a server joins, in ms. */
  readonly forMs: number;
  /** What the pool would have to stay within without the server that is to leave: all of it. `utilization`: part of what can be prefilled. */
  readonly calm: { readonly waitMs: number; readonly inFlightShare: number; readonly utilization: number };
  /** How long that has to hold before a server leaves, in ms. */
  readonly calmForMs: number;
}

/** A server kept in reserve. */
export interface ReserveServer {
  /** `ip:port`: all its ranks join and leave together. */
  readonly address: string;
  /** Of all its ranks together. */
  readonly weight: number;
  /** Whether it was called. */
  readonly active: boolean;
  /** Whether it takes requests. */
  readonly serving: boolean;
  /** Whether it could, if it were called: nothing else is known to be wrong with it. */
  readonly able: boolean;
}

/** A server of the reserve that is to join or leave. */
export interface StandbyChange {
  readonly address: string;
  readonly active: boolean;
  readonly cause: 'pressure' | 'calm';
  /** The figures that it rests on, for people. */
  readonly detail: string;
}

/** What the controller makes of the load. */
export interface StandbyVerdict {
  readonly changes: readonly StandbyChange[];
  /** The pool has been under pressure for long enough and nobody is left who could join. */
  readonly exhausted: boolean;
}

/** Most that the calm has to last longer for a reserve that was called back soon after it left. */
const patienceMax = 8;

/**
 * Says who of a pool's reserve is to serve. Under pressure for `forMs`, as many join as the pressure asks for, and then the pool gets
 * `forMs` to show what it did; when the load would fit without one for `calmForMs`, that one leaves, and the rest are looked at anew. A
 * reserve that is called back within twice the time that the calm had to last waits twice as long before it leaves again, up to 8 times.
 *
 * Every router runs this on what it sees, so that whoever decides next has been watching; only one router's changes are made. Time is an
 * argument.
 */
export class StandbyController {
  readonly #settings: StandbySettings;
  #pressedSinceMs: number | undefined;
  #calmSinceMs: number | undefined;
  #active = '';
  #leftMs: number | undefined;
  #patience = 1;

  constructor(settings: StandbySettings) {
    this.#settings = settings;
  }

  /** To be called a few times a second; a change that is not made is asked for again. `mayLeave`: false while the load of others is unknown. */
  decide(load: PoolLoad, reserve: readonly ReserveServer[], nowMs: number, mayLeave = true): StandbyVerdict {
    this.#noteChanges(reserve, nowMs);
    if (this.#isPressed(load)) {
      this.#calmSinceMs = undefined;
      this.#pressedSinceMs ??= nowMs;
      if (nowMs - this.#pressedSinceMs < this.#settings.forMs) return none;
      const joining = this.#whoJoins(load, reserve);
      return { changes: joining, exhausted: joining.length === 0 };
    }
    this.#pressedSinceMs = undefined;
    const leaving = mayLeave ? whoLeaves(reserve) : undefined;
    if (leaving === undefined || !this.#fitsWithout(load, leaving)) {
      this.#calmSinceMs = undefined;
      return none;
    }
    this.#calmSinceMs ??= nowMs;
    if (nowMs - this.#calmSinceMs < this.#settings.calmForMs * this.#patience) return none;
    return { changes: [{ address: leaving.address, active: false, cause: 'calm', detail: describe(load) }], exhausted: false };
  }

  /** Whoever joined or left, at whoever's word: what was measured before counts no more. */
  #noteChanges(reserve: readonly ReserveServer[], nowMs: number): void {
    const active = reserve.filter((server) => server.active);
    const named = active.map(({ address }) => address).sort().join(' ');
    if (named === this.#active) return;
    const more = active.length > (this.#active === '' ? 0 : this.#active.split(' ').length);
    if (more) {
      const soonMs = 2 * this.#settings.calmForMs * this.#patience;
      this.#patience = this.#leftMs !== undefined && nowMs - this.#leftMs < soonMs ? Math.min(patienceMax, this.#patience * 2) : 1;
      this.#leftMs = undefined;
    } else {
      this.#leftMs = nowMs;
    }
    this.#active = named;
    this.#pressedSinceMs = undefined;
    this.#calmSinceMs = undefined;
  }

  #isPressed({ weight, waitMs, inFlightShare = 0 }: PoolLoad): boolean {
    const { pressure } = this.#settings;
    return weight === 0 || waitMs >= pressure.waitMs || inFlightShare >= pressure.inFlightShare;
  }

  /** As many as bring the pressure below its threshold once it is spread over them too; at least one. Where nobody serves: all. */
  #whoJoins(load: PoolLoad, reserve: readonly ReserveServer[]): StandbyChange[] {
    const { pressure } = this.#settings;
    const excess = Math.max(load.waitMs / pressure.waitMs, (load.inFlightShare ?? 0) / pressure.inFlightShare);
    let missing = load.weight === 0 ? Infinity : load.weight * (excess - 1);
    const joining: StandbyChange[] = [];
    for (const { address, weight } of byAddress(reserve.filter(({ active, able }) => !active && able))) {
      if (joining.length > 0 && missing <= 0) break;
      missing -= weight;
      joining.push({ address, active: true, cause: 'pressure', detail: describe(load) });
    }
    return joining;
  }

  #fitsWithout({ weight, waitMs, inFlightShare = 0, prefillTokensPerS, capacityTokensPerS }: PoolLoad, leaving: ReserveServer): boolean {
    const { calm } = this.#settings;
    const left = weight - (leaving.serving ? leaving.weight : 0);
    if (left <= 0) return false;
    const grows = weight / left;
    return waitMs * grows <= calm.waitMs && inFlightShare * grows <= calm.inFlightShare && prefillTokensPerS <= calm.utilization * capacityTokensPerS * left;
  }
}

const none: StandbyVerdict = { changes: [], exhausted: false };

/** One that serves nobody anyway, else the last to be called. */
function whoLeaves(reserve: readonly ReserveServer[]): ReserveServer | undefined {
  const active = byAddress(reserve.filter((server) => server.active));
  return active.findLast(({ serving }) => !serving) ?? active.at(-1);
}

function byAddress(servers: readonly ReserveServer[]): ReserveServer[] {
  return servers.toSorted((a, b) => (a.address < b.address ? -1 : 1));
}

function describe({ weight, waitMs, inFlightShare, prefillTokensPerS }: PoolLoad): string {
  if (weight === 0) return 'nobody serves';
  const inFlight = inFlightShare === undefined ? '' : `, ${(inFlightShare * 100).toFixed(0)} % of the limits in flight`;
  return `a prompt waits ${waitMs.toFixed(0)} ms, ${prefillTokensPerS.toFixed(0)} uncached tokens/s${inFlight}`;
}
