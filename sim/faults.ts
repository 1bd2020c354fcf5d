import type { Outage } from './network/network-model.ts';

/** Something that goes wrong with an endpoint for a while. */
export type Fault =
  /** It is gone, with all that it held, and comes back with an empty cache. From 0 on: it starts late. */
  | ({ readonly kind: 'down'; readonly address: string } & Outage)
  /** It runs so many times slower. */
  | ({ readonly kind: 'slow'; readonly address: string; readonly factor: number } & Outage);
