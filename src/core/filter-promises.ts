import type { EndpointSnapshot, EndpointStanding } from './fleet-snapshot.ts';
import type { DecisionInput, Filter } from './policy.ts';

/** A filter that says the same for every request as long as an endpoint's standing is the same: it is given nothing else. */
export function standing(filter: (endpoint: EndpointStanding) => string | undefined): Filter {
  return Object.assign((endpoint: EndpointStanding) => filter(endpoint), { standing: true });
}

/** A filter that knows of some requests without asking that it has nothing against any endpoint. */
export function passingAll(filter: Filter, passesAll: (input: DecisionInput) => boolean): Filter {
  return Object.assign((endpoint: EndpointSnapshot, input: DecisionInput) => filter(endpoint, input), { passesAll });
}
