import type { Route, RoutingTable } from './routing-table.ts';

/** What an operator set for one route; the configuration holds for whatever is undefined. */
export interface RouteWeightsOverlay {
  /** A weight for each target, in the route's order. */
  readonly weights?: readonly number[] | undefined;
  /** Part of the shift that has moved, from 0 to 1, whatever its schedule says. */
  readonly shiftShare?: number | undefined;
}

/** A change as an operator writes it. Targets left out keep the weight they have now. */
export interface RouteWeightsChange {
  readonly targets?: readonly { readonly pool: string; readonly model?: string | undefined; readonly weight: number }[] | undefined;
  readonly shiftShare?: number | undefined;
}

/** Weights that operators set while the router runs, beside those of the configuration. In memory only: a restart forgets them. */
export class RouteWeights {
  #routes: ReadonlyMap<string, Route>;
  readonly #overlays = new Map<string, RouteWeightsOverlay>();

  constructor(table: RoutingTable) {
    this.#routes = new Map(table.routes.map((route) => [route.name, route]));
  }

  /**
   * The configuration was replaced. What operators set stays where its target still exists: weights go with pool and model, wherever they
   * now stand in the route; targets that are new have their configured weight. Returns the routes for which nothing of it is left.
   */
  reconfigure(table: RoutingTable): readonly string[] {
    const before = this.#routes;
    this.#routes = new Map(table.routes.map((route) => [route.name, route]));
    const dropped: string[] = [];
    for (const [name, { weights, shiftShare }] of this.#overlays) {
      const from = before.get(name);
      const to = this.#routes.get(name);
      const kept = from === undefined || to === undefined || weights === undefined ? undefined : carryOver(from, to, weights);
      const share = to?.shift === undefined ? undefined : shiftShare;
      if (kept !== undefined || share !== undefined) {
        this.#overlays.set(name, { weights: kept, shiftShare: share });
      } else {
        this.#overlays.delete(name);
        dropped.push(name);
      }
    }
    return dropped;
  }

  /** What is set for a route; undefined: nothing, or there is no such route. */
  of(name: string): RouteWeightsOverlay | undefined {
    return this.#overlays.get(name);
  }

  has(name: string): boolean {
    return this.#routes.has(name);
  }

  /** Sets weights. Returns what is wrong with the change, in words; undefined: it holds from the next request on. */
  set(name: string, { targets, shiftShare }: RouteWeightsChange): string | undefined {
    const route = this.#routes.get(name);
    if (route === undefined) return `no route is named ${name}`;
    const earlier = this.#overlays.get(name);
    let weights = earlier?.weights;
    if (targets !== undefined) {
      const changed = route.targets.map(({ weight }, index) => weights?.[index] ?? weight);
      for (const { pool, model, weight } of targets) {
        if (!Number.isFinite(weight) || weight < 0) return `the weight of ${pool} must be a number, 0 or more`;
        const meant = route.targets.flatMap((target, index) =>
          target.pool.name === pool && (model === undefined || target.model === model) ? [index] : [],
        );
        const [index] = meant;
        if (index === undefined) return `${pool}${model === undefined ? '' : ` with model ${model}`} is no target of this route`;
        if (meant.length > 1) return `several targets of this route are ${pool}; name the model as well, or give them pools of their own`;
        changed[index] = weight;
      }
      if (!changed.some((weight) => weight > 0)) return 'at least one target must have a weight above 0';
      weights = changed;
    }
    if (shiftShare !== undefined) {
      if (route.shift === undefined) return 'this route has no shift';
      if (!(shiftShare >= 0 && shiftShare <= 1)) return 'shiftShare must be a number from 0 to 1';
    }
    this.#overlays.set(name, { weights, shiftShare: shiftShare ?? earlier?.shiftShare });
    return undefined;
  }

  /** Back to the configuration. */
  reset(name: string): void {
    this.#overlays.delete(name);
  }
}

/** Weights set for the targets of one route, as they hold for another version of it; undefined: none of its targets is left, or none with a weight. */
function carryOver(from: Route, to: Route, weights: readonly number[]): readonly number[] | undefined {
  const left = from.targets.map(({ pool, model }, index) => ({ pool: pool.name, model, weight: weights[index] }));
  let carried = 0;
  const result = to.targets.map(({ pool, model, weight: configured }) => {
    const at = left.findIndex((target) => target.pool === pool.name && target.model === model);
    // Each is taken once: a route may name the same target twice.
    const [found] = at === -1 ? [] : left.splice(at, 1);
    if (found?.weight === undefined) return configured;
    carried += 1;
    return found.weight;
  });
  return carried > 0 && result.some((weight) => weight > 0) ? result : undefined;
}
