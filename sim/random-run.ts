import { type EngineProfile, engineProfiles } from './engine/engine-profiles.ts';
import { SeededRng } from './clock/seeded-rng.ts';
import { describeFault, type Fault, type FaultKind } from './faults.ts';
import type { Policy } from '../src/core/policy.ts';
import type { RouteTarget } from '../src/router/routing-table.ts';
import type { NetworkModel } from './network/network-model.ts';
import type { EndpointModel } from './simulated-endpoint.ts';
import { presetNames, simulatedAddresses, simulatedPool } from './simulated-fleet.ts';
import type { Sharing } from './simulated-router.ts';
import { type SimulationOptions, type SimulationResult, simulate, undisturbed } from './simulation.ts';
import { generateWorkload } from './workloads/generated.ts';

/** Longest that a lease without a sign is counted in these runs, in ms: a run has to outlive it. */
const expireAfterMs = 60_000;

/** Small GPUs with short queues, so that queues fill and requests bounce. */
const small: EngineProfile = { ...engineProfiles['dynamo-mocker'], name: 'small', source: 'invented, to fill up', sequencesMax: 4, queueMax: 6, blocks: 400 };

/** A run in which everything may go wrong that a seed can think of. */
export interface RandomRun {
  readonly policy: string;
  /** For people: what this seed made up. */
  readonly about: string;
  readonly options: SimulationOptions;
}

/** Makes up a run: fleet, policy, traffic, faults, network. Equal seeds make up equal runs. */
export function randomRun(seed: number, requestsMax: number): RandomRun {
  const rng = new SeededRng(seed, 'random run');
  const policies = presetNames();
  const policy = policies[rng.below(policies.length)] ?? 'sticky';
  const profile = rng.pick([small, small, engineProfiles['dynamo-mocker'], engineProfiles['slow-gpu']]);
  const addresses = simulatedAddresses(1 + rng.below(6));
  const endpoints: EndpointModel[] = addresses.map((address) => ({ address, profile, slowFactor: rng.chance(0.2) ? rng.between(1, 6) : 1 }));
  const requests = 20 + rng.below(requestsMax);
  const workload = generateWorkload(rng.pick(['multi-turn', 'shared-prompts', 'bursts', 'spike']), { rng, requests });
  const speed = rng.between(0.5, 12);
  const durationMs = (workload.requests.at(-1)?.arrivalMs ?? 0) / speed;
  const routers = rng.pick([1, 1, 2, 3, 5]);
  const sharing: Sharing = routers === 1 ? 'none' : rng.pick(['pushed', 'pushed', 'snapshots', 'none']);
  const requestsMaxHere = rng.chance(0.3) ? 1 + rng.below(8) : undefined;
  // Now and then all of them at once.
  const faultyShare = rng.chance(0.1) ? 1 : 0.3;
  const faults = addresses.flatMap((address) => (rng.chance(faultyShare) ? randomFaults(rng, address, durationMs) : []));
  const probed = rng.chance(0.7);
  const network = randomNetwork(rng, durationMs);
  const outcome = simulatedPool({ preset: policy, endpoints, tellKvSize: rng.chance(0.5), seed, requestsMax: requestsMaxHere, expireAfterMsMax: expireAfterMs, probed });
  if (!outcome.ok) throw new Error(`the configuration of seed ${seed} is wrong: ${JSON.stringify(outcome.problems)}`);
  const about = [
    `${policy}, ${endpoints.length} x ${profile.name}, ${requests} requests of ${workload.name}, ${routers} routers (${sharing})`,
    ...(requestsMaxHere === undefined ? [] : [`at most ${requestsMaxHere} each`]),
    ...(probed ? [] : ['not probed']),
    ...faults.map(describeFault),
    ...network.outages.map(({ fromMs, toMs }) => `no Redis from ${fromMs.toFixed(0)} to ${toMs.toFixed(0)} ms`),
    ...(network.lossShare > 0 ? [`${(network.lossShare * 100).toFixed(0)} % of messages lost`] : []),
  ].join(', ');
  return {
    policy,
    about,
    options: {
      config: outcome.config,
      endpoints,
      workload,
      speed,
      routers,
      seed,
      sharing,
      network,
      faults,
      estimateError: rng.chance(0.3) ? 0.3 : 0,
      hidden: new Set(rng.chance(0.3) ? [rng.pick(['session', 'prefix', 'promptTokens'])] : []),
      accessLogMs: rng.pick([0, 50, 500]),
      recordLossShare: rng.chance(0.3) ? 0.1 : 0,
      abortShare: rng.chance(0.5) ? 0.2 : 0,
    },
  };
}

/**
 * Makes up a run in which nothing goes wrong but that more comes than can be served, for long: whoever gets nothing then is starved, and
 * seen to be.
 */
