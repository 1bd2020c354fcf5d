import { engineProfiles } from './engine/engine-profiles.ts';
import type { Fault } from './faults.ts';
import type { NetworkModel } from './network/network-model.ts';
import type { EndpointModel } from './simulated-endpoint.ts';

/** What a scenario is laid over. */
export interface ScenarioInput {
  readonly endpoints: readonly EndpointModel[];
  readonly network: NetworkModel;
  /** Time from the first arrival to the last, in ms. */
  readonly durationMs: number;
}

/** What a scenario makes of a run; what it leaves out stays as it was. */
export interface ScenarioChanges {
  readonly endpoints?: readonly EndpointModel[];
  readonly faults?: readonly Fault[];
  readonly network?: NetworkModel;
  readonly estimateError?: number;
}

interface Scenario {
  readonly about: string;
  apply(input: ScenarioInput): ScenarioChanges;
}

/** How long Redis is away in `exchange-outage`, in ms. */
const outageMs = 60_000;

/** Every scenario by its name in `--scenario`. */
export const scenarios = {
  'half-speed': {
    about: 'the first endpoint runs at half speed, and nobody was told',
    apply: ({ endpoints }) => ({ endpoints: endpoints.map((model, i) => (i === 0 ? { ...model, slowFactor: model.slowFactor * 2 } : model)) }),
  },
  'two-gpus': {
    about: 'every second endpoint is a slower GPU with less memory (profile slow-gpu), and nobody was told',
    apply: ({ endpoints }) => ({ endpoints: endpoints.map((model, i) => (i % 2 === 1 ? { ...model, profile: engineProfiles['slow-gpu'] } : model)) }),
  },
  'dead-endpoint': {
    about: 'the first endpoint dies after two fifths of the time and comes back, empty, after three fifths',
    apply: ({ endpoints, durationMs }) => ({ faults: downOf(endpoints[0], 0.4 * durationMs, 0.6 * durationMs) }),
  },
  'cold-start': {
    about: 'the last endpoint joins after three tenths of the time, with an empty cache',
    apply: ({ endpoints, durationMs }) => ({ faults: downOf(endpoints.at(-1), 0, 0.3 * durationMs) }),
  },
  'estimates-30': {
    about: 'prompt lengths are estimated wrong by up to 30 %, up or down',
    apply: () => ({ estimateError: 0.3 }),
  },
  'exchange-outage': {
    about: 'Redis is away for 60 s in the middle',
    apply: ({ network, durationMs }) => {
      const fromMs = Math.max(0, durationMs / 2 - outageMs / 2);
      return { network: { ...network, outages: [...network.outages, { fromMs, toMs: fromMs + outageMs }] } };
    },
  },
} as const satisfies Record<string, Scenario>;

export type ScenarioName = keyof typeof scenarios;

/** Lays scenarios over one another, in their order. */
export function applyScenarios(names: readonly ScenarioName[], input: ScenarioInput): Required<ScenarioChanges> {
  let now: Required<ScenarioChanges> = { endpoints: input.endpoints, network: input.network, faults: [], estimateError: 0 };
  for (const name of names) {
    const scenario: Scenario = scenarios[name];
    const { faults = [], ...changes } = scenario.apply({ ...now, durationMs: input.durationMs });
    now = { ...now, ...changes, faults: [...now.faults, ...faults] };
  }
  return now;
}

function downOf(model: EndpointModel | undefined, fromMs: number, toMs: number): Fault[] {
  return model === undefined ? [] : [{ kind: 'down', address: model.address, fromMs, toMs }];
}
