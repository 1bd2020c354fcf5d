import * as z from 'zod';
import { type Problem, toPath } from '../config/problem.ts';
import { type EngineMetrics, endpointStates } from '../core/fleet-snapshot.ts';
import { prefixBlockTokens } from '../core/request-facts.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import type { FleetPool, FleetView } from '../fleet/fleet-view.ts';
import type { RouteWeights } from '../router/route-weights.ts';

const count = z.number().min(0);
const optionalCount = count.nullish();
const share = z.number().min(0).max(1);
const times = z.strictObject({ mean: count, p95: count, p99: count });

const engine = z.strictObject({
  ageMs: count.default(0),
  requestsRunning: optionalCount,
  requestsQueued: optionalCount,
  kvUsage: share.nullish(),
  kvTokensMax: optionalCount,
  adapters: z.array(z.string()).nullish(),
  adaptersMax: optionalCount,
});
const endpoint = z.strictObject({
  address: z.string(),
  state: z.enum(endpointStates).default('ready'),
  weight: z.number().optional(),
  labels: z.record(z.string(), z.string()).optional(),
  requestsMax: optionalCount,
  requestsInFlight: count.default(0),
  promptTokensInFlight: count.default(0),
  uncachedTokensWaiting: count.default(0),
  fleetRequestsInFlight: count.optional(),
  fleetPromptTokensInFlight: count.optional(),
  fleetRequestsWaiting: count.default(0),
  fleetUncachedTokensWaiting: count.optional(),
  headTokens: count.default(0),
  headAgeMs: optionalCount,
  /** For people: a decision does not go by them. */
  changed: z.unknown().optional(),
  retryInMs: optionalCount,
  standby: z.boolean().optional(),
  trialsFree: count.default(0),
  readyForMs: optionalCount,
  contextTokensMax: optionalCount,
  kvTokensMax: optionalCount,
  latency: z.strictObject({ samples: z.number().min(1), ttftMs: times, tpotMs: times.nullish(), failureShare: share }).nullish(),
  engine: engine.nullish(),
  /** Tokens of the request's prompt that it has cached; only a hand-written file says so. */
  cachedTokens: count.default(0),
});
const pool = z.strictObject({
  name: z.string(),
  cluster: z.string().nullish(),
  policy: z.string().nullish(),
  promptTokensMean: count.optional(),
  endpoints: z.array(endpoint).default([]),
  /** Where the request's session was sent last, if not to its home; only a hand-written file says so. */
  placedOn: z.string().optional(),
});
const route = z.looseObject({
  name: z.string(),
  targets: z.array(z.looseObject({ pool: z.string(), model: z.string().nullish(), weight: count })).default([]),
  shift: z.looseObject({ share }).nullish(),
});

/** A fleet as `/api/v1/fleet` answers it, or as much of it as somebody wrote by hand: what is left out is idle and ready. */
export const fleetFileSchema = z.strictObject({
  router: z.unknown().optional(),
  sharing: z.unknown().optional(),
  routers: z.unknown().optional(),
  routes: z.array(route).default([]),
  pools: z.array(pool).default([]),
});

/** A checked fleet file. */
export type FleetFile = z.output<typeof fleetFileSchema>;
type EndpointState = FleetFile['pools'][number]['endpoints'][number];

/** The request's part in what caches hold and where its session is. */
export interface CachedRequest {
  readonly keyId: string | undefined;
  readonly prefixHashes: readonly number[];
}

/** What the file and the configuration disagree on, or the request cannot make use of: the fleet is explained without. */
export type FleetNote = Problem;

/**
 * Puts a fleet into the state that a file describes. Problems: pools, endpoints and routes that the configuration does not have. Notes:
 * settings that differ there; the configuration's count.
 */
