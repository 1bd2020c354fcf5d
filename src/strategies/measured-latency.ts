/** Geometric mean of the known times, which a time that is not known is taken for; undefined: none is known. */
export function typicalMs(times: readonly (number | undefined)[]): number | undefined {
  let sum = 0;
  let count = 0;
  for (const ms of times) {
    if (ms === undefined) continue;
    sum += Math.log(atLeastOne(ms));
    count += 1;
  }
  return count === 0 ? undefined : Math.exp(sum / count);
}

/**
 * How many times the typical time one is; 1 where either is unknown. In single precision: what differs by an error of rounding alone has
 * to rate the same, or an endpoint that is taken for typical never wins a tie.
 */
export function timesTypical(ms: number | undefined, typical: number | undefined): number {
  return ms === undefined || typical === undefined ? 1 : Math.fround(atLeastOne(ms) / typical);
}

/**
 * Rates a cost that is 1 where it is usual: 0.5 for the usual, towards 1 for less, towards 0 for more. So what is unknown, and taken for
 * usual, is neither preferred nor avoided, and gets its share of requests, by which it becomes known.
 */
export function ratingOf(cost: number, failureShare: number): number {
  return (1 - failureShare) / (1 + cost);
}

/** No time is below what clocks can tell apart; also keeps logarithms finite. */
function atLeastOne(ms: number): number {
  return Math.max(1, ms);
}
