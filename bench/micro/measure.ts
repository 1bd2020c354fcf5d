import { Bench } from 'tinybench';
import { median } from '../statistics.ts';

/** One thing to measure. */
export interface Measured {
  readonly name: string;
  readonly run: () => void;
  /** Runs after each call, unmeasured. */
  readonly after?: () => void;
}

/**
 * Median time of one call of each, in µs. They take turns, several rounds of each, and the median of the rounds' medians counts, so that
 * what else the machine does falls on all alike.
 */
export function measureInTurns(all: readonly Measured[], { rounds, roundMs }: { readonly rounds: number; readonly roundMs: number }): Map<string, number> {
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
  return new Map([...medians].map(([name, values]) => [name, median(values)]));
}
