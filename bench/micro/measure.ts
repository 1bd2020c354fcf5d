import { Bench } from 'tinybench';
import { median } from '../statistics.ts';

/** One thing to measure. */
export interface Measured {
  readonly name: string;
  readonly run: () => void;
  /** Runs after each call, unmeasured. */
  readonly after?: () => void;
}

/** Times of one call of each, in µs, by round. */
export class Times {
  readonly #rounds: ReadonlyMap<string, readonly number[]>;

  constructor(rounds: ReadonlyMap<string, readonly number[]>) {
    this.#rounds = rounds;
  }

  /** Median of the rounds. */
  of(name: string): number {
    return median(this.#rounds.get(name) ?? []);
  }

  /** Median of the rounds' ratios: a machine that changes its speed from one round to the next changes it for both. */
  ratio(name: string, against: string): number {
    const base = this.#rounds.get(against) ?? [];
    return median((this.#rounds.get(name) ?? []).map((us, round) => us / (base[round] ?? NaN)));
  }
}

/** Measures each in turn, in several rounds, so that what else the machine does falls on all alike; of a round the median call counts. */
export function measureInTurns(all: readonly Measured[], { rounds, roundMs }: { readonly rounds: number; readonly roundMs: number }): Times {
  const medians = new Map<string, number[]>(all.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (const { name, run, after } of all) {
      const bench = new Bench({ time: roundMs, iterations: 8, warmup: round === 0, warmupTime: roundMs, warmupIterations: 8, throws: true });
      bench.add(name, run, { async: false, ...(after && { afterEach: after }) });
      const [task] = bench.runSync();
      const result = task?.result;
      if (result?.state !== 'completed') throw new Error(`${name}: ${result?.state ?? 'not run'}`);
      medians.get(name)?.push(result.latency.p50 * 1_000);
    }
  }
  return new Times(medians);
}