export function crowdedRun(seed: number, requestsMax: number): RandomRun {
  const rng = new SeededRng(seed, 'crowded run');
  const policies = presetNames();
  const policy = policies[seed % policies.length] ?? 'sticky';
  const endpoints: EndpointModel[] = simulatedAddresses(3 + rng.below(3)).map((address) => ({ address, profile: small, slowFactor: 1 }));
  const workload = generateWorkload(rng.pick(['bursts', 'spike', 'multi-turn']), { rng, requests: requestsMax });
  // Twenty seconds of it, whatever it was made for.
  const speed = Math.max(1, (workload.requests.at(-1)?.arrivalMs ?? 0) / 20_000);
  const routers = rng.pick([1, 2, 3]);
  const sharing: Sharing = routers === 1 ? 'none' : 'pushed';
  const outcome = simulatedPool({ preset: policy, endpoints, tellKvSize: true, seed, expireAfterMsMax: expireAfterMs });
  if (!outcome.ok) throw new Error(`the configuration of crowded seed ${seed} is wrong: ${JSON.stringify(outcome.problems)}`);
  return {
    policy,
    about: `crowded: ${policy}, ${endpoints.length} x small, ${requestsMax} requests of ${workload.name}, ${routers} routers`,
    options: { ...undisturbed, config: outcome.config, endpoints, workload, speed, routers, seed, sharing },
  };
}

/** The same run with routers that never choose an endpoint. */
export function shunning(run: RandomRun, address: string): RandomRun {
  const { config } = run.options;
  const shun = (target: RouteTarget): RouteTarget => {
    const { policy } = target.pool;
    const filter: Policy['filters'][number] = { name: 'shun', run: (endpoint) => (endpoint.address === address ? 'shunned' : undefined) };
    return { ...target, pool: { ...target.pool, policy: { ...policy, filters: [filter, ...policy.filters] } } };
  };
  const routes = config.table.routes.map((route) => ({ ...route, targets: route.targets.map(shun) }));
  return { ...run, options: { ...run.options, config: { ...config, table: { ...config.table, routes } } } };
}

/** Runs it. What it returns says whether a rule was broken. */
export async function playRandomRun(seed: number, requestsMax: number): Promise<{ readonly run: RandomRun; readonly result: SimulationResult }> {
  const run = randomRun(seed, requestsMax);
  return { run, result: await simulate(run.options) };
}

/** What a broken rule says, with the command that plays the run again. */
export function describeFailure(seed: number, requestsMax: number, { about }: RandomRun, { violations, violationCount }: SimulationResult): string {
  const lines = violations.slice(0, 5).map(({ rule, atMs, message }) => `  ${(atMs / 1_000).toFixed(3)} s ${rule}: ${message}`);
  return `seed ${seed} broke ${violationCount} rules (${about}):\n${lines.join('\n')}\nReplay: npm run sim:soak -- --seed ${seed} --runs 1 --requests ${requestsMax}`;
}

/** Up to three faults of one endpoint, one after the other. */
function randomFaults(rng: SeededRng, address: string, durationMs: number): Fault[] {
  const faults: Fault[] = [];
  let fromMs = rng.chance(0.2) ? 0 : rng.between(0, durationMs);
  do {
    // Some are over in a moment, most take part of the run: what takes seconds to notice has to last for seconds.
    const toMs = fromMs + (rng.chance(0.2) ? rng.between(0, 2_000) : rng.between(0, durationMs / 2));
    faults.push({ ...randomFaultKind(rng), address, fromMs, toMs });
    fromMs = toMs + rng.between(0, durationMs / 3);
  } while (faults.length < 3 && rng.chance(0.4) && fromMs < durationMs);
  return faults;
}

function randomFaultKind(rng: SeededRng): FaultKind {
  const probesPass = rng.chance(0.5);
  switch (rng.below(8)) {
    case 0:
      return { kind: 'down' };
    case 1:
      return { kind: 'restart', loadMs: rng.between(100, 30_000) };
    case 2:
      return { kind: 'flap', periodMs: rng.between(100, 8_000) };
    case 3:
      return { kind: 'slow', factor: rng.chance(0.5) ? 10 : rng.between(1.5, 20) };
    case 4:
      return { kind: 'hang', probesPass };
    case 5:
      return { kind: 'cut', probesPass };
    case 6:
      return { kind: 'fail', share: rng.chance(0.5) ? 1 : rng.draw(), probesPass };
    default:
      return { kind: 'absent' };
  }
}

function randomNetwork(rng: SeededRng, durationMs: number): NetworkModel {
  const meanMs = rng.pick([0.5, 2, 20, 200]);
  const fromMs = rng.between(0, durationMs);
  return {
    gatherMs: rng.between(0, 2),
    delayMs: (chance) => chance.exponential(meanMs),
    lossShare: rng.chance(0.3) ? rng.between(0, 0.3) : 0,
    reorders: rng.chance(0.3),
    outages: rng.chance(0.3) ? [{ fromMs, toMs: fromMs + rng.between(0, durationMs / 2) }] : [],
  };
}
