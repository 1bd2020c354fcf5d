import type { EndpointSnapshot } from '../core/fleet-snapshot.ts';
import type { Preference } from '../core/policy.ts';

/** What a picker knows beside the order. */
export type Choice = Pick<Preference, 'reason' | 'home' | 'costs'>;

/** The best of the candidates, found, and the order of all, to be worked out if anybody wants it: mostly nobody does. */
export class LazyPreference implements Preference {
  readonly best: readonly EndpointSnapshot[];
  readonly reason: string;
  readonly home: string | undefined;
  declare readonly costs?: readonly number[];
  readonly #toOrder: () => readonly EndpointSnapshot[];
  #order: readonly EndpointSnapshot[] | undefined;

  /** `toOrder` has to depend on nothing that may change after the decision, such as an endpoint's load. */
  constructor(best: readonly EndpointSnapshot[], toOrder: () => readonly EndpointSnapshot[], { reason, home, costs }: Choice) {
    this.best = best;
    this.reason = reason;
    this.home = home;
    if (costs !== undefined) this.costs = costs;
    this.#toOrder = toOrder;
  }

  get order(): readonly EndpointSnapshot[] {
    return (this.#order ??= this.#toOrder());
  }
}
