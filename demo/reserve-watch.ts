import { setTimeout as sleep } from 'node:timers/promises';

/** When one server of the reserve served, in ms since the watch began. */
export interface ReserveTimes {
  readonly address: string;
  /** First seen taking requests; undefined: never. */
  joinedMs: number | undefined;
  /** First seen back in the reserve after that; undefined: not yet. */
  leftMs: number | undefined;
}

/** Watches the servers of the reserve by what Fairlead says of them. */
export interface ReserveWatch {
  readonly times: readonly ReserveTimes[];
  /** Waits until all that joined have left again, for so long at most, and ends. */
  end(msMax: number): Promise<void>;
}

const lookEveryMs = 200;

/** `states`: the state of each endpoint now, by address. */
export function watchReserve(addresses: readonly string[], states: () => Promise<ReadonlyMap<string, string>>): ReserveWatch {
  const startMs = performance.now();
  const times: ReserveTimes[] = addresses.map((address) => ({ address, joinedMs: undefined, leftMs: undefined }));
  let on = true;
  const look = async (): Promise<void> => {
    const seen = await states();
    const nowMs = performance.now() - startMs;
    for (const server of times) {
      const state = seen.get(server.address);
      if (state === 'warming' || state === 'ready') {
        server.joinedMs ??= nowMs;
        // It was called back.
        server.leftMs = undefined;
      } else if (state === 'standby' && server.joinedMs !== undefined) {
        server.leftMs ??= nowMs;
      }
    }
  };
  const watching = (async () => {
    while (on) {
      // One look that fails is made good by the next.
      await look().catch(() => undefined);
      await sleep(lookEveryMs);
    }
  })();
  return {
    times,
    end: async (msMax) => {
      const endMs = performance.now() + msMax;
      while (performance.now() < endMs && times.some(({ joinedMs, leftMs }) => joinedMs !== undefined && leftMs === undefined)) await sleep(lookEveryMs);
      on = false;
      await watching;
    },
  };
}
