import type { Rejection, RejectionCount } from './decision.ts';
import type { EndpointSnapshot } from './fleet-snapshot.ts';

/** Endpoints that one filter left out, and why, in columns. Not changed once the filter is through: decisions may share it. */
export class LeftOutByOne {
  readonly filter: string;
  readonly endpoints: EndpointSnapshot[] = [];
  readonly reasons: string[] = [];
  #counts: readonly RejectionCount[] | undefined;

  constructor(filter: string) {
    this.filter = filter;
  }

  add(endpoint: EndpointSnapshot, reason: string): void {
    this.endpoints.push(endpoint);
    this.reasons.push(reason);
  }

  /** By reason, in the order in which each came up first. */
  get counts(): readonly RejectionCount[] {
    return (this.#counts ??= this.#count());
  }

  #count(): RejectionCount[] {
    const counts: { filter: string; reason: string; count: number }[] = [];
    // Many endpoints in a row are mostly left out for the same reason, and there are few reasons.
    let last: (typeof counts)[number] | undefined;
    for (const reason of this.reasons) {
      if (last?.reason !== reason) {
        last = counts.find((known) => known.reason === reason);
        if (last === undefined) counts.push((last = { filter: this.filter, reason, count: 0 }));
      }
      last.count += 1;
    }
    return counts;
  }
}

const nobody: readonly LeftOutByOne[] = [];
const noCounts: readonly RejectionCount[] = [];

/** All endpoints that were left out of one decision, by the filters that did so, in their order. */
export class LeftOut {
  // Where nobody is left out, as mostly, no list is made.
  #parts: LeftOutByOne[] | undefined;

  add(part: LeftOutByOne): void {
    if (this.#parts === undefined) this.#parts = [part];
    else this.#parts.push(part);
  }

  get length(): number {
    let length = 0;
    for (const { endpoints } of this.#parts ?? nobody) length += endpoints.length;
    return length;
  }

  toRejections(): Rejection[] {
    return (this.#parts ?? []).flatMap(({ filter, endpoints, reasons }) => endpoints.map(({ address }, i) => ({ address, filter, reason: reasons[i] ?? '' })));
  }

  /** In the order in which each filter and reason came up first. */
  toCounts(): readonly RejectionCount[] {
    const [first, ...others] = this.#parts ?? nobody;
    if (first === undefined) return noCounts;
    let counts = first.counts;
    for (const { counts: more } of others) counts = more.reduce(withCount, counts);
    return counts;
  }
}

/** A filter may come more than once in a policy, as a demand and as a preference. */
function withCount(counts: readonly RejectionCount[], more: RejectionCount): readonly RejectionCount[] {
  const isSame = ({ filter, reason }: RejectionCount): boolean => filter === more.filter && reason === more.reason;
  if (!counts.some(isSame)) return [...counts, more];
  return counts.map((known) => (isSame(known) ? { ...known, count: known.count + more.count } : known));
}