export function applyFleetFile(
  file: FleetFile,
  parts: { readonly fleet: FleetView; readonly weights: RouteWeights; readonly nowMs: number; readonly cached: CachedRequest },
): { readonly problems: readonly Problem[]; readonly notes: readonly FleetNote[] } {
  const problems: Problem[] = [];
  const notes: FleetNote[] = [];
  file.pools.forEach((described, i) => {
    const known = parts.fleet.pool(described.name);
    if (known === undefined) {
      problems.push({ path: toPath(['pools', i, 'name']), message: `the configuration has no pool ${described.name}; it has: ${[...parts.fleet.pools.keys()].join(', ')}` });
      return;
    }
    if (described.promptTokensMean !== undefined) known.learnPromptTokens(described.promptTokensMean);
    described.endpoints.forEach((state, at) => {
      const path = ['pools', i, 'endpoints', at];
      const target = known.endpoint(state.address);
      if (target === undefined) {
        problems.push({ path: toPath([...path, 'address']), message: `${state.address} is not in pool ${described.name} of the configuration` });
        return;
      }
      applyState(state, target, parts.nowMs);
      applyCache(state, known, parts.cached, path, notes);
      for (const setting of ['weight', 'requestsMax', 'contextTokensMax'] as const) {
        const there = state[setting];
        const here = target[setting];
        if (there !== undefined && there !== (here ?? null)) {
          notes.push({ path: toPath([...path, setting]), message: `${there ?? 'none'} there, ${here ?? 'none'} in the configuration, which counts` });
        }
      }
    });
    if (described.placedOn !== undefined && known.endpoint(described.placedOn) === undefined) {
      problems.push({ path: toPath(['pools', i, 'placedOn']), message: `${described.placedOn} is not in pool ${described.name} of the configuration` });
    }
  });
  file.routes.forEach(({ name, targets, shift }, i) => {
    const wrong = parts.weights.set(name, {
      targets: targets.map(({ pool: to, model, weight }) => ({ pool: to, model: model ?? undefined, weight })),
      shiftShare: shift?.share,
    });
    if (wrong !== undefined) problems.push({ path: toPath(['routes', i]), message: wrong });
  });
  return { problems, notes };
}

function applyState(state: EndpointState, endpoint: FleetEndpoint, nowMs: number): void {
  endpoint.state = state.state;
  if (typeof state.readyForMs === 'number') endpoint.readySinceMs = nowMs - state.readyForMs;
  // Whose load it is makes no difference to a decision; all of it is taken for other routers'.
  Object.assign(endpoint.foreign, {
    requests: state.fleetRequestsInFlight ?? state.requestsInFlight,
    promptTokens: state.fleetPromptTokensInFlight ?? state.promptTokensInFlight,
    requestsWaiting: state.fleetRequestsWaiting,
    uncachedTokensWaiting: state.fleetUncachedTokensWaiting ?? state.uncachedTokensWaiting,
  });
  if (state.headTokens > 0) endpoint.line.join('fleet file', state.headTokens, nowMs - (state.headAgeMs ?? 0));
  // Measured times cannot be had back from their summary, so the summary stands in their place.
  const { latency, trialsFree } = state;
  if (trialsFree > 0) Object.defineProperty(endpoint, 'trialsFree', { value: trialsFree, enumerable: true });
  if (latency) Object.defineProperty(endpoint, 'latency', { value: { ...latency, tpotMs: latency.tpotMs ?? undefined }, enumerable: true });
  if (state.engine) endpoint.metrics = toMetrics(state.engine, nowMs);
}

function toMetrics({ ageMs, adapters, ...told }: z.output<typeof engine>, nowMs: number): EngineMetrics {
  return {
    scrapedMs: nowMs - ageMs,
    requestsRunning: told.requestsRunning ?? undefined,
    requestsQueued: told.requestsQueued ?? undefined,
    kvUsage: told.kvUsage ?? undefined,
    kvTokensMax: told.kvTokensMax ?? undefined,
    adapters: adapters ? new Set(adapters) : undefined,
    adaptersMax: told.adaptersMax ?? undefined,
  };
}

/** Has an endpoint's cache hold the beginning of the request's prompt, as if it had been sent there. */
function applyCache(
  { address, cachedTokens }: EndpointState,
  pool: FleetPool,
  { keyId, prefixHashes }: CachedRequest,
  path: readonly PropertyKey[],
  notes: FleetNote[],
): void {
  if (cachedTokens === 0) return;
  if (prefixHashes.length > 0) {
    const blocks = Math.min(prefixHashes.length, Math.floor(cachedTokens / prefixBlockTokens));
    if (blocks > 0) pool.cache.note(address, { keyId: undefined, promptTokens: cachedTokens, prefixHashes: prefixHashes.slice(0, blocks) });
    if (blocks * prefixBlockTokens !== cachedTokens) {
      notes.push({ path: toPath([...path, 'cachedTokens']), message: `taken as ${blocks * prefixBlockTokens}: whole blocks of ${prefixBlockTokens} of this request's prompt` });
    }
  } else if (keyId !== undefined) {
    pool.cache.note(address, { keyId, promptTokens: cachedTokens, prefixHashes: [] });
  } else {
    notes.push({ path: toPath([...path, 'cachedTokens']), message: 'ignored: the request has neither a prompt that was read nor a session to know its cache by' });
  }
}
