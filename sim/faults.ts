import type { Outage } from './network/network-model.ts';

/** What can go wrong with an endpoint. */
export type FaultKind =
  /** It is gone, with all that it held, and comes back with an empty cache. From 0 on: it starts late. */
  | { readonly kind: 'down' }
  /** The same, and then it loads its model for a while: it answers 503 to requests and to probes. */
  | { readonly kind: 'restart'; readonly loadMs: number }
  /** It is gone and back in turn, so long each. */
  | { readonly kind: 'flap'; readonly periodMs: number }
  /** It runs so many times slower. */
  | { readonly kind: 'slow'; readonly factor: number }
  /** It takes requests and stands still with them, until it is killed and started again. */
  | { readonly kind: 'hang'; readonly probesPass: boolean }
  /** It answers such a share of the requests with a 500, at once: failing fast. With `probesPass` it calls itself well meanwhile. */
  | { readonly kind: 'fail'; readonly share: number; readonly probesPass: boolean }
  /** It breaks answers off after their first token. */
  | { readonly kind: 'cut'; readonly probesPass: boolean }
  /** Discovery does not name it: it leaves, and joins again. From 0 on: it joins late. */
  | { readonly kind: 'absent' };

/** Something that goes wrong with an endpoint for a while. */
export type Fault = FaultKind & { readonly address: string } & Outage;

/** For people: what happens, where and when. */
export function describeFault(fault: Fault): string {
  const { kind, address, fromMs, toMs } = fault;
  const more =
    kind === 'slow'
      ? ` x ${fault.factor.toFixed(1)}`
      : kind === 'fail'
        ? ` ${(fault.share * 100).toFixed(0)} %`
        : kind === 'restart'
          ? ` (loads ${fault.loadMs.toFixed(0)} ms)`
          : kind === 'flap'
            ? ` every ${fault.periodMs.toFixed(0)} ms`
            : '';
  const lies = 'probesPass' in fault && fault.probesPass ? ' unseen by probes' : '';
  return `${address} ${kind}${more}${lies} from ${fromMs.toFixed(0)} to ${toMs.toFixed(0)} ms`;
}
